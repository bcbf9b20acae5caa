from . import criu_pb2 as _criu_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor
QUEUE_FIELD_NUMBER: _ClassVar[int]
queue: _descriptor.FieldDescriptor
SEMAPHORES_FIELD_NUMBER: _ClassVar[int]
semaphores: _descriptor.FieldDescriptor
SEGMENT_FIELD_NUMBER: _ClassVar[int]
segment: _descriptor.FieldDescriptor
HAS_MANIFEST_FIELD_NUMBER: _ClassVar[int]
has_manifest: _descriptor.FieldDescriptor
OWN_INVENTORY_FIELD_NUMBER: _ClassVar[int]
own_inventory: _descriptor.FieldDescriptor
OWN_STATS_FIELD_NUMBER: _ClassVar[int]
own_stats: _descriptor.FieldDescriptor

class queue_facts(_message.Message):
    __slots__ = ("cbytes", "stime", "rtime", "ctime", "lspid", "lrpid")
    CBYTES_FIELD_NUMBER: _ClassVar[int]
    STIME_FIELD_NUMBER: _ClassVar[int]
    RTIME_FIELD_NUMBER: _ClassVar[int]
    CTIME_FIELD_NUMBER: _ClassVar[int]
    LSPID_FIELD_NUMBER: _ClassVar[int]
    LRPID_FIELD_NUMBER: _ClassVar[int]
    cbytes: int
    stime: int
    rtime: int
    ctime: int
    lspid: int
    lrpid: int
    def __init__(self, cbytes: _Optional[int] = ..., stime: _Optional[int] = ..., rtime: _Optional[int] = ..., ctime: _Optional[int] = ..., lspid: _Optional[int] = ..., lrpid: _Optional[int] = ...) -> None: ...

class semaphore_facts(_message.Message):
    __slots__ = ("otime", "ctime", "sempid")
    OTIME_FIELD_NUMBER: _ClassVar[int]
    CTIME_FIELD_NUMBER: _ClassVar[int]
    SEMPID_FIELD_NUMBER: _ClassVar[int]
    otime: int
    ctime: int
    sempid: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, otime: _Optional[int] = ..., ctime: _Optional[int] = ..., sempid: _Optional[_Iterable[int]] = ...) -> None: ...

class segment_facts(_message.Message):
    __slots__ = ("atime", "dtime", "ctime", "cpid", "lpid", "nattch")
    ATIME_FIELD_NUMBER: _ClassVar[int]
    DTIME_FIELD_NUMBER: _ClassVar[int]
    CTIME_FIELD_NUMBER: _ClassVar[int]
    CPID_FIELD_NUMBER: _ClassVar[int]
    LPID_FIELD_NUMBER: _ClassVar[int]
    NATTCH_FIELD_NUMBER: _ClassVar[int]
    atime: int
    dtime: int
    ctime: int
    cpid: int
    lpid: int
    nattch: int
    def __init__(self, atime: _Optional[int] = ..., dtime: _Optional[int] = ..., ctime: _Optional[int] = ..., cpid: _Optional[int] = ..., lpid: _Optional[int] = ..., nattch: _Optional[int] = ...) -> None: ...

class manifest_file(_message.Message):
    __slots__ = ("name", "size", "digest")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    name: str
    size: int
    digest: bytes
    def __init__(self, name: _Optional[str] = ..., size: _Optional[int] = ..., digest: _Optional[bytes] = ...) -> None: ...

class manifest_parent(_message.Message):
    __slots__ = ("ipc_ns_id", "digest", "pages")
    IPC_NS_ID_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    PAGES_FIELD_NUMBER: _ClassVar[int]
    ipc_ns_id: int
    digest: bytes
    pages: int
    def __init__(self, ipc_ns_id: _Optional[int] = ..., digest: _Optional[bytes] = ..., pages: _Optional[int] = ...) -> None: ...

class manifest_entry(_message.Message):
    __slots__ = ("version", "tool", "created", "kernel", "machine", "page_size", "ipc_ns_id", "queues", "messages", "semaphore_sets", "segments", "pages", "files", "digest_algorithm", "consistency", "compared", "moved", "selection", "variables_meant", "parent")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TOOL_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    KERNEL_FIELD_NUMBER: _ClassVar[int]
    MACHINE_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    IPC_NS_ID_FIELD_NUMBER: _ClassVar[int]
    QUEUES_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    SEMAPHORE_SETS_FIELD_NUMBER: _ClassVar[int]
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    PAGES_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    DIGEST_ALGORITHM_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    COMPARED_FIELD_NUMBER: _ClassVar[int]
    MOVED_FIELD_NUMBER: _ClassVar[int]
    SELECTION_FIELD_NUMBER: _ClassVar[int]
    VARIABLES_MEANT_FIELD_NUMBER: _ClassVar[int]
    PARENT_FIELD_NUMBER: _ClassVar[int]
    version: int
    tool: str
    created: int
    kernel: str
    machine: str
    page_size: int
    ipc_ns_id: int
    queues: int
    messages: int
    semaphore_sets: int
    segments: int
    pages: int
    files: _containers.RepeatedCompositeFieldContainer[manifest_file]
    digest_algorithm: str
    consistency: str
    compared: int
    moved: _containers.RepeatedScalarFieldContainer[str]
    selection: str
    variables_meant: bool
    parent: manifest_parent
    def __init__(self, version: _Optional[int] = ..., tool: _Optional[str] = ..., created: _Optional[int] = ..., kernel: _Optional[str] = ..., machine: _Optional[str] = ..., page_size: _Optional[int] = ..., ipc_ns_id: _Optional[int] = ..., queues: _Optional[int] = ..., messages: _Optional[int] = ..., semaphore_sets: _Optional[int] = ..., segments: _Optional[int] = ..., pages: _Optional[int] = ..., files: _Optional[_Iterable[_Union[manifest_file, _Mapping]]] = ..., digest_algorithm: _Optional[str] = ..., consistency: _Optional[str] = ..., compared: _Optional[int] = ..., moved: _Optional[_Iterable[str]] = ..., selection: _Optional[str] = ..., variables_meant: bool = ..., parent: _Optional[_Union[manifest_parent, _Mapping]] = ...) -> None: ...

class manifest_seal(_message.Message):
    __slots__ = ("digest",)
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    digest: bytes
    def __init__(self, digest: _Optional[bytes] = ...) -> None: ...
