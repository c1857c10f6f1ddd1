"""Open and lock pyserial ports, and make Trio streams of them.

A port that reads and writes as `serial.Serial` does is used by its file descriptor, in the Trio
loop. Any other port, like those of `spy://`, `alt://`, `loop://`, `socket://` and `rfc2217://`, is
used by its own `read` and `write` in worker threads, since the user chose the URL for what these
do.
"""

from __future__ import annotations

import os
import socket
import termios
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from errno import EACCES, EAGAIN, EBUSY, ENOTTY
from functools import partial
from typing import Any, Final

import trio

from .._util.background import open_background
from .._util.fork import (
    FORK_TRIES,
    close_in_children,
    close_path_in_children,
    fork_count,
    no_fork,
)
from .._util.writes import check_write_count
from ..errors import MissingExtra
from ._exclusive import PortInUse, PortLock

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["Port", "import_serial", "open_serial", "stream_of"]

_HANDOVER: Final = 1.0  # seconds that the guard of a killed process has to release its port
_HANDOVER_POLL: Final = 0.02  # seconds between two checks whether it has
# Seconds that a thread waits for data: the longest delay of a cancellation.
_READ_TIMEOUT: Final = 0.1
_WRITE_SIZE: Final = 1024  # bytes written in one call
_READ_SIZE: Final = 4096  # bytes read in one call: as many as a Linux port buffers
_MAX_QUEUED: Final = 2048  # bytes that may wait in the port's output buffer, which holds 4,096
_OUTPUT_POLL: Final = _READ_TIMEOUT / 10  # seconds between two checks of that buffer


def import_serial() -> Any:
    """Return the module of pyserial.

    Raises:
        MissingExtra: The extra `serial` is not installed.
    """
    try:
        import serial  # noqa: PLC0415 - an optional dependency
    except ImportError as exc:
        raise MissingExtra.named("serial", "a serial port", where="on the exporter") from exc
    return serial


@asynccontextmanager
async def open_serial(
    url: str, baudrate: int, *, keep_input: bool = False
) -> AsyncIterator[trio.abc.Stream]:
    """Open a serial port in raw mode and lock it, for the length of a block. A checkpoint.

    Args:
        url: A path, or a pyserial URL.
        baudrate: Bits per second.
        keep_input: Keep the bytes that arrived before it was opened.

    Raises:
        OSError: Another program has the port (EBUSY), or it cannot be opened.
        MissingExtra: The extra `serial` is not installed.
    """
    port = await _open_when_handed_over(url, baudrate, keep_input=keep_input)
    try:
        async with stream_of(port.serial) as stream:
            yield stream
    finally:
        with trio.CancelScope(shield=True):  # close() waits until all data has been sent
            await trio.to_thread.run_sync(port.close)


async def _open_when_handed_over(url: str, baudrate: int, *, keep_input: bool) -> Port:
    give_up = trio.current_time() + _HANDOVER
    opened = partial(Port, url, baudrate, keep_input=keep_input)
    while True:
        try:
            return await trio.to_thread.run_sync(opened)
        except PortInUse as exc:
            if not exc.transient or trio.current_time() > give_up:
                raise
        await trio.sleep(_HANDOVER_POLL)


class Port:
    """An open pyserial port and the locks on it. For worker threads.

    Attributes:
        serial: The pyserial port.

    Raises:
        PortInUse: Another program has the port.
        OSError: The port cannot be opened.
        MissingExtra: The extra `serial` is not installed.
    """

    def __init__(self, url: str, baudrate: int, *, keep_input: bool = False) -> None:
        serial = import_serial()
        port = serial.serial_for_url(
            url, baudrate=baudrate, timeout=_READ_TIMEOUT, do_not_open=True
        )
        self._path = path = str(port.portstr or url)
        self.serial: Any = port
        self._lock: PortLock | None = None
        if isinstance(port, serial.Serial):
            port.exclusive = (
                True  # pyserial takes the flock before it changes the device's settings
            )
        if keep_input and isinstance(port, serial.Serial):
            # Private: by this method, open() discards what has arrived.
            vars(port)["_reset_input_buffer"] = lambda: None
        with ExitStack() as undo, _explaining_errors(path):
            undo.callback(self.close)
            # Before open(): a child forked while it opens must not keep the port either. By the
            # path too, until pyserial has stored the descriptor.
            close_in_children(self)
            with close_path_in_children(os.O_RDWR, path):
                _open(port)
            if os.isatty(descriptor := self.fileno()):
                self._lock = PortLock(descriptor, path)
            undo.pop_all()

    def fileno(self) -> int:
        """Return the port's descriptor, or -1 if it has none."""
        descriptor: int | None = getattr(self.serial, "fd", None)  # set while open() still runs
        if descriptor is not None:
            return descriptor
        try:
            return int(self.serial.fileno())
        except (AttributeError, OSError, TypeError):  # TypeError: it was closed just now
            return -1

    def close(self) -> None:
        """Release the locks and close the port. Blocks until all data has been sent."""
        try:
            if self._lock is not None:
                self._lock.release()
        finally:
            if self.serial.is_open:
                with close_path_in_children(os.O_RDWR, self._path):
                    self.serial.close()


def _open(port: Any) -> None:
    """Open a pyserial port. A network port connects again if a forked child got a copy of it.

    pyserial waits for the connection, so forks cannot be held up meanwhile.
    """
    tries = FORK_TRIES
    while True:
        before = fork_count()
        port.open()
        # Private: socket:// and rfc2217:// give their connection by no other name.
        connection = getattr(port, "_socket", None)
        if not isinstance(connection, socket.socket):
            return
        close_in_children(connection)
        tries -= 1
        if fork_count() == before or not tries:
            return
        with suppress(OSError):  # shutdown() ends the connection for the child's copy too
            connection.shutdown(socket.SHUT_RDWR)
        port.close()


@contextmanager
def _explaining_errors(path: str) -> Iterator[None]:
    """Make an error name the port, what is wrong with it, and what to do."""
    try:
        yield
    except PortInUse:
        raise
    except (OSError, termios.error) as exc:
        # If the device refuses its settings, pyserial keeps only the text of termios.error.
        cause = exc.__context__ if isinstance(exc.__context__, termios.error) else exc
        number = cause.args[0] if cause.args else None
        if number in {EAGAIN, EBUSY}:  # of flock, and of open() where TIOCEXCL is set
            raise PortInUse.of(path) from exc
        if number == EACCES:
            text = (
                f"{os.strerror(number)}: the exporter's user is not in the group that may open it"
            )
            raise OSError(number, text, path) from exc
        if number == ENOTTY:
            raise OSError(number, "it is not a serial port", path) from exc
        if isinstance(number, int):
            raise OSError(number, os.strerror(number), path) from exc
        if path not in str(exc):
            raise OSError(f"{path}: {exc}") from exc
        raise


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
        """Receive data. A checkpoint; a cancellation takes up to `_READ_TIMEOUT`."""
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
