"""ipcimg-show --html: what is in the page, that it is only shown, and that its file is whole or not there."""

from __future__ import annotations

import base64
import hashlib
import html.parser
import importlib.util
import io
import os
import pathlib
import re
import signal
import stat
import sys
import tracemalloc
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from ipcimg.errors import DirectoryError, ImageError, IpcimgError
from ipcimg.interrupts import Interrupted
from ipcimg.show import panels, report, source
from ipcimg.show.answer import Answer
from ipcimg.show.drawings import bar, page_map
from ipcimg.show.markup import Markup, escaped, tag, within
from ipcimg.show.pages import Cell
from ipcimg.show.problems import Problems
from ipcimg.show.request import Request, Wanted
from ipcimg.show.subject import Subject
from ipcimg.show.view import View
from tests import hostile, wire

if TYPE_CHECKING:
    from playwright.sync_api import Browser

FIXTURES = pathlib.Path(__file__).parent / "data" / "criu-4.2"
SETS = sorted(path.name for path in FIXTURES.iterdir())
EMPTY = {"br", "meta"}  # elements without an end
# Whatever these are good for, a report has no use for it.
FORBIDDEN = {
    *("script", "img", "iframe", "frame", "object", "embed", "link", "form", "base", "input", "button", "video"),
    *("audio", "template", "noscript", "image", "use", "foreignobject", "animate", "set", "textarea", "select"),
}


# ---- making pages --------------------------------------------------------------------------


@dataclass
class Made:
    """A page, and what was reported while it was made."""

    path: pathlib.Path
    reported: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The page's source."""
        return self.path.read_bytes().decode()


def subjects(paths: Iterable[object], problems: Problems) -> Iterator[Subject]:
    for path in paths:
        yield from problems.within(source.subjects(str(path), None, problems))


def made(where: pathlib.Path, *paths: object, request: Request | None = None) -> Made:
    """The page about these images, in a new file."""
    page = Made(where / "page.html")
    problems = Problems(lambda error: page.reported.append(str(error)))
    report.write(str(page.path), subjects(paths, problems), Answer(request or Request()))
    return page


@pytest.fixture(scope="module")
def of_hostile(tmp_path_factory: pytest.TempPathFactory) -> Made:
    where = tmp_path_factory.mktemp("hostile")
    return made(where, hostile.make(where / "set"))


class Reader(html.parser.HTMLParser):
    """Reads a page as strictly as it can be read: every element that begins ends, in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []  # each with the element that it is in
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs)
        self.elements.append((tag, dict(attrs)))
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")

    def handle_pi(self, data: str) -> None:
        raise AssertionError(f"a processing instruction: {data}")

    def unknown_decl(self, data: str) -> None:
        raise AssertionError(f"a declaration: {data}")

    def within(self, name: str) -> list[str]:
        """All texts that stand right in elements of a name."""
        return [text for element, text in self.texts if element == name]

    @property
    def shown(self) -> str:
        """All text but the style."""
        return "\n".join(text for element, text in self.texts if element != "style")


def visible(text: str) -> str:
    """Text as it is to be shown, by Unicode's categories: what cannot be seen is escaped as Python does it."""
    return "".join(
        c.encode("unicode_escape").decode() if unicodedata.category(c)[0] in "CZ" and c != " " else c for c in text
    )


def line_of(body: bytes) -> str:
    """What is to be seen of a message without opening it."""
    text = visible(body[:512].decode("utf-8", "backslashreplace"))
    return text[:96] + "…" if len(text) > 96 or len(body) > 512 else text


# ---- what a page is ------------------------------------------------------------------------


def check(text: str) -> Reader:
    """The page is well-formed, holds nothing that acts, and its policy allows its one style and nothing else."""
    page = Reader(text)
    assert {name for name, _ in page.elements} & FORBIDDEN == set()
    assert all(c.isprintable() or c == "\n" for c in text)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    for _, attributes in page.elements:
        assert not any(name.startswith("on") or name in ("style", "src", "srcdoc", "action") for name in attributes)
        if "href" in attributes:
            href = attributes["href"] or ""
            assert href[:1] == "#"
            assert href[1:] in ids, href
    style = "".join(page.within("style"))
    allowed = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{allowed}'; base-uri 'none'; form-action 'none'"
    assert [name for name, _ in page.elements][:4] == ["html", "head", "meta", "meta"]
    assert page.elements[2][1] == {"charset": "utf-8"}
    assert page.elements[3][1] == {"http-equiv": "Content-Security-Policy", "content": policy}
    assert [name for name, _ in page.elements].count("style") == 1
    assert sum("http-equiv" in attributes for _, attributes in page.elements) == 1
    assert "url(" not in style
    assert "@import" not in style
    return page


