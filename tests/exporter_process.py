"""An exporter in a process of its own, and the driver that it serves in tests of that.

Not a test. The exporter imports this file too, for `Probe`.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
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
    """`python -m jumpstarter serve`, once clients can connect.

    Attributes:
        address: Where.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        assert process.stderr is not None
        self._process = process
        self._stdout = process.stdout
        self._stderr = process.stderr
        line = self._stdout.readline()
        assert line.startswith("ready: "), f"not ready, but {line!r}; log: {self._stderr.read()}"
        self.address = line.removeprefix("ready: ").removesuffix("\n")

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def log_line(self) -> str:
        """Read the next line of its log."""
        line = self._stderr.readline()
        assert line, "the log has ended"
        return line

    def until_logged(self, text: str) -> None:
        """Read its log up to a line that has this text."""
        seen = ""
        while text not in (line := self._stderr.readline()):
            assert line, f"{text!r} was not logged; this was: {seen}"
            seen += line

    def wait(self) -> int:
        """Wait for its end, and give its exit code (-N if signal N has ended it)."""
        return self._process.wait(PATIENCE)

    def rest_of_log(self) -> str:
        """Wait for its end, and give what of its log was not read."""
        return self._stderr.read()

    def rest_of_stdout(self) -> str:
        """Wait for its end, and give what it has written behind the first line."""
        return self._stdout.read()


@contextlib.contextmanager
def exporter(
    directory: Path,
    *options: str,
    driver: str = "exporter_process:Probe",
    cwd: Path = TESTS,
    prefix: Sequence[str] = (),
) -> Iterator[ExporterProcess]:
    """Run an exporter, for the length of a block; what is left of it then is killed.

    Args:
        directory: For its Unix socket, where the options have no other address.
        options: Of the command line.
        driver: What it serves.
        cwd: Its current directory.
        prefix: A command that runs it in another place.
    """
    if "--address" not in options:
        options = ("--address", f"unix:{directory}/socket", *options)
    command = [*prefix, sys.executable, "-m", "jumpstarter", "serve", driver, *options]
    pipe = subprocess.PIPE
    with running(command, seconds=PATIENCE, cwd=cwd, stdout=pipe, stderr=pipe) as process:
        yield ExporterProcess(process)


def wait_until_refused(client: DriverClient) -> None:
    """Call until calls are refused, since the exporter drains."""
    with client.timeout(PATIENCE), contextlib.suppress(CallRefused):
        while True:
            client.call("echo")


@dataclass(kw_only=True)
class Probe(Echo):
    """Holds calls until the process gets a SIGUSR1, and says in the log what becomes of it."""

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
        """Give a value back, all that are held at once, when the signal comes."""
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
        """Wait until so many calls are held."""
        while self._held < count:
            await self._changed.park()

    @export
    def meet(self, seconds: float) -> int:
        """Wait in a worker thread for another one that does the same."""
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
    """Is not closed before a SIGUSR1 has come."""

    _may_close: threading.Event = field(init=False, repr=False, default_factory=threading.Event)

    def __post_init__(self) -> None:
        super().__post_init__()
        signal.signal(signal.SIGUSR1, lambda *_: self._may_close.set())

    def close(self) -> None:
        self.logger.info("closing")
        self._may_close.wait()
        self.logger.info("closed")
