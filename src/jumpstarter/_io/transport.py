"""The byte stream under a connection, with the two operations that a multiplexer needs in addition.

A multiplexer writes several buffers in one call, and tries a write without waiting: a frame that
fits into the kernel's queue has left before the next line of code runs, and no task was switched. A
socket can do both, and so can TLS over a socket (`tls`). Every other stream, such as one in memory,
is written by its `send_all`, never without waiting.

A cancelled write leaves half a frame on the wire. Therefore only a connection's writer writes, and
a failed or cancelled write ends the connection.

Most reads are small and wait. After a full read the transport expects more, tries the next read
before it waits, and takes all that the kernel has, up to 256 KiB, into a buffer that all
connections of a thread share.

Bulk is faster if the C library keeps the memory that it frees (`_tune_malloc`). Set the environment
variable JUMPSTARTER_TUNE_MALLOC to 0 to leave the allocator alone.

This module does not know frames.
"""

from __future__ import annotations

import errno
import functools
import os
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Final, Protocol

import trio

from .. import _nonblocking
from .._util.fork import close_without_fork

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = [
    "Buffer",
    "Chunk",
    "SocketTransport",
    "StreamTransport",
    "Transport",
    "broken",
    "close_immediately",
    "transport_for",
]

_READ_SIZE: Final = 65 * 1024  # bytes: a frame of 64 KiB, and some small ones
_BULK_SIZE: Final = 256 * 1024  # bytes: more than a Unix socket queues by default
_FREED: Final = 4 * 1024 * 1024  # bytes: half of what malloc then keeps; enough to echo 1 MiB
_SEND_SIZE: Final = 32 * 1024  # bytes per `send_all`; a peer that takes that many is not stalled
_MAX_BUFFERS: Final = 512  # buffers per `write_many`; the kernel's own limit is 1,024

_NO_LOCK: Final = nullcontext()

Buffer = bytes | bytearray | memoryview
Chunk = bytes | memoryview  # bytes that were read


class Transport(Protocol):
    """A byte stream with one reader and one writer.

    Attributes:
        keepalive: True if the peer's machine can vanish without the system reporting it.
        silent: True if the peer can fall silent without the system reporting it, as one does that
            was stopped.
    """

    keepalive: bool
    silent: bool

    def try_write(self, buffers: Sequence[Buffer]) -> list[Buffer]:
        """Write as much as is possible without waiting, and return the rest.

        Raises:
            OSError: The stream is broken.
        """

    async def write(
        self,
        buffers: Sequence[Buffer],
        stall: float,
        lock: AbstractContextManager[object] = _NO_LOCK,
    ) -> None:
        """Write everything, once the stream takes more. A checkpoint.

        Args:
            buffers: The bytes, which `try_write` has not taken.
            stall: How long the peer may take nothing, in seconds.
            lock: Held whenever the stream is used, and not while it waits: a thread may read.

        Raises:
            trio.BrokenResourceError: The stream is broken.
            trio.TooSlowError: The peer took nothing for `stall` seconds.
        """

    async def read(self) -> Chunk:
        """Return the next bytes, or none at the end. A checkpoint; cancelling it loses nothing.

        The caller uses them before its next checkpoint: their memory may be used again then.

        Raises:
            trio.BrokenResourceError: The stream is broken.
        """

    async def aclose(self) -> None:
        """Close the stream without waiting for the peer, even when cancelled."""


