"""Local files as anyio streams, for what a client lends in the published way.

They are for Trio code. A file that is written appears under its name once it is complete.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from .._util.extras import requires_extra
from ._loan_ends import Sink, Source, file_sink, file_source

with requires_extra("compat", "the client of a flasher"):
    import anyio
    from anyio.abc import ObjectStream

    from ._progress_attribute import ProgressAttribute

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["open_reader", "open_writer"]

_BATCH = 8  # chunks that are written to a file together


@asynccontextmanager
async def open_reader(
    path: Path, *, compressed: bool = False
) -> AsyncIterator[ObjectStream[bytes]]:
    """Open a local file as a stream to receive from.

    Args:
        path: The file.
        compressed: The exporter expands it. Its compressor for the other direction then sends a few
            bytes although the driver has written nothing: they are dropped. Otherwise it is an
            error if the driver writes.

    Yields:
        The stream, of pieces of 64 KiB. It says how many bytes it has, by
        `ProgressAttribute.total`.

    Raises:
        OSError: It cannot be read, or (from the stream, or on leaving) changed while it was read.
    """
    async with file_source(path) as (source, size):
        yield _Reader(source, size, drops=compressed)


@asynccontextmanager
async def open_writer(path: Path) -> AsyncIterator[ObjectStream[bytes]]:
    """Open a local file as a stream to send to.

    If the block raises, a regular file that was there before stays as it was.

    Raises:
        OSError: It cannot be written.
    """
    async with file_sink(path) as sink:
        stream = _Writer(sink)
        yield stream
        await stream.flush()


class _Reader(ObjectStream[bytes]):
    """Receives what a file has."""

    def __init__(self, source: Source, size: int | None, *, drops: bool) -> None:
        self._source = source
        self._size = size
        self._drops = drops
        self._chunks: deque[bytes] = deque()

    async def receive(self) -> bytes:
        if not self._chunks:
            # Copies: the source uses its buffers again.
            self._chunks.extend(map(bytes, await self._source()))
        if not self._chunks:
            raise anyio.EndOfStream
        return self._chunks.popleft()

    async def send(self, item: bytes) -> None:
        if not self._drops:
            text = f"the driver has written {len(item)} bytes to a file that is lent for reading"
            raise anyio.BrokenResourceError(text)

    async def send_eof(self) -> None:
        """Do nothing: nothing was sent."""

    async def aclose(self) -> None:
        """Do nothing: the block that opened the file closes it."""

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        total = self._size
        return {} if not total else {ProgressAttribute.total: lambda: float(total)}


class _Writer(ObjectStream[bytes]):
    """Sends to a file."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._chunks: list[bytes] = []

    async def send(self, item: bytes) -> None:
        self._chunks.append(bytes(item))
        if len(self._chunks) >= _BATCH:
            await self.flush()

    async def flush(self) -> None:
        chunks, self._chunks = self._chunks, []
        if chunks:
            await self._sink(chunks)

    async def receive(self) -> bytes:
        raise anyio.EndOfStream

    async def send_eof(self) -> None:
        await self.flush()

    async def aclose(self) -> None:
        """Do nothing: the block that opened the file closes it."""
