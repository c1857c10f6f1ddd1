"""Run an exporter in its own process, with a driver for tests.

The exporter imports this module too, for `Probe`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import trio

from drivers_for_tests import Echo
from jumpstarter.client import DriverClient
from jumpstarter.driver import export, exportstream
from jumpstarter.errors import CallRefused
from processes import running

TESTS = Path(__file__).parent
PATIENCE = 120.0  # seconds for what takes a few; the exporter is killed when they are over


class ExporterProcess:
    """A running `python -m jumpstarter serve`, to which clients can connect.

    Attributes:
        address: Where it listens.
        pid: The number of the process.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        assert process.stderr is not None
        self._process = process
        self.pid = process.pid
        self._stdout = process.stdout
        self._stderr = process.stderr
        line = self._stdout.readline()
        assert line.startswith("ready: "), f"not ready, but {line!r}; log: {self._stderr.read()}"
        self.address = line.removeprefix("ready: ").removesuffix("\n")

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process."""
        self._process.send_signal(number)

    def log_line(self) -> str:
        """Read the next line of its log."""
        line = self._stderr.readline()
        assert line, "the log has ended"
        return line

    def until_logged(self, text: str) -> None:
        """Read the log up to a line that contains a text."""
        seen = ""
        while text not in (line := self._stderr.readline()):
            assert line, f"{text!r} was not logged; this was: {seen}"
            seen += line

    def wait(self) -> int:
        """Wait until it ends, and return its exit code, or -N if signal N killed it."""
        return self._process.wait(PATIENCE)

    def rest_of_log(self) -> str:
        """Wait until it ends, and return the unread rest of its log."""
        return self._stderr.read()

    def rest_of_stdout(self) -> str:
        """Wait until it ends, and return what it wrote to stdout after the first line."""
        return self._stdout.read()


@contextlib.contextmanager
def exporter(
    directory: Path,
    *options: str,
    driver: str = "exporter_process:Probe",
    cwd: Path = TESTS,
    prefix: Sequence[str] = (),
    seconds: float = PATIENCE,
) -> Iterator[ExporterProcess]:
    """Run an exporter for the length of a block, and kill it at the end if it still runs.

    Args:
        directory: The directory of its Unix socket, unless the options have another address.
        options: Options of the command line.
        driver: The driver that it serves, as MODULE:NAME.
        cwd: Its current directory.
        prefix: A command that runs it, such as one that changes signal dispositions.
        seconds: When it is killed, if the block has not ended by then.
    """
    if "--address" not in options:
        options = ("--address", f"unix:{directory}/socket", *options)
    with exporter_command(
        "serve", driver, *options, cwd=cwd, prefix=prefix, seconds=seconds
    ) as process:
        yield process


@contextlib.contextmanager
def exporter_command(
    *arguments: str,
    cwd: Path = TESTS,
    prefix: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    seconds: float = PATIENCE,
) -> Iterator[ExporterProcess]:
    """Run `jumpstarter` with arguments that serve something, for the length of a block.

    Args:
        arguments: The command and its options.
        cwd: Its current directory.
        prefix: A command that runs it, such as one that changes signal dispositions.
        environment: Variables to add to those of this process.
        seconds: When it is killed, if the block has not ended by then.
    """
    command = [*prefix, sys.executable, "-m", "jumpstarter", *arguments]
    variables = {**os.environ, **(environment or {})}
    pipe = subprocess.PIPE
    with running(
        command, seconds=seconds, cwd=cwd, stdout=pipe, stderr=pipe, env=variables
    ) as process:
        yield ExporterProcess(process)


def wait_until_refused(client: DriverClient) -> None:
    """Call until the exporter drains, and refuses calls."""
    with client.timeout(PATIENCE), contextlib.suppress(CallRefused):
        while True:
            client.call("echo")


@dataclass(kw_only=True)
class Probe(Echo):
    """Holds calls until the process gets SIGUSR1, and logs how they end."""

    _held: int = field(init=False, repr=False, default=0)
    _changed: trio.lowlevel.ParkingLot = field(init=False, repr=False)
    _released: trio.Event = field(init=False, repr=False)
    _meeting: threading.Barrier = field(init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._changed = trio.lowlevel.ParkingLot()
        self._released = trio.Event()
        self._meeting = threading.Barrier(2)

    @export
    async def hold(self, value: Any = None) -> Any:
        """Wait for the signal, and return a value."""
        token = trio.lowlevel.current_trio_token()
        signal.signal(signal.SIGUSR1, lambda *_: token.run_sync_soon(self._released.set))
        self._held += 1
        self._changed.unpark_all()
        try:
            await self._released.wait()
        except trio.Cancelled:
            self.logger.info("a held call was cancelled")
            raise
        return value

    @export
    async def until_held(self, count: int) -> None:
        """Wait until `count` calls are held."""
        while self._held < count:
            await self._changed.park()

    @export
    def meet(self, seconds: float) -> int:
        """Wait in a worker thread until a second call does the same."""
        return self._meeting.wait(seconds)

    @exportstream
    @asynccontextmanager
    async def connect_tcp(self, port: int) -> AsyncIterator[anyio.abc.ByteStream]:
        """Reach a server on the exporter's own loopback."""
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            yield stream

    def close(self) -> None:
        self.logger.info("closed")
        super().close()


@dataclass(kw_only=True)
class SlowToClose(Echo):
    """Blocks in `close()` until SIGUSR1 comes."""

    _may_close: threading.Event = field(init=False, repr=False, default_factory=threading.Event)

    def __post_init__(self) -> None:
        super().__post_init__()
        signal.signal(signal.SIGUSR1, lambda *_: self._may_close.set())

    def close(self) -> None:
        self.logger.info("closing")
        self._may_close.wait()
        self.logger.info("closed")
