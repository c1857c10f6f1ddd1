"""What a client lends to a driver: a source that the driver reads, or a sink that it writes.

While the block that lends is open, a task carries the bytes between the source or sink and a raw
stream. What its own end fails with is what the block raises, and the driver never takes bytes that
were cut short for all of them, nor does a sink.

This file knows raw streams, and nothing of portals or of client classes.
"""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from io import TextIOBase
from pathlib import Path
from typing import Any, Final, Protocol

import trio

from .._io.files import Steps, Unchanged, to_read, to_write
from .._io.transfer import (
    CHUNK_SIZE,
    MAX_BYTES,
    Chunks,
    CompressingWriter,
    DecompressingReader,
    pipe,
)
from .._util.background import open_background
from .._util.checks import check_callable, check_flag, check_int
from .._util.writes import check_sent, write_all
from ..errors import ArgumentError, DriverError
from ._progress import Meter, Progress, meter_for
from ._raw_streams import RemoteStream

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["COLLECTED", "Lending", "file_sink", "file_source", "sink_of", "source_of"]

_READ: Final = (
    8 * CHUNK_SIZE
)  # of a file at once: the way to a worker thread costs as much as one piece
_READ_AHEAD: Final = 1
COLLECTED: Final = 8  # pieces that are written to a file at once
_WRITE_AFTER: Final = 16  # pieces that may wait for one that is being written


class Source(Protocol):
    """Gives the next pieces, an empty list at the end."""

    def __call__(self) -> Awaitable[Chunks]: ...


class Sink(Protocol):
    """Takes pieces."""

    def __call__(self, pieces: Chunks) -> Awaitable[object]: ...


@dataclass(frozen=True, kw_only=True)
class Lending:
    """What is lent, and how.

    Attributes:
        title: How a progress bar names it.
        source: Opens what the driver reads, and says how many bytes it has if that is known.
        sink: Opens what the driver writes, instead.
        size: Bytes that a driver will write, if that is known.
        collect: How many pieces a sink is given at once, unless they are the last ones.
        compress: Let zstd make the bytes fewer on their way.
        progress: See `Progress`.
        max_bytes: How many a driver may write, once expanded.
    """

    title: str
    source: AbstractAsyncContextManager[tuple[Source, int | None]] | None = None
    sink: AbstractAsyncContextManager[Sink] | None = None
    size: int | None = None
    collect: int = 1
    compress: bool = False
    progress: Progress = None
    max_bytes: int = MAX_BYTES

    def __post_init__(self) -> None:
        """Check what the caller has passed."""
        check_int("max_bytes", self.max_bytes, 0)
        check_flag("compress", self.compress)
        if self.progress is not None and not isinstance(self.progress, bool):
            check_callable("progress", self.progress, "a function, True, False or None")

    @property
    def mode(self) -> str:
        """What the driver does, as the exporter is told."""
        return "read" if self.source is not None else "write"

    @property
    def encoding(self) -> str:
        """How the bytes are compressed, as the exporter is told."""
        return "zstd" if self.compress else ""

    @asynccontextmanager
    async def carry(self, stream: RemoteStream) -> AsyncIterator[str]:
        """Carry the bytes for the length of the block.

        Args:
            stream: Was opened for it; is closed at the end.

        Yields:
            The handle.
        """
        try:
            handle = stream.metadata
            if not isinstance(handle, str):
                raise DriverError(f"the exporter gave the handle {handle!r:.100}, which is no text")
            if self.source is not None:
                async with (
                    self.source as (read, size),
                    meter_for(self.progress, self.title, size) as meter,
                    _Reading(stream, read, meter, self.encoding).beside(),
                ):
                    yield handle
            elif self.sink is not None:
                async with (
                    self.sink as write,
                    meter_for(self.progress, self.title, self.size) as meter,
                    _Writing(stream, write, meter, self).beside(),
                ):
                    yield handle
        finally:
            await stream.abort()


