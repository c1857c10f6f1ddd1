"""Find the code blocks of the documentation pages, and run them as a reader would.

A block is fenced and names its language. A comment above it says what to do with it:

    <!-- file: power.py -->      save it under this name, then run it (tests with pytest)
    <!-- output -->              compare it with the output of the block before
    <!-- not run: a reason -->   nothing
    <!-- not run (vector): a reason -->   anywhere in a page: skip all blocks of that language

All other blocks run unchanged: Python with `python`, `sh` with a shell. An exporter that a shell
block starts runs until the page ends, as in a second terminal.
"""

from __future__ import annotations

import contextlib
import functools
import http.server
import os
import re
import signal
import subprocess
import sys
import threading
import tty
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ports import free_port
from processes import PATIENCE, running

__all__ = [
    "PAGES",
    "ROOT",
    "Block",
    "Reader",
    "anchors",
    "blocks_of",
    "indented_code",
    "links",
    "page_reader",
]

ROOT: Final = Path(__file__).parents[1]
PAGES: Final = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
}
TIMEOUT: Final = 60.0  # seconds for a block that takes one or two

_FENCED: Final = re.compile(
    r"^(?:<!-- (?P<note>(?:file|output|not run)[^(\n]*?) -->\n)?"
    r"```(?P<language>[\w{}-]*)[^\n]*\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)

_SKIPPED_LANGUAGE: Final = re.compile(r"^<!-- not run \((\w+)\): \S.{10,} -->$", re.MULTILINE)
_INDENTED: Final = re.compile(r"(?:\A|(?<=\n\n)) {4,}\S.*")
_HEADING: Final = re.compile(r"^#+ (.+)$", re.MULTILINE)
_LINK: Final = re.compile(r"\]\(([^)\s]+)\)")
_CODE: Final = re.compile(r"`[^`\n]*`")
_ANSWERS: Final = {b"uname -s": b"Linux\r\n"}  # of the board, to commands
_SERVES: Final = "python -m jumpstarter serve"


@dataclass(frozen=True, kw_only=True)
class Block:
    """One block of a page.

    Attributes:
        where: The page and line, in the form that editors open.
        language: The language that its fence names.
        text: Its content.
        note: `file`, `output` or `not run`; empty without a comment.
        detail: The name of the file, or the reason.
    """

    where: str
    language: str
    text: str
    note: str
    detail: str


def blocks_of(page: str) -> list[Block]:
    """Return the blocks of a page, in order."""
    text = PAGES[page]
    skipped = set(_SKIPPED_LANGUAGE.findall(text))
    blocks = []
    for match in _FENCED.finditer(text):
        note, _, detail = (match["note"] or "").partition(":")
        if match["language"] in skipped:
            note, detail = "not run", "skipped for the whole page"
        where = f"{page}:{text.count(chr(10), 0, match.start('language')) + 1}"
        blocks.append(
            Block(
                where=where,
                language=match["language"],
                text=match["text"],
                note=note.strip(),
                detail=detail.strip(),
            )
        )
    return blocks


def indented_code(page: str) -> list[str]:
    """Return the first lines of code that is marked only by four spaces of indentation."""
    return _INDENTED.findall(_FENCED.sub("", PAGES[page]))


def links(text: str) -> list[str]:
    """Return the targets of a page's links to other pages, to its own headings, and to files."""
    targets = _LINK.findall(_CODE.sub("", _FENCED.sub("", text)))
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub and the documentation site give the headings of a page."""
    headings = (heading.lower() for heading in _HEADING.findall(_FENCED.sub("", text)))
    return {re.sub(r"[^\w\- ]", "", heading).strip().replace(" ", "-") for heading in headings}


def _timeless(output: str) -> list[str]:
    """Return the words of an output, without the time that pytest took."""
    return re.sub(r"\bin \d+\.\d\ds\b", "in a while", output).split()


class Reader:
    """Runs the blocks of a page in a directory of its own.

    Args:
        directory: Where to run them.
        replacements: Texts of the pages, and what to use on this machine instead.
    """

    def __init__(self, directory: Path, replacements: Mapping[str, str]) -> None:
        self.directory = directory
        self._replacements = replacements
        self._servers = contextlib.ExitStack()
        self._output = ""
        programs = str(Path(sys.executable).parent)
        path = os.pathsep.join([programs, os.environ.get("PATH", os.defpath)])
        isolated = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PATH": path}
        self._variables = {**os.environ, **isolated}

    def follow(self, block: Block) -> None:
        """Run a block, save it, or compare it with the last output.

        Raises:
            AssertionError: It failed, wrote to stderr, or its output is not what the page shows.
        """
        try:
            self._follow(block)
        except Exception as exc:
            exc.add_note(
                f"in the block at {block.where}; tests/pages.py explains how to mark a block"
            )
            raise

    def _follow(self, block: Block) -> None:
        text = self._localized(block.text)
        match block.note, block.language:
            case "not run", _:
                assert len(block.detail) > 10, "a block that is not run needs a reason"
            case "output", _:
                told = f"the page shows:\n{text}\nbut the block before it printed:\n{self._output}"
                assert _timeless(self._output) == _timeless(text), told
            case "file", "python" if block.detail.startswith("test_"):
                self.save(block)
                output = self._run("-m", "pytest", "-q", block.detail)
                assert f"{text.count('def test_')} passed" in output, output
            case "file", "python":
                self.save(block)
                self._output = self._run(block.detail)
            case "file", _:
                self.save(block)
            case "", "python":
                self._output = self._run("-c", text)
            case "", "sh" if _SERVES in text:
                self._serve(text)
            case "", "sh":
                self._output = self._finished("/bin/sh", "-ec", text, stderr_allowed=True)
            case "", language if language.startswith("{"):
                pass  # a directive of the documentation site
            case _:
                text = "name its language (python, sh), or say in a comment above it what to do"
                raise AssertionError(f"cannot run this block: {text}")

    def save(self, block: Block) -> None:
        """Save a block under the name of its file."""
        (self.directory / block.detail).write_text(self._localized(block.text), encoding="utf-8")

    def _localized(self, text: str) -> str:
        # In one pass, since a replacement may contain what another one replaces.
        texts = "|".join(map(re.escape, self._replacements))
        return re.sub(texts, lambda match: self._replacements[match[0]], text)

    @property
    def _environment(self) -> dict[str, str]:
        """Return the environment, in which pytest has the plugins that the page is about."""
        settings = self.directory / "pytest.ini"
        options = "-p no:cacheprovider -p _jumpstarter_pytestplugin"
        if settings.exists() and "trio_mode" in settings.read_text(encoding="utf-8"):
            options += " -p pytest_trio.plugin"
        return {**self._variables, "PYTEST_ADDOPTS": options}

    def _run(self, *arguments: str) -> str:
        return self._finished(sys.executable, *arguments)

    def _finished(self, *command: str, stderr_allowed: bool = False) -> str:
        done = subprocess.run(
            command,
            cwd=self.directory,
            env=self._environment,
            timeout=TIMEOUT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert stderr_allowed or not done.stderr, done.stderr
        return done.stdout

    def _serve(self, text: str) -> None:
        """Start the exporter that a block ends with, and leave it running."""
        assert text.count(_SERVES) == 1
        command = ["/bin/sh", "-ec", text.replace(_SERVES, f"exec {_SERVES}")]
        log = self.directory / "log"
        with log.open("w") as stderr:
            process = self._servers.enter_context(
                running(
                    command,
                    cwd=self.directory,
                    env=self._environment,
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                )
            )
        self._servers.callback(self._stop, process, log)
        assert process.stdout is not None
        assert process.stdout.readline().startswith("ready: "), log.read_text()

    @staticmethod
    def _stop(process: subprocess.Popen[str], log: Path) -> None:
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0, log.read_text()
        assert "WARNING" not in log.read_text(), log.read_text()

    def stop(self) -> None:
        """Stop the exporters of the page, and check that they exit with 0 and logged no warning."""
        self._servers.close()


@contextlib.contextmanager
def page_reader(directory: Path) -> Iterator[Reader]:
    """Yield a reader with what the pages mention: boards at serial ports, a server, an image."""
    (directory / "image.img").write_bytes(b"an image" * 1000)
    with (
        _board(has_shell=False) as port,
        _board(has_shell=True) as shell,
        _web_server() as web,
    ):
        replacements = {
            "/dev/ttyUSB0": port,
            "/dev/ttyUSB1": shell,
            "port=8080": f"port={web}",
            ":8443": f":{free_port()}",
            "9464": str(free_port()),
            "9465": str(free_port()),
            "unix:/home/me/": f"unix:{directory}/",
            "unix:/tmp/": f"unix:{directory}/",
        }
        reader = Reader(directory, replacements)
        try:
            yield reader
        finally:
            reader.stop()


@contextlib.contextmanager
def _board(*, has_shell: bool) -> Iterator[str]:
    """Yield the path of a serial port at which a board keeps asking for a login.

    If it has a shell, the first line logs in, and the others are commands.
    """
    board, port = os.openpty()
    tty.setraw(port)
    os.set_blocking(board, False)
    over = threading.Event()

    def answer() -> None:
        is_logged_in, typed = False, b""
        while not over.wait(0.05):
            with contextlib.suppress(BlockingIOError):
                os.write(board, b"" if is_logged_in else b"login: ")
            with contextlib.suppress(BlockingIOError):
                typed += os.read(board, 1024)
            *lines, typed = typed.replace(b"\r", b"\n").split(b"\n")
            for line in lines if has_shell else []:
                is_logged_in = True
                os.write(board, line + b"\r\n" + _ANSWERS.get(line, b"") + b"# ")

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        yield os.ttyname(port)
    finally:
        over.set()
        thread.join()
        os.close(board)
        os.close(port)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        pass


@contextlib.contextmanager
def _web_server() -> Iterator[int]:
    """Yield the port of a web server."""
    handler = functools.partial(_Quiet, directory=str(ROOT / "docs"))
    with http.server.ThreadingHTTPServer(("localhost", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()
