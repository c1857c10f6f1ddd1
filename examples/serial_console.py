"""A serial console: a raw stream, and how to make a driver of it.

`SerialConsole` works with any terminal device, `/dev/ttyUSB0` as well as a pseudo-terminal.
`SimulatedConsole` has a pseudo-terminal and a simulated board, to be tried without hardware:

    python -m jumpstarter serve serial_console:SimulatedConsole --address unix:$PWD/console
"""

from __future__ import annotations

import os
import subprocess
import sys
import termios
import tty
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

from jumpstarter.client import BlockingStream, DriverClient
from jumpstarter.driver import Driver, export, exportstream
from jumpstarter.drivers.mixins import StreamMixin

BOARD = Path(__file__).with_name("board.py")


@dataclass(kw_only=True)
class SerialConsole(Driver):
    """A serial port as raw bytes, for one client at a time.

    Attributes:
        port: Path of the terminal device.
        baud: Its speed, one that `termios` has a constant for.
    """

    port: str
    baud: int = 115200
    _in_use: bool = field(init=False, repr=False, default=False)

    @classmethod
    def client(cls) -> str:
        """Return the path of the client class."""
        return "serial_console.SerialConsoleClient"

    @export
    def device(self) -> str:
        """Return the path of the terminal device."""
        return self.port

    @export
    def discard(self) -> None:
        """Discard the board's output that has not been read."""
        fd = self._open()
        try:
            termios.tcflush(fd, termios.TCIFLUSH)
        finally:
            os.close(fd)

    @exportstream
    @asynccontextmanager
    async def connect(self) -> AsyncIterator[trio.lowlevel.FdStream]:
        """Open the port."""
        if self._in_use:
            raise OSError(f"{self.port} is in use by another client")
        self._in_use = True
        try:
            async with trio.lowlevel.FdStream(self._open()) as stream:
                yield stream
        finally:
            self._in_use = False

    def _open(self) -> int:
        # O_NOCTTY: not as our controlling terminal. O_NONBLOCK: without waiting for a carrier.
        fd = os.open(self.port, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        try:
            tty.setraw(fd, termios.TCSANOW)  # bytes as they are: no echo, no signals, no CR to LF
            settings = termios.tcgetattr(fd)
            settings[4] = settings[5] = getattr(termios, f"B{self.baud}")
            termios.tcsetattr(fd, termios.TCSANOW, settings)
        except BaseException:
            os.close(fd)
            raise
        return fd


@dataclass(kw_only=True)
class SimulatedConsole(SerialConsole):
    """A serial console with a board behind it: a child process on a pseudo-terminal."""

    port: str = field(init=False)

    def __post_init__(self) -> None:
        """Start the board."""
        super().__post_init__()
        far_end, self._near_end = os.openpty()
        tty.setraw(self._near_end)  # before the board prints, or its output would be echoed to it
        self.port = os.ttyname(self._near_end)
        command = [sys.executable, "-I", str(BOARD)]
        # In a session of its own, so that a Ctrl-C at the exporter is not the board's.
        self._board = subprocess.Popen(
            command, stdin=far_end, stdout=far_end, start_new_session=True
        )
        os.close(far_end)

    def close(self) -> None:
        """Hang up, which ends the board."""
        os.close(self._near_end)
        self._board.wait(timeout=5)
        super().close()


class SerialConsoleClient(StreamMixin, DriverClient):
    """The client of the console: `connect()`, and the methods."""

    def device(self) -> str:
        """Return the path of the terminal device on the exporter."""
        path: str = self.call("device")
        return path

    def discard(self) -> None:
        """Discard the board's output that has not been read."""
        self.call("discard")


def read_until(console: BlockingStream, mark: bytes) -> bytes:
    """Read up to and including a mark, after which the board sends nothing for now."""
    said = b""
    while not said.endswith(mark):
        said += console.receive()
    return said