@pytest.mark.parametrize("name", SETS)
def test_fixtures(tmp_path: pathlib.Path, name: str) -> None:
    this = made(tmp_path, FIXTURES / name)
    page = check(this.text)
    assert this.reported == []
    assert "IPC namespace 9" in page.within("h1")
    assert str(FIXTURES / name) in page.shown
    assert "by CRIU, whose inventory is beside it: no ipcimg-manifest-9.img" in page.shown
    assert {"MSGMNI", "SHMALL", "SEMMNS", "MQQUEUES"} <= set(page.within("td"))
    assert "problem" not in {a.get("class") for _, a in page.elements}


def test_content(tmp_path: pathlib.Path) -> None:
    page = check(made(tmp_path, FIXTURES / "basic").text)
    assert page.within("h3") == [
        *("Shared memory segment 0", "Shared memory segment 1", "Message queue 0", "Message queue 1"),
        *("Semaphore set 0", "Semaphore set 1"),
    ]
    assert "8.1K of 16K, 50.7%" in page.within("p")
    # CRIU's images tell no times and no process ids: no table has such a column, each object says so.
    assert {"USEDBYTES", "SIZE", "NSEMS"} <= set(page.within("th"))
    assert set(page.within("th")) & {"LSPID", "CTIME", "NATTCH", "SEMPID"} == set()
    assert page.within("dd").count("–") == 2 * (5 + 6 + 2)
    assert "Messages by type" in page.within("caption")
    assert "5.8K in pages with data · 4K in holes · 0.2% of all bytes are not zero" in page.shown


def test_every_kind_of_image_alone(tmp_path: pathlib.Path) -> None:
    images = sorted((FIXTURES / "basic").glob("*.img"))
    ours = [path for path in images if path.name.startswith(("ipcns-", "pagemap-"))]
    assert len(ours) > 5
    where = hostile.make(tmp_path / "hostile", large=b"")
    this = made(tmp_path, *ours, *sorted(where.glob("i*.img")))
    check(this.text)
    assert this.reported == []


def test_pages_that_are_not_there(tmp_path: pathlib.Path) -> None:
    entry = wire.segment(wire.desc(5), 3 * wire.PAGE)
    image = wire.write(tmp_path, {"x.img": wire.image(wire.SHM, entry)}) / "x.img"
    assert "Its pages are not in this image." in check(made(tmp_path, image).text).within("p")


def test_only_what_is_asked_for(tmp_path: pathlib.Path) -> None:
    page = check(made(tmp_path, FIXTURES / "basic", request=Request(objects=(Wanted("msg", 1, False),))).text)
    assert page.within("h3") == ["Message queue 1"]
    assert page.within("h2") == ["Message queues"]
    assert "2 semaphore sets (8 semaphores)" in page.shown  # that is what the set holds
    (tmp_path / "page.html").unlink()
    page = check(made(tmp_path, FIXTURES / "basic", request=Request(kinds=("sem", "var"))).text)
    assert page.within("h2") == ["Semaphore sets", "Settings"]
    (tmp_path / "page.html").unlink()
    assert check(made(tmp_path, FIXTURES / "basic", request=Request(kinds=("var",))).text).within("h2") == ["Settings"]


def test_facts(tmp_path: pathlib.Path) -> None:
    """What ipcimg's images tell is there: times, processes, who used a semaphore."""
    facts = wire.message({1: 1_790_000_000, 2: 1_790_000_001, 3: b"\x97\x24\0"})
    image = wire.image(wire.SEM, wire.semaphores(wire.desc(), [7, 0], facts))
    page = check(made(tmp_path, wire.write(tmp_path, {"x.img": image}) / "x.img").text)
    assert "2026-09-21 14:13:20" in page.within("dd")
    titles = [attributes.get("title") for name, attributes in page.elements if name == "li"]
    assert "semaphore 0: 7, last used by process 4631" in titles
    assert "semaphore 1: 0, never used" in titles


# ---- how large it becomes ------------------------------------------------------------------