class _ResourceTransfer:
    """The task that carries bytes, beside a block.

    Attributes:
        failure: What our end has failed with.
        complete: All bytes were carried.
        done: No more will be.
    """

    def __init__(self, stream: RemoteStream) -> None:
        self.stream = stream
        self.failure: Exception | None = None
        self.complete = False
        self.done = trio.Event()

    @asynccontextmanager
    async def beside(self) -> AsyncIterator[None]:
        """Run it beside the block. What our own end has failed with leaves in place of all else."""
        try:
            async with open_background() as nursery:
                nursery.start_soon(self._run)
                yield
                await self.finish()
        except DriverError as exc:  # often only what came of it at the driver's end
            if self.failure is not None:
                raise self.failure from exc
            raise
        if self.failure is not None:
            raise self.failure

    async def _run(self) -> None:
        try:
            await self.carry()
        except _PeerClosed:
            pass  # what that was, the stream tells
        except Exception as exc:  # noqa: BLE001 - raised by `beside` as it is
            self.failure = exc
            await self.stream.excuse(exc)
            await self.stream.abort()  # the driver shall learn of it now
        finally:
            self.done.set()

    async def carry(self) -> None:
        """Carry bytes to their end."""
        raise NotImplementedError

    async def finish(self) -> None:
        """The block was left as it should be."""
        raise NotImplementedError


class _Reading(_ResourceTransfer):
    """The driver reads."""

    def __init__(self, stream: RemoteStream, read: Source, meter: Meter, encoding: str) -> None:
        super().__init__(stream)
        self._read = read
        self._meter = meter
        self._flow = CompressingWriter(partial(_map_stream_errors, stream.send_all), encoding)

    async def carry(self) -> None:
        await pipe(self._read, self._send, _READ_AHEAD)
        await self._flow.finish()
        await _map_stream_errors(self.stream.send_eof)
        self.complete = True

    async def _send(self, pieces: Chunks) -> None:
        for piece in pieces:
            await self._flow.send_all(piece)
            self._meter.advance(len(piece))

    async def finish(self) -> None:
        """Let the driver take the rest, if all was sent; otherwise, it is taken back."""
        if self.complete:
            await self.stream.aclose()


