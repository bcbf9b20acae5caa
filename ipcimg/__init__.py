"""Carry a System V IPC namespace: dump it into CRIU-compatible images, and restore it from them.

    import ipcimg

    with ipcimg.of_process(1234) as source:
        ipcimg.dump("images", source)

    for queue in ipcimg.load("images").queues:
        print(queue.permissions.id, queue.qnum, [message.type for message in queue.messages])

    with ipcimg.new() as target:
        ipcimg.restore("images", target)
        target.pin("/run/my-namespace")

dump() and restore() move the calling thread into the namespace for the time of the call, and
restore() changes settings of the target namespace meanwhile; do not run two of them at once in one
thread. Everything that goes wrong is an IpcimgError.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = [
    "ChangedError",
    "ConflictError",
    "Consistency",
    "Contents",
    "Counts",
    "DirectoryError",
    "Dumped",
    "Extent",
    "ImageError",
    "IpcNamespace",
    "IpcimgError",
    "KernelError",
    "LossError",
    "Message",
    "MessageQueue",
    "NamespaceError",
    "ObjectError",
    "Permissions",
    "QueueFacts",
    "Recovered",
    "Restored",
    "SegmentFacts",
    "Selection",
    "SemaphoreFacts",
    "SemaphoreSet",
    "SharedMemory",
    "Variables",
    "at_path",
    "dump",
    "load",
    "new",
    "of_process",
    "own",
    "recover",
    "restore",
    "save",
]

if TYPE_CHECKING:
    from .dump import Dumped, dump
    from .errors import (
        ChangedError,
        ConflictError,
        DirectoryError,
        ImageError,
        IpcimgError,
        KernelError,
        LossError,
        NamespaceError,
        ObjectError,
    )
    from .imageset import load, save
    from .manifest import Consistency
    from .model import (
        Contents,
        Counts,
        Extent,
        Message,
        MessageQueue,
        Permissions,
        QueueFacts,
        SegmentFacts,
        SemaphoreFacts,
        SemaphoreSet,
        SharedMemory,
        Variables,
    )
    from .namespace import IpcNamespace, at_path, new, of_process, own
    from .recover import Recovered, recover
    from .restore import Restored, restore
    from .selection import Selection


class _Package(ModuleType):
    """Keeps the import of the submodules dump and restore from hiding the functions of these names."""

    def __setattr__(self, name: str, value: object) -> None:
        if name in ("dump", "recover", "restore") and isinstance(value, ModuleType):
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    # Names are found when they are asked for: `ipcimg-show` starts without the kernel's side.
    if name in __all__:
        from importlib import import_module

        for module in (
            "errors",
            "model",
            "selection",
            "manifest",
            "imageset",
            "namespace",
            "dump",
            "restore",
            "recover",
        ):
            found = vars(import_module(f"{__name__}.{module}")).get(name)
            if found is not None:
                globals()[name] = found
                return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
