"""A serial port as a raw stream: a board's console, for one client at a time.

A device is read and written as any other file descriptor of the Trio loop is. What has none, as
pyserial's `loop://` and `rfc2217://`, is used in worker threads, a tenth of a second at a time.
"""

from __future__ import annotations

import os
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import trio

from .._checks import a_text, a_whole_number
from ..client import DriverClient
from ..driver import Driver, export, exportstream
from ..errors import ConfigurationError, MissingExtra
from .mixins import StreamMixin

__all__ = ["SerialClient", "SerialPort"]

_SLICE: Final = 0.1  # seconds that a thread waits for bytes: how long a cancellation may take
_PIECE: Final = 1024  # bytes written at once
_QUEUED: Final = 2048  # bytes that may wait to be sent by a port which holds 4,096


@dataclass(kw_only=True)
class SerialPort(Driver):
    """A serial port, opened for each client that connects and closed behind it.

    What the device says while nobody is connected is lost: open the console, and then switch on.

    Attributes:
        url: Path of the device, as `/dev/ttyUSB0`, or a URL of pyserial's.
        baudrate: Its speed in bits per second.
    """

    url: str
    baudrate: int = 115200
    _in_use: bool = field(init=False, repr=False, default=False)

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        a_text("url of SerialPort", self.url, "a path or URL, as a str", ConfigurationError)
        bits = "a whole number of bits per second, 1 or more"
        name = "baudrate of SerialPort"
        a_whole_number(name, self.baudrate, 1, accepted=bits, error=ConfigurationError)

    @classmethod
    def client(cls) -> str:
        """Name the client class."""
        return "jumpstarter.drivers.serial.SerialClient"

    @export
    def port(self) -> str:
        """Say which port it is."""
        return self.url

    @exportstream
    @asynccontextmanager
    async def connect(self) -> AsyncIterator[trio.abc.Stream]:
        """Open the port, raw: no echo, no line editing, 8 bits, no parity."""
        if self._in_use:
            raise OSError(f"{self.url} is in use by another client")
        self._in_use = True
        try:
            port = await trio.to_thread.run_sync(self._open)
            try:
                async with _stream_of(port) as stream:
                    yield stream
            finally:
                with trio.CancelScope(shield=True):  # it waits until all was sent
                    await trio.to_thread.run_sync(port.close)
        finally:
            self._in_use = False

    def _open(self) -> Any:
        try:
            import serial  # noqa: PLC0415 - needed where there is a port
        except ImportError as exc:
            raise MissingExtra.named("serial", "a serial port", where="on the exporter") from exc
        return serial.serial_for_url(self.url, baudrate=self.baudrate, timeout=_SLICE)


class SerialClient(StreamMixin, DriverClient):
    """What a test has of a serial port: `connect()`, `pexpect()` and `portforward()`."""

    def port(self) -> str:
        """Say which port of the exporter it is."""
        return self.call_as(str, "port")


def _stream_of(port: Any) -> trio.abc.Stream:
    try:
        descriptor = port.fileno()
    except (AttributeError, OSError):
        return _ThreadStream(port)
    if os.isatty(descriptor):
        # pyserial asks for reads that give nothing, rather than wait: to a stream, that is the end.
        settings = termios.tcgetattr(descriptor)
        settings[6][termios.VMIN] = 1
        termios.tcsetattr(descriptor, termios.TCSANOW, settings)
    return _Device(os.dup(descriptor))


class _Device(trio.abc.Stream):
    """A port with a file descriptor. It has no end: where others have one, it was unplugged."""

    def __init__(self, descriptor: int) -> None:
        self._stream = trio.lowlevel.FdStream(descriptor)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Wait for what there is."""
        data = await self._stream.receive_some(max_bytes)
        if not data:
            raise trio.BrokenResourceError("the port has gone")
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Write it, as fast as the port takes it."""
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the port takes some."""
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        """Let go of the descriptor."""
        await self._stream.aclose()


class _ThreadStream(trio.abc.Stream):
    """A port without a file descriptor."""

    def __init__(self, port: Any) -> None:
        self._port = port

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Wait for what there is."""
        while True:
            data = await trio.to_thread.run_sync(self._read, max_bytes or _PIECE)
            if data:
                return data

    def _read(self, max_bytes: int) -> bytes:
        return bytes(self._port.read(max(1, min(self._port.in_waiting, max_bytes))))

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Write, no faster than the port sends: a thread that waits there could not be called."""
        view = memoryview(data)
        for start in range(0, len(view), _PIECE):
            while getattr(self._port, "out_waiting", 0) > _QUEUED:  # noqa: ASYNC110 - it tells nobody
                await trio.sleep(_SLICE / 10)
            await trio.to_thread.run_sync(self._port.write, bytes(view[start : start + _PIECE]))

    async def wait_send_all_might_not_block(self) -> None:
        """Return at once: only sending tells."""
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        """Leave the port open: whoever has opened it closes it."""
        await trio.lowlevel.checkpoint()
