"""Contents in which there is some of everything, made by hand; their times, pids and owners are always the same."""

from __future__ import annotations

import array
from dataclasses import dataclass

from ipcimg import model

NOON = 1699963200  # 2023-11-14, 12:00:00 UTC
PAGE = 4096


@dataclass(frozen=True, slots=True)
class Extent:
    """A run of data in memory."""

    offset: int
    data: bytes

    @property
    def length(self) -> int:
        return len(self.data)

    def read_into(self, view: memoryview, start: int = 0) -> None:
        view[:] = self.data[start : start + len(view)]


def _permissions(object_id: int, key: int, mode: int = 0o600, uid: int = 1000) -> model.Permissions:
    return model.Permissions(key, uid, 100, 0, 33, mode, object_id)


def _queue(
    object_id: int, key: int, qbytes: int, bodies: list[tuple[int, bytes]], received: bool
) -> model.MessageQueue:
    messages = [model.Message(type_, body) for type_, body in bodies]
    used = sum(len(message.body) for message in messages)
    facts = model.QueueFacts(used, NOON + 60, NOON + 30 if received else 0, NOON, 4711, 4712 if received else 0)
    return model.MessageQueue(_permissions(object_id, key, 0o640), qbytes, len(messages), messages, facts)


def _page(byte: bytes) -> bytes:
    return byte * PAGE


def contents() -> model.Contents:
    """Queues that are full, in use and empty; segments that are sparse, dense and of zeros; sets."""
    orders = [(n % 5 + 1, b'{"order": %d, "items": "%s"}' % (n, b"*" * (n % 7 * 10))) for n in range(24)]
    odd = [(1, b""), (1 << 62, bytes(range(256))), (7, b"\33[31mred\33[m and \33]0;title\7"), (7, "naïve ☃".encode())]
    text = b"hello from the first page".ljust(PAGE, b"\0")
    sparse = [Extent(0, text + _page(b"\xa5")), Extent(1 << 20, _page(b"h") + b"x".ljust(PAGE, b"\0"))]
    return model.Contents(
        model.Variables(
            (32000, 1024000000, 500, 32000),
            8192,
            16384,
            32000,
            0,
            2**64 - 1 - 2**24,
            2**64 - 1 - 2**24,
            4096,
            0,
            256,
            10,
            8192,
            10,
            8192,
            sem_next_id=77,
        ),
        [
            model.SharedMemory(
                _permissions(3, 0x1234), 2 << 20, sparse, None, model.SegmentFacts(NOON, 0, NOON, 4711, 4712, 2)
            ),
            model.SharedMemory(
                _permissions(4, 0, 0o1666),
                5000,
                [Extent(0, b"x" * 2 * PAGE)],
                None,
                model.SegmentFacts(0, NOON, NOON, 4711, 4713, 0),
            ),
            model.SharedMemory(
                _permissions(65541, 0x99), 1 << 40, [], None, model.SegmentFacts(0, 0, NOON, 4714, 0, 0)
            ),
        ],
        [
            _queue(0, 0xC0FFEE1, 16384, orders, received=True),
            _queue(6, 0xC0FFEE2, 16384, [], received=True),
            _queue(32775, 0, 1000, [(3, b"y" * 310)] * 3, received=False),
            _queue(8, 0x77, 4096, odd, received=True),
        ],
        [
            model.SemaphoreSet(
                _permissions(1, 0x77), array.array("H", [1, 0, 32767]), model.SemaphoreFacts(NOON, NOON, (11, 12, 0))
            ),
            model.SemaphoreSet(
                _permissions(2, 0), array.array("H", range(20)), model.SemaphoreFacts(0, NOON, (0,) * 20)
            ),
        ],
    )
