"""The client's end of a loan: a file or stream to read from (a source) or write to (a sink).

This module knows neither raw streams nor client classes.
"""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from io import TextIOBase
from pathlib import Path
from typing import Any, Final, Protocol

from .._io.file_operations import FileOperations
from .._io.files import Unchanged, open_sink, open_source
from .._io.transfer import CHUNK_SIZE, Chunks
from .._util.writes import check_sent, write_all
from ..errors import ArgumentError

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = [
    "READ_AHEAD",
    "READ_SIZE",
    "Sink",
    "Source",
    "file_sink",
    "file_source",
    "sink_of",
    "source_of",
]

READ_SIZE: Final = 8 * CHUNK_SIZE  # per read of a file: a worker thread costs as much as one chunk
READ_AHEAD: Final = 1  # reads that may wait to be sent


class Source(Protocol):
    """Returns the next chunks, and an empty list at the end."""

    def __call__(self) -> Awaitable[Chunks]: ...


class Sink(Protocol):
    """Takes chunks."""

    def __call__(self, chunks: Chunks) -> Awaitable[object]: ...


@asynccontextmanager
async def file_source(path: Path) -> AsyncIterator[tuple[Source, int | None]]:
    """Open a local file for reading.

    Yields:
        Its source, and its size.

    Raises:
        OSError: It cannot be read, or changed while it was read.
    """
    # Reused buffers: memory that one thread allocates and another frees costs more than a copy.
    buffers = itertools.cycle(memoryview(bytearray(READ_SIZE)) for _ in range(2 * READ_AHEAD + 2))
    operations = FileOperations(str(path))
    async with open_source(path, operations) as file:

        def read() -> list[memoryview]:
            buffer = next(buffers)
            return _cut(buffer[: file.readinto(buffer)])

        yield partial(operations.run, read), file.size


def _cut(data: memoryview) -> list[memoryview]:
    return [data[start : start + CHUNK_SIZE] for start in range(0, len(data), CHUNK_SIZE)]


@asynccontextmanager
async def file_sink(path: Path) -> AsyncIterator[Sink]:
    """Open a local file for writing. It appears under its name once it is complete.

    A device, or anything else that is not a regular file, is written directly.
    """
    operations = FileOperations(str(path))
    async with open_sink(path, operations) as file:
        yield partial(operations.run, file.write)


@asynccontextmanager
async def source_of(stream: Any, size: int | None) -> AsyncIterator[tuple[Source, int | None]]:
    """Make a source of a Trio stream, or of a blocking binary one.

    Args:
        stream: The stream. A thread that still waits in a blocking read at the end is abandoned,
            see `_io.file_operations`. If it has the descriptor of a regular file that changes while
            it is read, that is an error.
        size: How many bytes it will return, if known.

    Raises:
        ArgumentError: It is neither.
    """
    stream = _binary(stream, "rb")
    read: Callable[[], Awaitable[Any]]
    if hasattr(stream, "receive_some"):
        read = stream.receive_some
    elif hasattr(stream, "read"):
        blocking = getattr(stream, "read1", stream.read)
        read = partial(
            FileOperations(_name_of(stream)).run, _read_from, blocking, _unchanged(stream)
        )
    else:
        raise ArgumentError(f"a {type(stream).__name__} cannot be read: {_instead_of(stream)}")

    yield partial(_read_chunks, read, f"reading from a {type(stream).__name__}"), size


@asynccontextmanager
async def sink_of(stream: Any) -> AsyncIterator[Sink]:
    """Make a sink of a Trio stream, or of a blocking binary one.

    Raises:
        ArgumentError: It is neither.
    """
    stream = _binary(stream, "wb")
    if hasattr(stream, "send_all"):
        what = f"{type(stream).__name__}.send_all()"

        async def send(chunks: Chunks) -> None:
            for chunk in chunks:
                check_sent(await stream.send_all(chunk), len(chunk), what)

        yield send
    elif hasattr(stream, "write"):
        operations = FileOperations(_name_of(stream))
        yield partial(operations.run, _write_to, stream)
        if hasattr(stream, "flush"):
            await operations.run(stream.flush)
    else:
        raise ArgumentError(f"a {type(stream).__name__} cannot be written: {_instead_of(stream)}")


def _binary(stream: Any, mode: str) -> Any:
    """Return the file that a Trio file wraps, or the stream itself. Refuse a text file."""
    stream = getattr(stream, "wrapped", stream)
    if isinstance(stream, TextIOBase):
        text = f"a {type(stream).__name__} is a text stream, and drivers read and write bytes"
        raise ArgumentError(f'{text}: open the file with "{mode}", or lend an io.BytesIO')
    return stream


def _instead_of(stream: object) -> str:
    if isinstance(stream, str | os.PathLike):
        return "local_file() lends a file by its path"
    is_data = isinstance(stream, bytes | bytearray | memoryview)
    return "lend an io.BytesIO() of it" if is_data else "lend a binary stream"


async def _read_chunks(read: Callable[[], Awaitable[Any]], what: str) -> list[memoryview]:
    """Read the bytes that are there. None and other values that are not bytes are errors."""
    data = await read()
    if data is None:
        text = f"{what} gave None: the stream does not block, and has no bytes yet"
        raise BlockingIOError(errno.EAGAIN, f"{text}; lend one that blocks")
    try:
        return _cut(memoryview(data).cast("B"))
    except TypeError:
        text = f"{what} gave {type(data).__name__}, where bytes are expected"
        raise ArgumentError(f"{text}: lend a binary stream") from None


def _name_of(stream: object) -> str:
    return str(getattr(stream, "name", f"a {type(stream).__name__}"))


def _unchanged(stream: Any) -> Unchanged | None:
    """Return a check for changes of the file that a stream reads; None if it reads no file."""
    try:
        descriptor = stream.fileno()
        return Unchanged(descriptor, _name_of(stream)) if isinstance(descriptor, int) else None
    except (AttributeError, OSError, ValueError):  # no descriptor: `io` raises each of these
        return None


def _read_from(read: Callable[[int], Any], unchanged: Unchanged | None) -> Any:
    """Read from a blocking stream, in a thread; at the end, check that its file is unchanged."""
    data = read(READ_SIZE)
    if unchanged is not None and data is not None and not data:
        unchanged.check()
    return data


def _write_to(stream: Any, chunks: Chunks) -> None:
    for chunk in chunks:
        write_all(stream, chunk)