def test_many_objects(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "_IN_FULL", 30)
    monkeypatch.setattr(panels, "_LISTED", 5)
    queues = (wire.queue(wire.desc(n), [(1, b"x%d" % m) for m in range(4)]) for n in range(40))
    image = wire.write(tmp_path, {"x.img": wire.image(wire.MSG, *queues)}) / "x.img"
    page = check(made(tmp_path, image).text)
    assert len(page.within("h3")) == 30
    assert "39" in page.within("td")  # in the table alone: it is no link
    assert "10 more are in the table alone." in page.within("p")
    assert page.within("summary") == ["x0", "x1", "x2", "x3", "x0"]
    assert "3 more are not in this page: " in page.within("p")
    assert "4 more are not in this page: " in page.within("p")
    assert "16 more" in page.within("a")  # of the links at the top


def test_many_runs(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "_RUNS", 3)
    runs = (wire.pages(2 * n * wire.PAGE, 1) for n in range(10))
    image = wire.write(tmp_path, {"x.img": wire.pagemap(4, *runs)}) / "x.img"
    page = check(made(tmp_path, image).text)
    assert "in pages-4.img" in page.within("small")
    assert [text for text in page.within("td") if text.startswith("0x")] == ["0x0", "0x2000", "0x4000"]
    assert "7 more are not in this page." in page.within("p")


