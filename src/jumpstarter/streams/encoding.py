"""Compressed streams, for code in either kind of loop: gzip, xz, bz2 and zstd.

Damaged data and data that was cut short is an error, and a file may have several members. This
module needs the extra `compat`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Any, Final, Self

from .._util.compression import (
    SIGNATURES,
    Compression,
    Compressor,
    DamagedDataError,
    Decompressor,
    detect_compression,
)
from .._util.extras import requires_extra

with requires_extra("compat", "jumpstarter.streams.encoding"):
    import anyio
    from anyio.abc import AnyByteStream, ObjectStream

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = [
    "AutoDecompressIterator",
    "CompressedStream",
    "Compression",
    "compress_stream",
    "detect_compression_from_signature",
]

_PIECE: Final = 256 * 1024  # bytes that are returned or compressed together
_LONGEST_SIGNATURE: Final = max(map(len, SIGNATURES.values()))

detect_compression_from_signature = detect_compression


class _Expander:
    """Decompresses the pieces that a function returns, one bounded piece at a time.

    Args:
        compression: How they are compressed.
        receive: Returns the next piece, and raises `end` behind the last one.
        end: An exception.
    """

    def __init__(
        self,
        compression: Compression,
        receive: Callable[[], Any],
        end: type[Exception],
    ) -> None:
        self._codec = Decompressor(compression)
        self._receive = receive
        self._end = end

    def feed(self, data: bytes) -> None:
        """Add compressed bytes, before the first `next`."""
        self._codec.feed(data)

    async def next(self) -> bytes:
        """Return the next bytes, at least one. A checkpoint.

        Raises:
            RuntimeError: They are damaged or cut short.
            Exception: An `end`.
        """
        await anyio.lowlevel.checkpoint()
        try:
            while not (data := self._codec.read(_PIECE)):
                try:
                    self._codec.feed(await self._receive())
                except self._end:
                    self._codec.finish()
                    raise
        except DamagedDataError as exc:
            raise RuntimeError(f"Failed to decompress {self._codec.compression}: {exc}") from exc
        return data


@dataclass(kw_only=True)
class AutoDecompressIterator(AsyncIterator[bytes]):
    """Iterates over the decompressed bytes of a source, whose format it detects.

    Bytes in no known format are passed on as they are. Each item has at most 256 KiB if it was
    compressed.

    Attributes:
        source: Iterates over bytes.

    Raises:
        RuntimeError: (from an item) The compressed bytes are damaged or cut short.
        MissingExtra: (from the first item) They are compressed with zstd, and the extra `zstd` is
            not installed.
    """

    source: AsyncIterator[bytes]
    _head: bytes = field(init=False, default=b"", repr=False)
    _next: Callable[[], Any] | None = field(init=False, default=None, repr=False)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if self._next is None:
            self._next = await self._detect()
        data: bytes = await self._next()
        return data

    async def _detect(self) -> Callable[[], Any]:
        while len(self._head) < _LONGEST_SIGNATURE:
            try:
                self._head += await anext(self.source)
            except StopAsyncIteration:
                break
        compression = detect_compression(self._head)
        if compression is None:
            return self._pass_on
        expander = _Expander(compression, partial(anext, self.source), StopAsyncIteration)
        expander.feed(self._head)
        return expander.next

    async def _pass_on(self) -> bytes:
        head, self._head = self._head, b""
        return head or await anext(self.source)


@dataclass(kw_only=True)
class CompressedStream(ObjectStream[bytes]):
    """A stream that carries the compressed form of what is sent and received; `compress_stream`.

    Attributes:
        stream: Carries the compressed bytes.
        compression: How they are compressed.
    """

    stream: AnyByteStream
    compression: Compression
    _compressor: Compressor | None = field(init=False, repr=False)
    _expander: _Expander = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.compression = Compression(self.compression)
        self._compressor = Compressor(self.compression)
        self._expander = _Expander(self.compression, self.stream.receive, anyio.EndOfStream)

    async def send(self, item: bytes) -> None:
        """Compress and send bytes. A checkpoint.

        Raises:
            anyio.ClosedResourceError: `send_eof` or `aclose` was called.
        """
        if self._compressor is None:
            raise anyio.ClosedResourceError
        view = memoryview(item)
        for start in range(0, len(view), _PIECE):
            # In a thread: xz takes 100 ms for a piece.
            compress = partial(self._compressor.compress, view[start : start + _PIECE])
            if data := await anyio.to_thread.run_sync(compress):
                await self.stream.send(data)

    async def receive(self) -> bytes:
        """Receive and decompress bytes, at least one. A checkpoint.

        Raises:
            anyio.EndOfStream: The stream has ended, and the data is complete.
            RuntimeError: The data is damaged or was cut short.
        """
        return await self._expander.next()

    async def send_eof(self) -> None:
        """Send the rest of the compressed bytes, and the end of this half. A checkpoint."""
        await self._finish()
        await self.stream.send_eof()

    async def aclose(self) -> None:
        """Send the rest of the compressed bytes, and close the stream. A checkpoint."""
        try:
            await self._finish()
        finally:
            await self.stream.aclose()

    async def _finish(self) -> None:
        compressor, self._compressor = self._compressor, None
        if compressor is not None:
            await self.stream.send(await anyio.to_thread.run_sync(compressor.finish))

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc is not None:  # what was sent so far must not look complete
            self._compressor = None
        await self.aclose()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """The typed attributes of the stream below."""
        return self.stream.extra_attributes


def compress_stream(stream: AnyByteStream, compression: Compression | None) -> AnyByteStream:
    """Make a stream that compresses what is sent on it, and decompresses what is received.

    Args:
        stream: Carries the compressed bytes.
        compression: The format; None returns the stream itself.

    Raises:
        MissingExtra: It is zstd, and the extra `zstd` is not installed.
    """
    if compression is None:
        return stream
    return CompressedStream(stream=stream, compression=compression)