class _Writing(_ResourceTransfer):
    """The driver writes."""

    def __init__(self, stream: RemoteStream, write: Sink, meter: Meter, how: Lending) -> None:
        super().__init__(stream)
        receive = partial(_map_stream_errors, stream.receive_some)
        self._flow = DecompressingReader(receive, how.encoding, how.max_bytes)
        self._collect = how.collect
        self._write = write
        self._meter = meter

    async def carry(self) -> None:
        await pipe(self._receive, self._take, _WRITE_AFTER // self._collect)
        self.complete = True

    async def _receive(self) -> list[bytes]:
        pieces: list[bytes] = []
        while len(pieces) < self._collect and (data := await self._flow.receive_some()):
            pieces.append(data)
        return pieces

    async def _take(self, pieces: Chunks) -> None:
        await self._write(pieces)
        self._meter.advance(sum(map(len, pieces)))

    async def finish(self) -> None:
        """Wait until the driver has written all, and it is where it belongs."""
        with suppress(_PeerClosed):
            await _map_stream_errors(self.stream.send_eof)
        await self.done.wait()
        if self.failure is None:
            await self.stream.aclose()
            self.stream.check()
            if not self.complete:
                raise DriverError("the client was closed before the driver had written all")


class _PeerClosed(Exception):
    """The driver's end of the stream has gone."""


async def _map_stream_errors(function: Callable[..., Awaitable[Any]], *args: Any) -> Any:
    """Tell a failure of the stream to the driver from one of a stream that was lent."""
    try:
        return await function(*args)
    except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
        raise _PeerClosed from exc


# ------------------------------------------------------------------------------------ both ends


@asynccontextmanager
async def file_source(path: Path) -> AsyncIterator[tuple[Source, int | None]]:
    """Open a local file, to be read. One that changes meanwhile is an error."""
    # Memory that one thread takes and another gives back costs more than to copy it once.
    buffers = itertools.cycle(memoryview(bytearray(_READ)) for _ in range(2 * _READ_AHEAD + 2))
    steps = Steps(str(path))
    async with to_read(path, steps) as file:

        def read() -> list[memoryview]:
            buffer = next(buffers)
            return _cut(buffer[: file.readinto(buffer)])

        yield partial(steps.run, read), file.size


def _cut(data: memoryview) -> list[memoryview]:
    return [data[start : start + CHUNK_SIZE] for start in range(0, len(data), CHUNK_SIZE)]


@asynccontextmanager
async def file_sink(path: Path) -> AsyncIterator[Sink]:
    """Open a local file, to be written: it is there, under its name, once it is complete.

    What is no regular file, a device for example, is written as it is.
    """
    steps = Steps(str(path))
    async with to_write(path, steps) as file:
        yield partial(steps.run, file.write)


@asynccontextmanager
async def source_of(stream: Any, size: int | None) -> AsyncIterator[tuple[Source, int | None]]:
    """Take what is lent for reading: a Trio stream, or a blocking binary one.

    Args:
        stream: That. A thread that waits in a blocking read when nobody wants it any more is left
            to itself, see `_files`. One with the descriptor of a regular file is an error if that
            changes meanwhile.
        size: Bytes it will give, if that is known.

    Raises:
        ArgumentError: It is neither.
    """
    stream = _binary(stream, "rb")
    read: Callable[[], Awaitable[Any]]
    if hasattr(stream, "receive_some"):
        read = stream.receive_some
    elif hasattr(stream, "read"):
        blocking = getattr(stream, "read1", stream.read)
        read = partial(Steps(_name_of(stream)).run, _read_from, blocking, _unchanged(stream))
    else:
        raise ArgumentError(f"a {type(stream).__name__} cannot be read: {_instead_of(stream)}")

    yield partial(_read_pieces, read, f"reading from a {type(stream).__name__}"), size


@asynccontextmanager
async def sink_of(stream: Any) -> AsyncIterator[Sink]:
    """Take what is lent for writing: a Trio stream, or a blocking binary one.

    Raises:
        ArgumentError: It is neither.
    """
    stream = _binary(stream, "wb")
    if hasattr(stream, "send_all"):
        what = f"{type(stream).__name__}.send_all()"

        async def send(pieces: Chunks) -> None:
            for piece in pieces:
                check_sent(await stream.send_all(piece), len(piece), what)

        yield send
    elif hasattr(stream, "write"):
        steps = Steps(_name_of(stream))
        yield partial(steps.run, _write_to, stream)
        if hasattr(stream, "flush"):
            await steps.run(stream.flush)
    else:
        raise ArgumentError(f"a {type(stream).__name__} cannot be written: {_instead_of(stream)}")


def _binary(stream: Any, mode: str) -> Any:
    """Give what a Trio file wraps, or the stream itself. A text file is refused."""
    stream = getattr(stream, "wrapped", stream)
    if isinstance(stream, TextIOBase):
        text = f"a {type(stream).__name__} has text, and a driver takes and gives bytes"
        raise ArgumentError(f'{text}: open the file with "{mode}", or lend an io.BytesIO')
    return stream


def _instead_of(stream: object) -> str:
    if isinstance(stream, str | os.PathLike):
        return "local_file() lends a file by its path"
    is_data = isinstance(stream, bytes | bytearray | memoryview)
    return "lend an io.BytesIO() of it" if is_data else "lend a binary stream"


async def _read_pieces(read: Callable[[], Awaitable[Any]], what: str) -> list[memoryview]:
    """Read what there is. Only bytes are: None, for one, is neither bytes nor the end."""
    data = await read()
    if data is None:
        text = f"{what} gave None: it does not block, and has nothing now"
        raise BlockingIOError(errno.EAGAIN, f"{text}; lend one that blocks")
    try:
        return _cut(memoryview(data).cast("B"))
    except TypeError:
        text = f"{what} gave {type(data).__name__}, where bytes are expected"
        raise ArgumentError(f"{text}: lend a binary stream") from None


def _name_of(stream: object) -> str:
    return str(getattr(stream, "name", f"a {type(stream).__name__}"))


def _unchanged(stream: Any) -> Unchanged | None:
    """Look at the file that a stream reads, if it says which and that is a file."""
    try:
        descriptor = stream.fileno()
        return Unchanged(descriptor, _name_of(stream)) if isinstance(descriptor, int) else None
    except (AttributeError, OSError, ValueError):  # it has none; `io` says so in each of these ways
        return None


def _read_from(read: Callable[[int], Any], unchanged: Unchanged | None) -> Any:
    """Read some bytes from a blocking stream, and look at its file at the end. In a thread."""
    data = read(_READ)
    if unchanged is not None and data is not None and not data:
        unchanged.check()
    return data


def _write_to(stream: Any, pieces: Chunks) -> None:
    for piece in pieces:
        write_all(stream, piece)
