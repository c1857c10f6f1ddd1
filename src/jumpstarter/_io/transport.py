"""The byte stream under a connection, with what a multiplexer wants beside `trio.abc.Stream`.

A multiplexer wants to write several buffers at once, and to try a write without waiting: a frame
that fits the kernel's queue is gone before the next line of code, with no task switched. A socket
can do both; any other stream (TLS, memory) is written through its `send_all`, never without
waiting.

A write that is cancelled leaves half a frame on the wire, so only a connection's one writer writes,
and a failed or cancelled write ends the connection.

Bulk is read by the queueful. Most reads are small and wait; but behind a full one the next is tried
before it waits, and takes all that the kernel has, into a buffer that a thread's connections share.

This file knows nothing of frames.
"""

from __future__ import annotations

import functools
import os
import socket
import threading
from collections.abc import Sequence
from typing import Final, Protocol

import trio

from .._util.fork import close_without_fork

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["SocketTransport", "StreamTransport", "Transport", "close_at_once", "transport_for"]

_READ: Final = 64 * 1024  # bytes: what Trio reads at once
_BULK: Final = 256 * 1024  # bytes: more than a Unix socket queues by default
_KEPT: Final = 4 * 1024 * 1024  # bytes: half of what is kept, enough for an echo of 1 MiB
_PIECE: Final = 32 * 1024  # bytes in one `send_all`: what a peer must take to show that it reads
_MAX_BUFFERS: Final = 512  # buffers in one call; the kernel's own limit is 1,024

Buffer = bytes | bytearray | memoryview
Received = bytes | memoryview


class Transport(Protocol):
    """A byte stream for one reader and one writer.

    Attributes:
        keepalive: True if a peer can vanish without the system telling us.
        silent: True if a peer can fall silent without the system telling us: it can be stopped.
    """

    keepalive: bool
    silent: bool

    def try_write(self, buffers: Sequence[Buffer]) -> list[Buffer]:
        """Write what can be written at once, and give back the rest. Never waits.

        Raises:
            OSError: The stream is broken.
        """

    async def write(self, buffers: Sequence[Buffer], stall: float) -> None:
        """Write everything. A checkpoint only if it has to wait.

        Raises:
            trio.BrokenResourceError: The stream is broken.
            trio.TooSlowError: For `stall` seconds the peer took nothing.
        """

    async def read(self) -> Received:
        """Give the next bytes, none at the end. They are there until the next checkpoint.

        Raises:
            trio.BrokenResourceError: The stream is broken.
        """

    async def read_on(self) -> Received | None:
        """Do as `read` does, if more is likely to be there already; else, or if not, give None.

        A checkpoint if it looks.
        """

    async def aclose(self) -> None:
        """Close the stream at once, even when cancelled."""