def test_memory_and_size(tmp_path: pathlib.Path) -> None:
    """Neither grows with what there is: messages by the ten thousand, semaphores, a segment of a terabyte."""
    files = {
        "ipcns-var-1.img": wire.variables(),
        "ipcns-msg-1.img": wire.image(wire.MSG, wire.queue(wire.desc(), [(n + 1, bytes(600)) for n in range(20_000)])),
        "ipcns-sem-1.img": wire.image(wire.SEM, wire.semaphores(wire.desc(), [n % 9 for n in range(32_000)])),
        "ipcns-shm-1.img": wire.image(wire.SHM, wire.segment(wire.desc(), 1 << 40)),
        "pagemap-shmem-0.img": wire.pagemap(1, *(wire.pages(n << 32, 1) for n in range(200))),
        "pages-1.img": bytes(200 * wire.PAGE),
    }
    wire.write(tmp_path, files)
    made(tmp_path, tmp_path)  # what is imported, and made once
    (tmp_path / "page.html").unlink()
    tracemalloc.start()
    try:
        page = made(tmp_path, tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 12 << 20
    finally:
        tracemalloc.stop()
    check(page.text)
    assert page.reported == []
    assert page.path.stat().st_size < 2 << 20


# ---- what cannot be read -------------------------------------------------------------------


def test_problems(tmp_path: pathlib.Path) -> None:
    """They are in the page where they belong, and all the rest is, too."""
    files = {
        "ipcns-var-1.img": wire.variables(),
        "ipcns-msg-1.img": wire.image(wire.MSG, wire.queue(wire.desc(1), [(1, b"<first>")]), b"\xff\xff"),
        "ipcns-sem-1.img": wire.image(wire.SEM, wire.semaphores(wire.desc(2), [5])),
        "ipcns-shm-1.img": wire.image(wire.SHM, wire.segment(wire.desc(3), 2 * wire.PAGE)),
        "pagemap-shmem-3.img": wire.pagemap(1, wire.pages(0, 2)),
        "pages-1.img": bytes(wire.PAGE),
    }
    where = wire.write(tmp_path / "<b>set", files)
    this = made(tmp_path, where, tmp_path / "not there")
    page = check(this.text)
    assert any("ipcns-msg-1.img" in text for text in this.reported)
    assert any("pages-1.img" in text for text in this.reported)
    assert any("not there" in text for text in this.reported)
    for text in this.reported:
        assert text in page.within("p")
    assert f"What could not be read: {len(this.reported)} problems." in page.shown
    assert "Its pages cannot be read." in page.within("p")
    assert {"Semaphore set 2", "Shared memory segment 3"} <= set(page.within("h3"))
    marked = [attributes.get("id") for _, attributes in page.elements if attributes.get("class") == "problem"]
    assert marked == [f"problem-{n}" for n in range(1, len(this.reported) + 1)]


def test_several(tmp_path: pathlib.Path) -> None:
    page = check(made(tmp_path, *(FIXTURES / name for name in SETS)).text)
    assert page.within("h1") == ["IPC namespace 9"] * len(SETS)


@pytest.mark.parametrize("good", [True, False])
def test_verified(tmp_path: pathlib.Path, good: bool) -> None:
    files = {"ipcns-var-1.img": wire.variables({1000: 1})}
    where = wire.write(tmp_path / "set", {**files, "ipcimg-manifest-1.img": wire.manifest(1, files)})
    if not good:
        wire.write(where, {"ipcns-var-1.img": wire.variables({1000: 1, 2: 8191})})
    page = check(made(tmp_path, where, request=Request(verify=True)).text)
    assert ("every file is as it was written" in page.within("dd")) == good
    assert ("NOT as it was written" in page.within("dd")) != good


# ---- the file ------------------------------------------------------------------------------


def test_file(tmp_path: pathlib.Path) -> None:
    this = made(tmp_path, FIXTURES / "basic")
    assert stat.S_IMODE(this.path.stat().st_mode) == 0o600
    before = this.text
    with pytest.raises(DirectoryError, match=r"page\.html is there already$"):
        made(tmp_path, FIXTURES / "identity")
    assert this.text == before


def test_no_file_is_made_of_nothing(tmp_path: pathlib.Path) -> None:
    this = made(tmp_path, tmp_path / "missing")
    assert len(this.reported) == 1
    assert not this.path.exists()


def fail() -> None:
    raise ImageError("x", None, "is odd")


@pytest.mark.parametrize(
    ("happen", "raised"),
    [
        (fail, ImageError),
        (lambda: os.kill(os.getpid(), signal.SIGTERM), Interrupted),
        (lambda: os.kill(os.getpid(), signal.SIGINT), Interrupted),
    ],
)
def test_no_half_file_is_left(tmp_path: pathlib.Path, happen: Callable[[], None], raised: type[BaseException]) -> None:
    def some() -> Iterator[Subject]:
        for _ in range(9):
            yield from source.subjects(str(FIXTURES / "basic"), None, Problems(print))
        assert (tmp_path / "page").stat().st_size > 0
        happen()

    with pytest.raises(raised):
        report.write(str(tmp_path / "page"), some(), Answer(Request()))
    assert list(tmp_path.iterdir()) == []


def test_no_room(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, really = tmp_path / "page", os.open
    path.touch()

    def opened(name: str, *arguments: Any, **options: Any) -> int:
        return really("/dev/full", os.O_WRONLY) if name == str(path) else really(name, *arguments, **options)

    monkeypatch.setattr(os, "open", opened)
    with pytest.raises(IpcimgError, match=f"^writing {path}: No space left on device$"):
        report.write(str(path), source.subjects(str(FIXTURES / "basic"), None, Problems(print)), Answer(Request()))
    assert not path.exists()


def test_standard_output(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    this, out = made(tmp_path, FIXTURES / "basic"), io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, "ascii"))
    report.write("-", source.subjects(str(FIXTURES / "basic"), None, Problems(print)), Answer(Request()))
    assert out.getvalue().decode() == this.text


# ---- elements and pictures -----------------------------------------------------------------


def test_markup() -> None:
    assert tag("p", "<&>\"'", Markup("<b></b>")) == "<p>&lt;&amp;&gt;&quot;&#x27;<b></b></p>"
    assert tag("p", "a", class_='"><x', aria_label="\u202e", title=None) == (
        '<p class="&quot;&gt;&lt;x" aria-label="\\u202e">a</p>'
    )
    assert tag("br") == "<br>"
    assert "".join(within("p", [tag("b", "<")], id=3)) == '<p id="3"><b>&lt;</b></p>'
    # What str's methods make of markup is text again: it is visibly escaped, not obeyed.
    assert tag("p", Markup("<b>") + "<script>") == "<p>&lt;b&gt;&lt;script&gt;</p>"


@pytest.mark.parametrize("text", ["\0", "\x1b[31m", "\x9b", "\u202a", "\u2066", "\u2028", "\udc80", "\ufeff", "\n"])
def test_nothing_invisible_is_left(text: str) -> None:
    assert escaped(f"a{text}b") == f"a{visible(text)}b"


@pytest.mark.parametrize(
    ("part", "whole", "width", "look"),
    [(0, 0, "0.00%", "part"), (1, 4, "25.00%", "part"), (19, 20, "95.00%", "full"), (9, 3, "100.00%", "full")],
)
def test_bar(part: int, whole: int, width: str, look: str) -> None:
    drawn = bar(part, whole, "what it is")
    assert f'<rect class="{look}" width="{width}" height="100%">' in drawn
    assert 'aria-label="what it is"' in drawn


def test_page_map() -> None:
    """Boxes of the same look are one, rows are as long as the map needs, the last one may be shorter."""
    page = wire.PAGE
    cells = [Cell(n * page, page) for n in range(60)]
    cells += [Cell(60 * page, page, zeros=page), Cell(61 * page, page, data=page, busy=1)]
    cells += [Cell((62 + n) * page, page, data=page, busy=page) for n in range(4)]
    read = Reader(page_map(cells, View()))
    boxes = [(a["class"], a["x"], a["width"]) for name, a in read.elements if name == "rect" and "x" in a]
    assert boxes == [
        *(
            ("hole", "0", "60"),
            ("zeros", "60", "1"),
            ("level1", "61", "1"),
            ("level4", "62", "2"),
            ("level4", "0", "2"),
        ),
    ]
    assert read.within("th") == ["0x00000", "0x40000"]
    assert read.within("title")[0] == ("0x0 to 0x3c000: 240K in holes, 0.0% of all bytes are not zero")


# ---- what is hostile -----------------------------------------------------------------------


def expected_lines(large: bytes) -> Sequence[str]:
    return [line_of(body) for body in (*hostile.PAYLOADS, large)]


def test_hostile_without_a_browser(of_hostile: Made) -> None:
    assert of_hostile.reported == []
    page = check(of_hostile.text)
    assert page.within("summary") == expected_lines(hostile.LARGE)
    for text in hostile.MARKUP:
        assert page.within("dd").count(text) == 1  # what moved
    directory = "/".join(map(os.fsdecode, hostile.DIRECTORIES))
    assert any(text.endswith(visible(directory)) for text in page.within("p"))
    assert any(visible(directory) in text for text in page.within("title"))
    assert f"a part of its namespace: {hostile.MARKUP[2]}\\u202e\\x1b[31m\\x00" in page.within("dd")
    assert of_hostile.path.stat().st_size < 256 << 10


CHROMIUM = "/usr/bin/chromium"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not os.path.exists(CHROMIUM) or importlib.util.find_spec("playwright") is None:
        reason = "chromium or playwright is missing: NOT LOOKED AT (apt-get install chromium; pip install playwright)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        rights = ["--no-sandbox"] if os.getuid() == 0 else []  # root has none to lose
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=rights)
        yield chromium
        chromium.close()


