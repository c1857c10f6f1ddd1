"""Record the commands of docs/howto at a terminal, and write the screenshots of its pages.

`make screenshots` runs it. The commands and their output are real: they use an exporter of `board`,
at a pseudo-terminal. Only speeds and times are replaced, so that the files change when the output
does.
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pexpect
import trio
from rich.console import Console
from rich.text import Text

from jumpstarter.drivers.composite import Composite
from jumpstarter.drivers.power import MockPower
from jumpstarter.drivers.storage import FileStorage
from serial_console import SimulatedConsole

DOCS: Final = Path(__file__).parent
EXAMPLES: Final = DOCS.parent / "examples"
WIDTH: Final = 92
TIMEOUT: Final = 60.0  # seconds for what takes a few
IMAGE_SIZE: Final = 4 * 1024 * 1024
PIECE_SECONDS: Final = 0.05  # so that the bar appears, which it does after a second


@dataclass(kw_only=True)
class Card(FileStorage):
    """A card that takes about a megabyte in a second."""

    @asynccontextmanager
    async def resource(self, *args: Any, **options: Any) -> AsyncIterator[Any]:
        """Open a resource whose pieces come slowly."""
        async with super().resource(*args, **options) as stream:
            yield _slowly(stream)


async def _slowly(stream: Any) -> AsyncIterator[bytes]:
    async for data in stream:
        yield data
        await trio.sleep(PIECE_SECONDS)


def board() -> Composite:
    """Make the board that the screenshots show."""
    return Composite(
        description="a simulated board",
        children={
            "power": MockPower(description="the supply of the board"),
            "serial": SimulatedConsole(),
            "card": Card(path="card.img"),
        },
    )


class Session:
    """A command at a terminal.

    Args:
        directory: Where it runs.
        command: What the user types.
        arguments: The program and its arguments.
    """

    def __init__(self, directory: Path, command: str, arguments: list[str]) -> None:
        self.command = command
        environment = {**os.environ, "JUMPSTARTER_HOST": "./board", "TERM": "xterm-256color"}
        environment |= {"COLUMNS": str(WIDTH), "JMP_DRIVERS_ALLOW": "serial_console.*"}
        environment |= {"PYTHONPATH": str(EXAMPLES)}  # absolute: it runs in another directory
        self.program = pexpect.spawn(
            arguments[0],
            arguments[1:],
            cwd=str(directory),
            env=environment,
            dimensions=(40, WIDTH),
            timeout=TIMEOUT,
            encoding="utf-8",
        )
        self.program.logfile_read = self._output = io.StringIO()

    def until(self, text: str) -> str:
        """Wait for a text, and return everything that was printed so far."""
        self.program.expect_exact(text)
        return self._output.getvalue()

    def until_exit(self) -> str:
        """Wait for the end, and return everything that was printed."""
        self.program.expect(pexpect.EOF)
        self.program.close()
        assert self.program.exitstatus == 0, self._output.getvalue()
        return self._output.getvalue()


def save(name: str, command: str, output: str) -> None:
    """Write a screenshot."""
    lines = [_shown(line) for line in output.replace("\r\n", "\n").split("\n")]
    text = Text.from_ansi(f"\x1b[1m$ {command}\x1b[0m\n" + "\n".join(lines).rstrip())
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    console.print(text)
    svg = console.export_svg(title="", unique_id=name)
    (DOCS / f"{name}.svg").write_text(svg, encoding="utf-8")


def _shown(line: str) -> str:
    """Return what is left of a line that was drawn again and again."""
    line = line.rpartition("\r\x1b[2K")[2].replace("\x1b[?25l", "").replace("\x1b[?25h", "")
    line = re.sub(r"\d+\.\d MB/s|\d+\.\d kB/s", "1.3 MB/s", line)
    return re.sub(r"\d:\d\d:\d\d", "0:00:02", line)


@contextmanager
def exporter(directory: Path) -> Iterator[None]:
    """Serve the board in a directory, for the length of a block."""
    paths = os.pathsep.join([str(DOCS), str(EXAMPLES)])
    command = [sys.executable, "-m", "jumpstarter", "serve", "screenshots:board"]
    command += ["--address", f"unix:{directory}/board"]
    with subprocess.Popen(
        command,
        cwd=directory,
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("ready: ")
            yield
        finally:
            process.terminate()


def main() -> None:
    """Make all screenshots."""
    jumpstarter = [sys.executable, "-m", "jumpstarter"]
    j = [sys.executable, "-c", "import sys; from jumpstarter.cli import j; sys.exit(j())"]
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "image.img").write_bytes(bytes(IMAGE_SIZE))
        with exporter(directory):
            session = Session(directory, "jumpstarter ls", [*jumpstarter, "ls"])
            save("ls", session.command, session.until_exit())

            session = Session(directory, "j --help", [*j, "--help"])
            save("j-help", session.command, session.until_exit())

            command = ["flash", "card", "image.img"]
            session = Session(directory, "jumpstarter " + " ".join(command), jumpstarter + command)
            save("flash", session.command, session.until("2.1/4.0 MiB"))
            session.until_exit()

            session = Session(
                directory, "jumpstarter console serial", [*jumpstarter, "console", "serial"]
            )
            session.until("$ ")
            session.program.send("uname\r")
            session.until("board\r\n$ ")
            session.program.send("\x02?")
            session.until("power-cycle the device]")
            session.program.send("\x02p")
            session.until("[power-cycle has ended]\r\n")
            session.program.send("reboot\r")
            session.until("ready\r\n$ ")
            session.program.send("\x02\x02\x02")
            save("console", session.command, session.until_exit())


if __name__ == "__main__":
    main()