class StreamTransport:
    """Any Trio stream."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        inner = getattr(stream, "transport_stream", stream)  # what a TLS stream runs over
        self.keepalive = self.silent = _is_remote(inner)

    def try_write(self, buffers: Sequence[Buffer]) -> list[Buffer]:
        """Nothing can be written without waiting."""
        return list(buffers)

    async def write(self, buffers: Sequence[Buffer], stall: float) -> None:
        """See `Transport`. Each piece counts as a step of progress."""
        data = memoryview(b"".join(buffers))
        for start in range(0, len(data), _PIECE):
            with trio.fail_after(stall):
                try:
                    await self._stream.send_all(data[start : start + _PIECE])
                except (OSError, trio.BrokenResourceError) as exc:
                    raise _broken("write", exc) from exc

    async def read(self) -> bytes:
        """See `Transport`."""
        try:
            return bytes(await self._stream.receive_some(_READ))
        except (OSError, trio.BrokenResourceError) as exc:
            raise _broken("read", exc) from exc

    async def read_on(self) -> Received | None:
        """See `Transport`. Nothing is known of what is there."""
        return None

    async def aclose(self) -> None:
        """See `Transport`. TLS says no goodbye to a peer that may not listen."""
        await close_at_once(self._stream)


class SocketTransport:
    """A TCP or Unix socket."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._fd = stream.socket.fileno()
        self._much = False  # the last read was a full one, or more
        self.keepalive: bool = _is_remote(stream)
        self.silent: bool = True

    def try_write(self, buffers: Sequence[Buffer]) -> list[Buffer]:
        """See `Transport`."""
        if len(buffers) == 1:
            return self._try_write_one(buffers[0])
        rest = list(buffers)
        while rest:
            try:
                written = os.writev(self._fd, rest[:_MAX_BUFFERS])
            except BlockingIOError:
                break
            rest = _after(rest, written)
        return rest

    def _try_write_one(self, buffer: Buffer) -> list[Buffer]:
        """The same for what a call alone sends, without the lists around it."""
        try:
            written = os.writev(self._fd, (buffer,))
        except BlockingIOError:
            return [buffer]
        return [] if written == len(buffer) else [memoryview(buffer)[written:]]

    async def write(self, buffers: Sequence[Buffer], stall: float) -> None:
        """See `Transport`."""
        try:
            rest = self.try_write(buffers)
            if not rest:
                return
            with trio.CancelScope() as scope:  # one for all: each costs as much as a small write
                while rest:
                    scope.deadline = trio.current_time() + stall
                    try:
                        await trio.lowlevel.wait_writable(self._stream.socket)
                    except trio.ClosedResourceError:
                        if self._fd < 0:
                            raise  # else it was for a reader that is to `stop_waiting`
                    rest = self.try_write(rest)
        except OSError as exc:
            raise _broken("write", exc) from exc
        if scope.cancelled_caught:
            raise trio.TooSlowError

    async def read(self) -> Received:
        """See `Transport`. A checkpoint.

        It waits first and reads then: most often the next frame is a round trip away, and to look
        for it at once is a system call for nothing.
        """
        while True:
            try:
                await trio.lowlevel.wait_readable(self._stream.socket)
                data = self.try_read()
            except OSError as exc:
                raise _broken("read", exc) from exc
            if data is not None:
                return data

    async def read_on(self) -> Received | None:
        """See `Transport`. Behind much, more is likely: its sender goes on as we make room."""
        if not self._much:
            return None
        await trio.lowlevel.checkpoint()
        try:
            data = _read_much(self._fd)
        except BlockingIOError:
            self._much = False
            return None
        except OSError as exc:
            raise _broken("read", exc) from exc
        self._much = len(data) >= _READ
        return data

    def try_read(self) -> bytes | None:
        """Give what has come, nothing at the end, None if it is nothing yet. Never waits.

        The bytes are an object of their own, so any thread may call it, in the midst of anything.

        Raises:
            OSError: The stream is broken.
        """
        try:
            data = os.read(self._fd, _READ)
        except BlockingIOError:
            self._much = False
            return None
        self._much = len(data) >= _READ
        return data

    def stop_waiting(self) -> None:
        """Have a `read` that waits raise ClosedResourceError. It may be called again.

        A `write` that waits looks again, and goes on.
        """
        trio.lowlevel.notify_closing(self._stream.socket)

    def fileno(self) -> int:
        """Give the socket's descriptor, for who waits for it without Trio."""
        return self._fd

    async def aclose(self) -> None:
        """See `Transport`."""
        self._fd = -1
        await close_at_once(self._stream)


async def close_at_once(stream: trio.abc.Stream) -> None:
    """Close a stream, even when cancelled. Closing it again is allowed.

    A socket is closed as Trio would, but for the checkpoint: to skip that takes Trio a scope and an
    exception, a tenth of what a short connection costs.
    """
    inner = getattr(stream, "transport_stream", stream)  # what a TLS stream runs over
    if isinstance(inner, trio.SocketStream):
        close_without_fork(inner.socket)
    if inner is not stream or not isinstance(inner, trio.SocketStream):
        await trio.aclose_forcefully(stream)


def transport_for(stream: trio.abc.Stream) -> Transport:
    """Choose the transport for a stream."""
    if isinstance(stream, trio.SocketStream):
        return SocketTransport(stream)
    return StreamTransport(stream)


class _Bulk(threading.local):
    """What a thread reads bulk into: none until it does."""

    buffer: bytearray | None = None


_bulk: Final = _Bulk()


def _read_much(fd: int) -> memoryview:
    """Read what there is. Only for the loop's own tasks, which cannot interrupt each other."""
    if _bulk.buffer is None:
        _keep_memory()
        _bulk.buffer = bytearray(_BULK)
    size = os.readv(fd, (_bulk.buffer,))
    return memoryview(_bulk.buffer)[:size]


@functools.cache
def _keep_memory() -> None:
    """Have the C library keep up to 8 MiB that bulk frees, for the next piece. Once is enough.

    glibc gives the end of its heap back as soon as 128 KiB are free there, and every page of the
    next piece is a page fault then: half the cost of receiving it. But whoever has freed a larger
    block is left with twice as much from then on. This one is never touched, so it costs nothing.
    """
    bytes(_KEPT)


def _is_remote(stream: object) -> bool:
    if not isinstance(stream, trio.SocketStream):
        return False
    return stream.socket.family in {socket.AF_INET, socket.AF_INET6}


def _broken(verb: str, exc: Exception) -> trio.BrokenResourceError:
    """Say what the system or TLS has said, which Trio keeps as the cause of its own error."""
    why = exc.__cause__ or str(exc) or "the stream is broken"
    return trio.BrokenResourceError(f"{verb} failed: {why}")


def _after(buffers: list[Buffer], written: int) -> list[Buffer]:
    """Cut what was written off the front."""
    if written == sum(map(len, buffers)):
        return []
    for index, buffer in enumerate(buffers):
        if written < len(buffer):
            return [memoryview(buffer)[written:], *buffers[index + 1 :]]
        written -= len(buffer)
    return []
