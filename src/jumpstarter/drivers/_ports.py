"""Make Trio streams of pyserial ports.

A port that reads and writes as `serial.Serial` does is used by its file descriptor, in the Trio
loop. Any other port, like those of `spy://`, `alt://`, `loop://`, `socket://` and `rfc2217://`, is
used by its own `read` and `write` in worker threads, since the user chose the URL for what these
do.
"""

from __future__ import annotations

import os
import termios
from contextlib import suppress
from typing import Any, Final

import trio

from .._util.background import open_background
from .._util.fork import close_in_children, no_fork
from .._util.writes import check_write_count

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["READ_TIMEOUT", "stream_of"]

# Seconds that a thread waits for data: the longest delay of a cancellation.
READ_TIMEOUT: Final = 0.1
_WRITE_SIZE: Final = 1024  # bytes written in one call
_READ_SIZE: Final = 4096  # bytes read in one call: as many as a Linux port buffers
_MAX_QUEUED: Final = 2048  # bytes that may wait in the port's output buffer, which holds 4,096
_OUTPUT_POLL: Final = READ_TIMEOUT / 10  # seconds between two checks of that buffer


def stream_of(port: Any) -> trio.abc.Stream:
    """Make a stream of an open pyserial port. The caller keeps the port, and closes it."""
    import serial  # noqa: PLC0415 - an optional dependency; an open port implies it

    if not isinstance(port, serial.Serial):
        return _ThreadStream(port)
    kind = type(port)
    if kind.read is not serial.Serial.read or kind.write is not serial.Serial.write:
        return _ThreadStream(port, port.fileno())
    # pyserial sets VMIN to 0: then read() returns nothing instead of waiting, and FdStream sees
    # EOF.
    settings = termios.tcgetattr(port.fileno())
    settings[6][termios.VMIN] = 1
    termios.tcsetattr(port.fileno(), termios.TCSANOW, settings)
    with no_fork():
        return _Device(os.dup(port.fileno()))  # FdStream closes the descriptor it is given


class _Device(trio.abc.Stream):
    """A stream of a port's file descriptor. A device has no EOF: reading one means unplugged."""

    def __init__(self, descriptor: int) -> None:
        self._stream = trio.lowlevel.FdStream(descriptor)
        close_in_children(self._stream)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Receive data. A checkpoint."""
        data = await self._stream.receive_some(max_bytes)
        if not data:
            raise trio.BrokenResourceError("the port has gone")
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send all data, as fast as the port takes it. A checkpoint."""
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the port takes data. A checkpoint."""
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        """Close the descriptor. A checkpoint."""
        await self._stream.aclose()


class _ThreadStream(trio.abc.Stream):
    """A stream that calls a port's own methods in worker threads.

    Args:
        port: The pyserial port.
        descriptor: The descriptor of the device that the port reads and writes, if it has one. The
            stream waits for it in the Trio loop, rather than in a thread.
    """

    def __init__(self, port: Any, descriptor: int | None = None) -> None:
        self._port = port
        self._descriptor = descriptor

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Receive data. A checkpoint; a cancellation takes up to `READ_TIMEOUT`."""
        size = min(max_bytes or _READ_SIZE, _READ_SIZE)
        while True:
            if self._descriptor is not None:
                await trio.lowlevel.wait_readable(self._descriptor)
            try:
                data = await trio.to_thread.run_sync(self._read, size)
            except OSError as exc:
                raise trio.BrokenResourceError(f"the port has gone: {exc}") from exc
            if data:
                return data

    def _read(self, size: int) -> bytes:
        port = self._port
        data = _bytes_of(port.read(max(1, min(port.in_waiting, size))))
        # Return the data read so far despite an error: the next read raises it again.
        with suppress(OSError):
            # in_waiting of `socket://` is 1, however many bytes there are.
            while data and len(data) < size and (more := port.in_waiting):
                data += _bytes_of(port.read(min(more, size - len(data))))
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send all data, no faster than the port does, so that few writes block. A checkpoint."""
        await trio.lowlevel.checkpoint()
        rest = memoryview(data)
        what = f"write() of the port's {type(self._port).__module__}.{type(self._port).__name__}"
        while rest:
            await self._wait_writable()
            piece = bytes(rest[:_WRITE_SIZE])
            try:
                written = await self._write(piece)
            except OSError as exc:
                raise trio.BrokenResourceError(f"the port takes no more: {exc}") from exc
            rest = rest[check_write_count(written, len(piece), what) :]

    async def _wait_writable(self) -> None:
        while getattr(self._port, "out_waiting", 0) > _MAX_QUEUED:  # noqa: ASYNC110 - no event for it
            await trio.sleep(_OUTPUT_POLL)
        if self._descriptor is not None:
            await trio.lowlevel.wait_writable(self._descriptor)

    async def _write(self, piece: bytes) -> object:
        if self._descriptor is None:  # an abandoned thread ends when the port is closed
            return await trio.to_thread.run_sync(self._port.write, piece, abandon_on_cancel=True)
        is_written = False

        async def cancel_write() -> None:
            try:
                await trio.sleep_forever()
            finally:
                if not is_written:  # the thread must return before the port is closed
                    self._port.cancel_write()

        async with open_background() as nursery:
            nursery.start_soon(cancel_write)
            try:
                return await trio.to_thread.run_sync(self._port.write, piece)
            finally:
                is_written = True

    async def wait_send_all_might_not_block(self) -> None:
        """Return without waiting: a port reports only while it sends. A checkpoint."""
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        """Leave the port open, which its owner closes. A checkpoint."""
        await trio.lowlevel.checkpoint()


def _bytes_of(data: Any) -> bytes:
    """Copy the bytes that a port returned; `bytes()` alone would turn a number into zeros."""
    return b"" if data is None else bytes(memoryview(data))