class StreamTransport:
    """A transport over any Trio stream."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        inner = getattr(stream, "transport_stream", stream)  # what a TLS stream runs over
        self.keepalive = self.silent = _is_remote(inner)

    def try_write(self, buffers: Sequence[Buffer]) -> list[Buffer]:
        """See `Transport`. Returns everything: `send_all` may always have to wait."""
        return list(buffers)

    async def write(
        self,
        buffers: Sequence[Buffer],
        stall: float,
        lock: AbstractContextManager[object] = _NO_LOCK,
    ) -> None:
        """See `Transport`. Each piece of 32 KiB counts as progress."""
        del lock  # no thread uses such a stream
        data = memoryview(b"".join(buffers))
        for start in range(0, len(data), _SEND_SIZE):
            with trio.fail_after(stall):
                try:
                    await self._stream.send_all(data[start : start + _SEND_SIZE])
                except (OSError, trio.BrokenResourceError) as exc:
                    raise broken("write", exc) from exc

    async def read(self) -> bytes:
        """See `Transport`."""
        try:
            return bytes(await self._stream.receive_some(_READ_SIZE))
        except (OSError, trio.BrokenResourceError) as exc:
            raise broken("read", exc) from exc

    async def aclose(self) -> None:
        """See `Transport`. TLS sends no close_notify, for which it might have to wait."""
        await close_immediately(self._stream)


class SocketTransport:
    """A transport over a TCP or Unix socket.

    Attributes:
        expects_more: The loop's last read was a full one, so more is likely to be there: the sender
            writes on as it drains.
    """

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._fd = stream.socket.fileno()
        self.expects_more: bool = False
        self.keepalive: bool = _is_remote(stream)
        self.silent: bool = True

    def try_write(self, buffers: Sequence[Buffer]) -> list[Buffer]:
        """See `Transport`."""
        # The usual case of a single call, without building lists. Other threads run beside bulk.
        if len(buffers) == 1 and len(buffers[0]) <= _READ_SIZE:
            buffer = buffers[0]
            written = _nonblocking.write(self._fd, buffer)
            return [] if written == len(buffer) else [memoryview(buffer)[written:]]
        rest = list(buffers)
        while rest:
            try:
                written = _nonblocking.write_many(self._fd, rest[:_MAX_BUFFERS])
            except BlockingIOError:
                break
            rest = _after(rest, written)
        return rest

    async def write(
        self,
        buffers: Sequence[Buffer],
        stall: float,
        lock: AbstractContextManager[object] = _NO_LOCK,
    ) -> None:
        """See `Transport`."""
        rest = buffers
        try:
            if self._fd < 0:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            with trio.CancelScope() as scope:  # one for all: a scope costs as much as a small write
                scope.deadline = trio.current_time() + stall
                while rest:
                    try:
                        await trio.lowlevel.wait_writable(self._stream.socket)
                    except trio.ClosedResourceError:
                        if self._fd < 0:
                            raise
                        continue  # it was meant for a task that waits to read
                    with lock:
                        rest = self.try_write(rest)
                    scope.deadline = trio.current_time() + stall
        except OSError as exc:
            raise broken("write", exc) from exc
        if scope.cancelled_caught:
            raise trio.TooSlowError

    async def read(self) -> Chunk:
        """See `Transport`.

        Waits before it reads: most often the next frame is a round trip away, and an earlier try
        would be a system call for nothing.
        """
        while True:
            try:
                await trio.lowlevel.wait_readable(self._stream.socket)
                data = self.try_read_on()
            except OSError as exc:
                raise broken("read", exc) from exc
            if data is not None:
                return data

    def try_read(self) -> bytes | None:
        """Return what is there: nothing at the end, None if there is nothing yet. Never waits.

        Any thread may call it: the bytes are a new object, not the shared buffer. Its
        result says nothing about the loop's next read, so `expects_more` stays.

        Raises:
            OSError: The stream is broken.
        """
        return _nonblocking.read(self._fd, _READ_SIZE)

    def try_read_on(self) -> Chunk | None:
        """Do the same for the loop, which reads bulk into the shared buffer.

        Raises:
            OSError: The stream is broken.
        """
        data: Chunk | None
        if self.expects_more:
            data = _read_bulk(self._fd)
        else:
            data = _nonblocking.read(self._fd, _READ_SIZE)
        self.expects_more = data is not None and len(data) >= _READ_SIZE
        return data

    def fileno(self) -> int:
        """Return the socket's descriptor, for code that waits for it without Trio."""
        return self._fd

    async def aclose(self) -> None:
        """See `Transport`."""
        self._fd = -1
        await close_immediately(self._stream)


async def close_immediately(stream: trio.abc.Stream) -> None:
    """Close a stream without waiting for the peer, even when cancelled. Closing twice is allowed.

    Closes a socket itself, without a checkpoint: `trio.aclose_forcefully` needs a cancel scope and
    an exception for it, a tenth of the cost of a short connection.
    """
    inner = getattr(stream, "transport_stream", stream)  # what a TLS stream runs over
    if isinstance(inner, trio.SocketStream):
        close_without_fork(inner.socket)
    if inner is not stream or not isinstance(inner, trio.SocketStream):
        await trio.aclose_forcefully(stream)


def transport_for(stream: trio.abc.Stream) -> Transport:
    """Choose the transport for a stream. One with a `make_transport` makes its own."""
    if isinstance(stream, trio.SocketStream):
        return SocketTransport(stream)
    make: Callable[[], Transport] | None = getattr(stream, "make_transport", None)
    return StreamTransport(stream) if make is None else make()


class _Shared(threading.local):
    """The buffer that a thread reads bulk into, allocated when it first does."""

    buffer: bytearray | None = None


_shared: Final = _Shared()


def _read_bulk(fd: int) -> memoryview | None:
    """Read what is there into the shared buffer. Return None if there is nothing.

    Only for tasks of the loop: each uses the bytes before its next checkpoint, so no other task of
    the thread can overwrite them.
    """
    if _shared.buffer is None:
        _tune_malloc()
        _shared.buffer = bytearray(_BULK_SIZE)
    try:
        size = os.readv(fd, (_shared.buffer,))
    except BlockingIOError:
        return None
    return memoryview(_shared.buffer)[:size]


@functools.cache
def _tune_malloc() -> None:
    """Make glibc keep up to 8 MiB of freed memory. Once per process; does nothing elsewhere.

    glibc returns the end of its heap to the kernel when 128 KiB are free there. Every page of the
    next message is then a page fault, which is half of the cost of receiving it. When a larger
    block is freed, glibc raises that threshold to twice the block's size, for the whole process.
    The block is never touched, so it takes no memory.
    """
    if os.environ.get("JUMPSTARTER_TUNE_MALLOC", "1") != "0":
        bytes(_FREED)


def _is_remote(stream: object) -> bool:
    if not isinstance(stream, trio.SocketStream):
        return False
    return stream.socket.family in {socket.AF_INET, socket.AF_INET6}


def broken(verb: str, exc: Exception) -> trio.BrokenResourceError:
    """Report the error of the system or of TLS, which Trio keeps as the cause of its own."""
    why = exc.__cause__ or str(exc) or "the stream is broken"
    return trio.BrokenResourceError(f"{verb} failed: {why}")


def _after(buffers: list[Buffer], written: int) -> list[Buffer]:
    """Return the buffers without their first `written` bytes."""
    if written == sum(map(len, buffers)):
        return []
    for index, buffer in enumerate(buffers):
        if written < len(buffer):
            return [memoryview(buffer)[written:], *buffers[index + 1 :]]
        written -= len(buffer)
    return []
