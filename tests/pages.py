"""The project's pages as their readers have them: the blocks of code, and a place to run them in.

A block is fenced and says its language. What a reader does with it stands in a comment above it:

    <!-- file: power.py -->      save it under this name; Python is run then, tests by pytest
    <!-- output -->              it is what the block before has printed
    <!-- not run: a reason -->   nothing
    <!-- not run (vector): a reason -->   anywhere in a page: nothing with blocks of that language

All others are run as they are: Python by `python`, `sh` by a shell. An exporter that a shell starts
goes on until the page ends, as in another window.
"""

from __future__ import annotations

import contextlib
import functools
import http.server
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import tty
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from processes import PATIENCE, running

__all__ = ["PAGES", "ROOT", "Block", "Reader", "at_a_desk", "blocks_of", "indented"]

ROOT: Final = Path(__file__).parents[1]
PAGES: Final = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
}
TIMEOUT: Final = 60.0  # seconds for what takes one or two

_FENCED: Final = re.compile(
    r"^(?:<!-- (?P<note>(?:file|output|not run)[^(\n]*?) -->\n)?"
    r"```(?P<language>[\w{}-]*)[^\n]*\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_OF_A_PAGE: Final = re.compile(r"^<!-- not run \((\w+)\): \S.{10,} -->$", re.MULTILINE)
_INDENTED: Final = re.compile(r"(?:\A|(?<=\n\n)) {4,}\S.*")
_SERVES: Final = "python -m jumpstarter serve"


@dataclass(frozen=True, kw_only=True)
class Block:
    """One block of a page.

    Attributes:
        where: The page and line, as an editor takes it.
        language: As its fence says.
        text: What is in it.
        note: What is to be done with it: `file`, `output`, `not run`; empty if nothing is said.
        detail: The name of the file, or the reason.
    """

    where: str
    language: str
    text: str
    note: str
    detail: str


def blocks_of(page: str) -> list[Block]:
    """Give the blocks of a page, in their order."""
    text = PAGES[page]
    skipped = set(_OF_A_PAGE.findall(text))
    blocks = []
    for match in _FENCED.finditer(text):
        note, _, detail = (match["note"] or "").partition(":")
        if match["language"] in skipped:
            note, detail = "not run", "said for the whole page"
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


def indented(page: str) -> list[str]:
    """Give the first lines of what Markdown takes for code because of its four blanks."""
    return _INDENTED.findall(_FENCED.sub("", PAGES[page]))


class Reader:
    """Does what a page says, in a directory of its own.

    Args:
        directory: Where.
        stands_for: Texts of the pages that this machine has something else for.
    """

    def __init__(self, directory: Path, stands_for: Mapping[str, str]) -> None:
        self.directory = directory
        self._stands_for = stands_for
        self._servers = contextlib.ExitStack()
        self._said = ""
        programs = str(Path(sys.executable).parent)
        path = os.pathsep.join([programs, os.environ.get("PATH", os.defpath)])
        alone = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": "-p no:cacheprovider"}
        self._environment = {**os.environ, **alone, "PATH": path}

    def follow(self, block: Block) -> None:
        """Do what a reader does with a block.

        Raises:
            AssertionError: It failed, wrote to stderr, or printed other than the page says.
        """
        try:
            self._follow(block)
        except Exception as exc:
            exc.add_note(f"in the block at {block.where}; tests/pages.py says how one is marked")
            raise

    def _follow(self, block: Block) -> None:
        text = self._here(block.text)
        match block.note, block.language:
            case "not run", _:
                assert len(block.detail) > 10, "it needs a reason"
            case "output", _:
                assert self._said.split() == text.split()
            case "file", "python" if block.detail.startswith("test_"):
                self.save(block)
                told = self._run("-m", "pytest", "-q", *self._plugins(), block.detail)
                assert f"{text.count('def test_')} passed" in told
            case "file", "python":
                self.save(block)
                self._said = self._run(block.detail)
            case "file", _:
                self.save(block)
            case "", "python":
                self._said = self._run("-c", text)
            case "", "sh" if _SERVES in text:
                self._serve(text)
            case "", "sh":
                self._said = self._finished("/bin/sh", "-ec", text, chatty=True)
            case "", language if language.startswith("{"):
                pass  # a directive of the documentation site
            case _:
                text = "say its language (python, sh), or by a comment above what becomes of it"
                raise AssertionError(f"nobody knows what to do with it: {text}")

    def save(self, block: Block) -> None:
        """Save a block as the file that it is."""
        (self.directory / block.detail).write_text(self._here(block.text), encoding="utf-8")

    def _here(self, text: str) -> str:
        for theirs, ours in self._stands_for.items():
            text = text.replace(theirs, ours)
        return text

    def _plugins(self) -> list[str]:
        trio = "trio_mode" in self._read("pytest.ini")
        return ["-p", "pytest_trio.plugin"] if trio else []

    def _read(self, name: str) -> str:
        path = self.directory / name
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def _run(self, *arguments: str) -> str:
        return self._finished(sys.executable, *arguments)

    def _finished(self, *command: str, chatty: bool = False) -> str:
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
        assert chatty or not done.stderr, done.stderr
        return done.stdout

    def _serve(self, text: str) -> None:
        """Start the exporter with which a block ends, and leave it running."""
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
        """End the exporters that the page has started, which end well and had no warning."""
        self._servers.close()


@contextlib.contextmanager
def at_a_desk(directory: Path) -> Iterator[Reader]:
    """Give a reader what the pages speak of: a board at a serial port, a server, an image."""
    (directory / "image.img").write_bytes(b"an image" * 1000)
    with _board() as port, _web_server() as web:
        stands_for = {
            "/dev/ttyUSB0": port,
            "port=8080": f"port={web}",
            ":8443": f":{_free_port()}",
            "unix:/home/me/": f"unix:{directory}/",
        }
        reader = Reader(directory, stands_for)
        try:
            yield reader
        finally:
            reader.stop()


@contextlib.contextmanager
def _board() -> Iterator[str]:
    """Give the path of a serial port, at which a board asks for a login all the time."""
    board, port = os.openpty()
    tty.setraw(port)
    os.set_blocking(board, False)
    over = threading.Event()

    def ask() -> None:
        while not over.wait(0.05):
            with contextlib.suppress(BlockingIOError):
                os.write(board, b"login: ")
            with contextlib.suppress(BlockingIOError):
                os.read(board, 1024)

    thread = threading.Thread(target=ask)
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
    """Give the port of a web server."""
    handler = functools.partial(_Quiet, directory=str(ROOT / "docs"))
    with http.server.ThreadingHTTPServer(("localhost", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def _free_port() -> int:
    with socket.create_server(("", 0)) as server:
        port: int = server.getsockname()[1]
        return port
