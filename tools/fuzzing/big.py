"""Big images: of what is usually small or few."""

from __future__ import annotations

import random
from collections.abc import Callable

from tests import wire

from .corpus import PAGE, Node, Sparse


def big(rng: random.Random) -> tuple[str, Node]:
    """An image of up to 2 MiB, of something that is usually small or few, and its kind."""
    size = rng.choice((1 << 14, 1 << 16, 1 << 18, 1 << 20, 2 << 20)) - 64
    small = rng.choice(
        (wire.field(30, 1), wire.field(30, b""), b"\xf3\x01" * 60 + b"\xf4\x01" * 60, wire.field(13, b""))
    )
    many, long = small * (size // len(small)), rng.choice((b"a", b"\xff", b"\x1b", b"\n", b"\0")) * size
    desc, end = wire.desc(5), wire.message({16: b"sha256"})
    manifest = wire.unsealed(wire.manifest(1, {}))[12:]

    inline = wire.image(wire.SHM, wire.entry(wire.message({1: desc, 2: 1 << 40})))

    def listed(names: int) -> bytes:
        digest = b"d" * rng.choice((0, 16))
        return b"".join(wire.field(13, wire.message({1: b"pages-%d.img" % n, 2: n, 3: digest})) for n in range(names))

    shapes: tuple[tuple[str, Callable[[], Node]], ...] = (
        ("var", lambda: wire.image(wire.VAR, wire.entry(wire.message({1: b"\1" * size})))),
        ("var", lambda: wire.variables() + wire.entry(many)),
        ("var", lambda: wire.image(wire.VAR, wire.entry(wire.variables()[12:] + many))),
        ("var", lambda: wire.image(wire.VAR, wire.entry(b"\xf3\x01" * (size // 2)))),
        ("ids", lambda: wire.image(wire.IDS, wire.entry(wire.ids(3)[12:] + many))),
        ("msg", lambda: wire.image(wire.MSG, wire.queue(desc, [(1, b"")] * (size // 8)))),
        ("msg", lambda: wire.image(wire.MSG, wire.queue(desc, [(1, long)]))),
        ("msg", lambda: wire.image(wire.MSG, wire.queue(desc, [(1, b"x")]) * (size // 60))),
        ("msg", lambda: wire.image(wire.MSG, wire.entry(wire.message({1: desc, 2: 1, 3: 0}) + many))),
        ("msg", lambda: wire.image(wire.MSG, wire.entry(wire.message({1: desc, 2: 1, 3: 1})), wire.entry(many))),
        ("sem", lambda: wire.image(wire.SEM, wire.semaphores(desc, [1] * (size // 2)))),
        (
            "sem",
            lambda: wire.image(
                wire.SEM, wire.semaphores(desc, [7] * (size // 3), wire.message({3: b"\7" * (size // 3)}))
            ),
        ),
        ("sem", lambda: wire.image(wire.SEM, wire.semaphores(desc, [1], wire.message({3: b"\7" * size})))),
        ("sem", lambda: wire.image(wire.SEM, wire.semaphores(desc, [1]) * (size // 40))),
        ("shm", lambda: wire.image(wire.SHM, wire.entry(wire.message({1: desc, 2: size})), wire.padded(long, 4))),
        ("shm", lambda: Sparse(inline, len(inline) + (1 << 40))),
        ("shm", lambda: wire.image(wire.SHM, wire.segment(desc, 1) * (size // 30))),
        ("shm", lambda: wire.image(wire.SHM, wire.segment(desc, 1, None, many))),
        ("pagemap", lambda: wire.pagemap(1, *(wire.pages(n * PAGE, 1) for n in range(size // 20)))),
        ("pagemap", lambda: wire.pagemap(1, wire.entry(wire.message({1: 0, 2: 1}) + many))),
        ("pagemap", lambda: wire.pagemap(1, wire.entry(wire.message({1: 0, 2: 1}) + many[: 60 << 10]))),
        ("pagemap", lambda: wire.pagemap(1, wire.entry(wire.message({1: 0, 2: 1}) + wire.field(6, 1) * (size // 2)))),
        ("pagemap", lambda: wire.pagemap(1, wire.entry(b"".join(wire.field(n, 1) for n in range(6, size // 4))))),
        ("manifest", lambda: wire.seal(wire.image(wire.MANIFEST, wire.entry(manifest + listed(size // 20))))),
        ("manifest", lambda: wire.seal(wire.image(wire.MANIFEST, wire.entry(manifest + many)))),
        ("manifest", lambda: wire.image(wire.MANIFEST, wire.entry(many))),
        ("manifest", lambda: wire.image(wire.MANIFEST, wire.entry(many[: 60 << 10]))),
        ("manifest", lambda: wire.manifest(1, {}, {rng.choice((2, 4, 5, 14, 16)): long})),
        ("manifest", lambda: wire.seal(wire.image(wire.MANIFEST, wire.entry(manifest + wire.field(13, long) + end)))),
        ("manifest", lambda: wire.manifest(1, {}) + wire.entry(many)),
    )
    kind, made = rng.choice(shapes)
    return kind, made()