@dataclass
class Seen:
    """What a browser did with a page."""

    ran: list[str] = field(default_factory=list)  # scripts of the page
    requests: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)  # on the console, errors, dialogs
    violations: list[str] = field(default_factory=list)  # of the policy
    answers: list[Any] = field(default_factory=list)


def look(browser: Browser, path: pathlib.Path, *questions: str, width: int = 1200, scheme: Any = "light") -> Seen:
    """Open a page, do to it what a reader can do, and ask questions in JavaScript, which the policy does not bind."""
    seen = Seen()
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    page.expose_function("canary", lambda script: seen.ran.append(script))
    page.expose_function("violated", lambda directive: seen.violations.append(directive))
    page.add_init_script("addEventListener('securitypolicyviolation', event => violated(event.violatedDirective))")
    page.on("request", lambda request: seen.requests.append(request.url))
    page.on("console", lambda message: seen.said.append(message.text))
    page.on("pageerror", lambda error: seen.said.append(str(error)))
    page.on("dialog", lambda dialog: seen.said.append(dialog.message))
    page.goto(path.as_uri(), wait_until="load")
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    for _ in range(20):
        page.keyboard.press("Tab")
    page.mouse.move(width / 2, 300)
    page.mouse.wheel(0, 2000)
    page.mouse.move(width / 3, 200)
    page.wait_for_timeout(300)  # what is late has its chance
    seen.answers = [page.evaluate(question) for question in questions]
    context.close()
    return seen


