"""A set of images whose every text and payload tries to become part of the page that shows it.

There is nothing wrong with its numbers, so all of it is shown.
"""

from __future__ import annotations

import hashlib
import os
import pathlib
import struct

from tests import wire

# Whatever runs calls canary(), which a test lets the page have.
MARKUP = (
    "<script>canary('script')</script>",
    "\"><img src=x onerror=canary('img')>",
    "'><svg onload=canary('svg')>",
    "</style><script>canary('style')</script>",
    "</title></pre></summary></details><script>canary('title')</script>",
    "<!-- --!> <![CDATA[ ]]> <?x?>",
    "&lt;script&gt;canary('twice')&lt;/script&gt;",
    '" onmouseover="canary(\'on\')" style="display:none',
    "<iframe srcdoc=\"<script>parent.canary('frame')</script>\"></iframe>",
    '<meta http-equiv=refresh content="0;url=http://127.0.0.1:9/">',
    '<base href="http://127.0.0.1:9/"><link rel=stylesheet href=//127.0.0.1:9/x.css>',
    "<form action=javascript:canary('form')><input autofocus onfocus=canary('focus')></form>",
    "<object data=x></object><embed src=x><template><b></template><noscript><p>",
)
CONTROLS = (
    b"\x1b[31mred\x1b]0;title\x07",
    b"nul \0 bell \a back \b",
    "right \u202e to \u2066 left \u2069 zero\u200bwidth\ufeff".encode(),
    b"\xff\xfe invalid \xc3\x28 \xed\xa0\x80",
    ("piled up e" + "\u0301\u0316" * 120).encode(),
    b"two\r\nlines\n\tand a tab \x85\xe2\x80\xa8",
)
PAYLOADS = (*(text.encode() for text in MARKUP), *CONTROLS)
LARGE = b"<script>canary('large')</script>" * 327_680  # 10 MB
# Names of files have no "/", so that of a directory is made of two.
DIRECTORIES = (
    os.fsencode("\"><img src=x onerror=canary('dir')>\u202e") + b"\xff\x1b[31m",
    b"a<",
    b"style><script>canary('dir')<",
    b"script>",
)


def make(where: pathlib.Path, large: bytes = LARGE) -> pathlib.Path:
    """Write the set below where; the directory that it is in."""
    directory = where
    for name in DIRECTORIES:
        directory /= os.fsdecode(name)
    directory.mkdir(parents=True)
    types = ((1 << 63) - 1, 7, 1)
    messages = [(types[n % 3], body) for n, body in enumerate((*PAYLOADS, b"", large))]
    facts = wire.message({1: sum(len(body) for _, body in messages), 2: 1 << 62, 3: 0, 4: 1, 5: -1, 6: 0})
    files = {
        "ipcns-var-1.img": wire.variables({1000: 1}),
        "ipcns-msg-1.img": wire.image(
            wire.MSG, wire.queue(wire.desc(7, 0x3C73637D, mode=0o777), messages, 4096, facts)
        ),
        "ipcns-sem-1.img": wire.image(wire.SEM, wire.semaphores(wire.desc(1), [0, 1, 32767])),
        "ipcns-shm-1.img": wire.image(wire.SHM, wire.segment(wire.desc(3), 3 * wire.PAGE)),
        "pagemap-shmem-3.img": wire.pagemap(1, wire.pages(wire.PAGE, 1)),
        "pages-1.img": wire.padded(PAYLOADS[0], wire.PAGE),
    }
    counts = {8: 1, 9: len(messages), 10: 1, 11: 1, 12: 1}
    texts = {2: MARKUP[0], 4: MARKUP[3], 5: MARKUP[1], 14: MARKUP[2] + "\u202e\x1b[31m\0", 17: "inconsistent"}
    changes: dict[int, int | bytes] = {**counts, **{number: text.encode() for number, text in texts.items()}}
    image = wire.manifest(1, files, changes)
    return wire.write(directory, {**files, "ipcimg-manifest-1.img": _moved(image)})


def _moved(manifest: bytes) -> bytes:
    """The manifest with all of MARKUP as sentences about what moved."""
    (length,) = struct.unpack_from("<I", manifest, 8)
    fields = manifest[12 : 12 + length] + b"".join(wire.field(19, text.encode()) for text in MARKUP)
    data = wire.image(wire.MANIFEST, wire.entry(fields))
    return data + wire.entry(wire.message({1: hashlib.sha256(data).digest()}))
