"""Ports of pyserial as Trio streams.

A port that is read and written as `serial.Serial` does it has its file descriptor watched by the
Trio loop. Every other one, as those of `spy://`, `alt://`, `loop://`, `socket://` and `rfc2217://`,
is used by its own `read` and `write`, in worker threads: that is what it was chosen for.
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

__all__ = ["SLICE", "stream_of"]

SLICE: Final = 0.1  # seconds that a thread waits for bytes: how long a cancellation may take
_PIECE: Final = 1024  # bytes written in one call
_READ: Final = 4096  # bytes read in one call: as many as a Linux port buffers
_QUEUED: Final = 2048  # bytes that may wait to be sent by a port which holds 4,096


def stream_of(port: Any) -> trio.abc.Stream:
    """Make a stream of an open port, which stays its owner's to close."""
    import serial  # noqa: PLC0415 - a port exists only where it is installed

    if not isinstance(port, serial.Serial):
        return _ThreadStream(port)
    kind = type(port)
    if kind.read is not serial.Serial.read or kind.write is not serial.Serial.write:
        return _ThreadStream(port, port.fileno())
    # pyserial asks for reads that give nothing, rather than wait: to a stream, that is the end.
    settings = termios.tcgetattr(port.fileno())
    settings[6][termios.VMIN] = 1
    termios.tcsetattr(port.fileno(), termios.TCSANOW, settings)
    with no_fork():
        return _Device(os.dup(port.fileno()))


class _Device(trio.abc.Stream):
    """A port's file descriptor. It has no end: where others have one, it was unplugged."""

    def __init__(self, descriptor: int) -> None:
        self._stream = trio.lowlevel.FdStream(descriptor)
        close_in_children(self._stream)

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
    """A port that is used by its own methods.

    Args:
        port: That.
        descriptor: Of the device that it reads and writes, if it has one: it is waited for without
            a thread.
    """

    def __init__(self, port: Any, descriptor: int | None = None) -> None:
        self._port = port
        self._descriptor = descriptor

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Wait for what there is."""
        size = min(max_bytes or _READ, _READ)
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
        with suppress(OSError):  # what has come is given first; the next read says the same
            # That of `socket://` says 1, however many there are.
            while data and len(data) < size and (more := port.in_waiting):
                data += _bytes_of(port.read(min(more, size - len(data))))
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Write all of it, no faster than the port sends, so that few writes have to wait."""
        await trio.lowlevel.checkpoint()
        rest = memoryview(data)
        what = f"write() of the port's {type(self._port).__module__}.{type(self._port).__name__}"
        while rest:
            await self._wait_for_room()
            piece = bytes(rest[:_PIECE])
            try:
                answer = await self._write(piece)
            except OSError as exc:
                raise trio.BrokenResourceError(f"the port takes no more: {exc}") from exc
            rest = rest[check_write_count(answer, len(piece), what) :]

    async def _wait_for_room(self) -> None:
        while getattr(self._port, "out_waiting", 0) > _QUEUED:  # noqa: ASYNC110 - it tells nobody
            await trio.sleep(SLICE / 10)
        if self._descriptor is not None:
            await trio.lowlevel.wait_writable(self._descriptor)

    async def _write(self, piece: bytes) -> object:
        if self._descriptor is None:  # a thread that still waits ends when the port is closed
            return await trio.to_thread.run_sync(self._port.write, piece, abandon_on_cancel=True)
        written = False

        async def call_back() -> None:
            try:
                await trio.sleep_forever()
            finally:
                if not written:  # so that the thread comes back before the port is closed
                    self._port.cancel_write()

        async with open_background() as nursery:
            nursery.start_soon(call_back)
            try:
                return await trio.to_thread.run_sync(self._port.write, piece)
            finally:
                written = True

    async def wait_send_all_might_not_block(self) -> None:
        """Do nothing: only sending tells."""
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        """Leave the port open: its owner closes it."""
        await trio.lowlevel.checkpoint()


def _bytes_of(data: Any) -> bytes:
    """Copy the bytes that a port gave; `bytes` alone would make zeros of a number."""
    return b"" if data is None else bytes(memoryview(data))