ACTING = f"document.querySelectorAll('{','.join(sorted(FORBIDDEN))},[style],[src],[srcdoc]').length"
HANDLERS = "[...document.all].flatMap(one => one.getAttributeNames()).filter(name => name.startsWith('on'))"
LINKS = "[...document.querySelectorAll('[href]')].filter(one => !one.getAttribute('href').startsWith('#')).length"
LINES = "[...document.querySelectorAll('summary')].map(one => one.textContent)"
DUMPS = "[...document.querySelectorAll('details')].map(one => one.querySelector('pre:not(.text)').textContent)"
SHEETS = "[...document.styleSheets].map(one => one.ownerNode.localName)"
STYLED = "getComputedStyle(document.body).maxWidth"
TITLE = "document.title"
WIDTH = "document.documentElement.scrollWidth"
PAPER = "getComputedStyle(document.body).backgroundColor"


def undumped(dump: str) -> bytes:
    """The bytes of a hex dump: * is for more rows like the one before, the last line is the end."""
    *rows, end = dump.strip().split("\n")
    found = b""
    for row, following in zip(rows, [*rows[1:], end], strict=True):
        if row == "*":
            found += found[-16:] * ((int(following[:8], 16) - len(found)) // 16)
        else:
            found += bytes.fromhex(row[10:58])
    assert len(found) == int(end, 16)
    return found


def test_hostile_in_a_browser(browser: Browser, of_hostile: Made) -> None:
    seen = look(browser, of_hostile.path, ACTING, HANDLERS, LINKS, LINES, DUMPS, SHEETS, STYLED, TITLE)
    assert (seen.ran, seen.said, seen.violations) == ([], [], [])
    assert seen.requests == [of_hostile.path.as_uri()]
    acting, handlers, links, lines, dumps, sheets, styled, title = seen.answers
    assert (acting, handlers, links, sheets, styled) == (0, [], 0, ["style"], "1216px")
    assert lines == expected_lines(hostile.LARGE)
    assert title.startswith("IPC namespace 1 · ")
    assert title.endswith(visible("/".join(map(os.fsdecode, hostile.DIRECTORIES))))
    for dump, body in zip(dumps, (*hostile.PAYLOADS, hostile.LARGE), strict=True):
        assert undumped(dump) == body[:512]


@pytest.mark.parametrize("width", [400, 1200])
@pytest.mark.parametrize("name", SETS)
def test_fixtures_in_a_browser(browser: Browser, tmp_path: pathlib.Path, name: str, width: int) -> None:
    page = made(tmp_path, FIXTURES / name)
    seen = look(browser, page.path, ACTING, WIDTH, width=width)
    assert (seen.ran, seen.said, seen.violations) == ([], [], [])
    assert seen.requests == [page.path.as_uri()]
    assert seen.answers == [0, width]


def test_hostile_is_not_wider_than_the_window(browser: Browser, of_hostile: Made) -> None:
    assert look(browser, of_hostile.path, WIDTH, width=400).answers == [400]


def test_light_and_dark(browser: Browser, of_hostile: Made) -> None:
    colours = [look(browser, of_hostile.path, PAPER, scheme=scheme).answers[0] for scheme in ("light", "dark")]
    assert colours == ["rgb(251, 251, 250)", "rgb(20, 23, 26)"]


def test_a_problem_is_said_at_the_top(browser: Browser, tmp_path: pathlib.Path, of_hostile: Made) -> None:
    notice = "getComputedStyle(document.querySelector('.notice')).display"
    assert look(browser, of_hostile.path, notice).answers == ["none"]
    wire.write(tmp_path, {"x.img": wire.image(wire.MSG, wire.queue(wire.desc()), b"\xff")})
    assert look(browser, made(tmp_path, tmp_path / "x.img").path, notice).answers == ["block"]


# ---- would it be noticed? ------------------------------------------------------------------


def as_it_is(text: str) -> Markup:
    return Markup(text)


def without_policy(page: str) -> str:
    return re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)


@pytest.mark.parametrize(("change", "runs"), [(without_policy, True), (str, False)])
def test_what_is_not_escaped_is_noticed(
    browser: Browser, tmp_path: pathlib.Path, of_hostile: Made, change: Callable[[str], str], runs: bool
) -> None:
    """A page that escapes nothing is caught by these tests; and its policy alone is enough for no script to run."""
    page = tmp_path / "page.html"
    page.write_text(change(of_hostile.text).replace("<body>", f"<body>{hostile.MARKUP[0]}{hostile.MARKUP[1]}>"))
    seen = look(browser, page, ACTING)
    assert ("script" in seen.ran) == runs
    assert (seen.violations == []) == runs
    assert seen.answers[0] > 0
    with pytest.raises(AssertionError):
        check(page.read_text())
