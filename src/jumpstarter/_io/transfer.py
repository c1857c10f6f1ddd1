"""Transfer many bytes in constant memory, with a limit on their number and optional compression.

Decompression returns at most `CHUNK_SIZE` bytes per read, even if a few compressed bytes expand to
far more, so each end holds only a few chunks. Compressed data is one zstd frame; a truncated frame
is an error, never an end. This module does not know slots, handles or files: it reads from one
coroutine function and writes to another.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, TypeAlias

import trio

from .._util.background import open_background
from ..errors import MissingExtra, ResourceError

if TYPE_CHECKING:
    if sys.version_info >= (3, 14):
        from compression.zstd import ZstdCompressor, ZstdDecompressor
    else:
        from backports.zstd import ZstdCompressor, ZstdDecompressor

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = [
    "CHUNK_SIZE",
    "ENCODINGS",
    "MAX_BYTES",
    "Chunks",
    "CompressingWriter",
    "DecompressingReader",
    "pipe",
]

MAX_BYTES: Final = 64 * 1024**3  # larger than the cards and images that are flashed
# The size of a frame's payload on the wire. Compressing it blocks the loop for less than 1 ms.
CHUNK_SIZE: Final = 64 * 1024
ENCODINGS: Final = ("", "zstd")  # their names on the wire
_WINDOW_LOG: Final = 23  # 8 MiB: the largest window of a frame that we decompress. We send 2 MiB


# The data of one read or write. The reader may reuse the memory of a memoryview later.
Chunks: TypeAlias = list[bytes] | list[memoryview]


class DecompressingReader:
    """Reads bytes up to a limit, and decompresses them if they are compressed.

    Args:
        receive: Returns the next bytes, `b""` at the end. Its argument is the largest number of
            bytes to return, or None.
        encoding: `""` or `"zstd"`.
        max_bytes: The limit on all bytes together, after decompression.

    Attributes:
        count: The number of bytes read so far, after decompression.

    Raises:
        MissingExtra: The encoding is `"zstd"`, and the extra `zstd` is not installed.
    """

    def __init__(
        self,
        receive: Callable[[int | None], Awaitable[bytes]],
        encoding: str = "",
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._receive = receive
        self._codec: ZstdDecompressor | None = None
        self._error: type[Exception] = ResourceError
        if encoding:
            self._codec, self._error = _decompressor()
        self._max_bytes = max_bytes
        self.count: int = 0

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return the next bytes, `b""` at the end. A checkpoint.

        Raises:
            ResourceError: There are more bytes than the limit, or the zstd frame is invalid or
                truncated.
        """
        if self._codec is None:
            data = await self._receive(max_bytes)
        else:
            data = await self._expand(self._codec, min(max_bytes or CHUNK_SIZE, CHUNK_SIZE))
        self.count += len(data)
        if self.count > self._max_bytes:
            text = f"there are more than the {self._max_bytes:,} bytes that may be read"
            raise ResourceError(f"{text}; raise max_bytes where that is meant to be")
        return data

    async def _expand(self, codec: ZstdDecompressor, size: int) -> bytes:
        await trio.lowlevel.checkpoint()
        while not codec.eof:
            data = b""
            if codec.needs_input:
                data = await self._receive(None)
                if not data:
                    raise ResourceError("the compressed bytes were cut short")
            try:
                expanded = codec.decompress(data, size)
            except self._error as exc:
                raise ResourceError(
                    f"the bytes are not compressed as they should be: {exc}"
                ) from exc
            if expanded:
                return expanded
        if codec.unused_data or await self._receive(None):
            raise ResourceError("there are bytes behind the end of the compressed ones")
        return b""


class CompressingWriter:
    """Writes bytes, compressed if an encoding is given.

    Args:
        send: Sends bytes.
        encoding: `""` or `"zstd"`.

    Raises:
        MissingExtra: The encoding is `"zstd"`, and the extra `zstd` is not installed.
    """

    def __init__(self, send: Callable[[bytes], Awaitable[object]], encoding: str = "") -> None:
        self._send = send
        self._codec = _compressor() if encoding else None

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Write bytes. A checkpoint. If it is cancelled, an unknown part of them was written."""
        if self._codec is None:
            await self._send(data if type(data) is bytes else bytes(memoryview(data)))
            return
        view = memoryview(data).cast("B")
        await trio.lowlevel.checkpoint()
        for start in range(0, len(view), CHUNK_SIZE):
            if compressed := self._codec.compress(view[start : start + CHUNK_SIZE]):
                await self._send(compressed)

    async def flush(self) -> None:
        """Write the bytes that the compressor still holds, without an end behind them.

        A checkpoint if the bytes are compressed. The reader gets all of them, and misses the end.
        """
        if self._codec is not None:
            await self._send(self._codec.flush(self._codec.FLUSH_BLOCK))

    async def finish(self) -> None:
        """Write the bytes that the compressor still holds, and the end. A checkpoint likewise."""
        if self._codec is not None:
            await self._send(self._codec.flush())


async def pipe(
    read: Callable[[], Awaitable[Chunks]],
    write: Callable[[Chunks], Awaitable[object]],
    ahead: int,
) -> None:
    """Copy everything from `read` to `write`, reading ahead while writing. A checkpoint.

    Args:
        read: Returns the next chunks, an empty list at the end.
        write: Writes chunks: all that were read during the previous write.
        ahead: The number of reads that may wait to be written. As many again, and one more, may be
            in the current write, and one read is in progress: `2 * ahead + 2` in all.

    Raises:
        Exception: The exception of `read` or `write`, not wrapped in a group. After an error of
            `read`, the chunks that it had returned before are still written.
    """
    send, receive = trio.open_memory_channel[Chunks](ahead)
    failure: Exception | None = None

    async def read_all() -> None:
        nonlocal failure
        with send:
            try:
                while chunks := await read():
                    await send.send(chunks)
            except Exception as exc:  # noqa: BLE001 - raised below, outside the nursery, so not in a group
                failure = exc

    async with open_background() as nursery:
        nursery.start_soon(read_all)
        async for chunks in receive:
            while receive.statistics().current_buffer_used:
                chunks.extend(receive.receive_nowait())  # type: ignore[arg-type]  # one kind
            await write(chunks)
    if failure is not None:
        raise failure


def _compressor() -> ZstdCompressor:
    try:
        if sys.version_info >= (3, 14):
            from compression import zstd  # noqa: PLC0415 - needed for compression only
        else:
            from backports import zstd  # noqa: PLC0415
    except ImportError as exc:
        raise MissingExtra.named("zstd", "a compressed transfer") from exc
    return zstd.ZstdCompressor()


def _decompressor() -> tuple[ZstdDecompressor, type[Exception]]:
    """Make a decompressor; return it with the class of its exceptions."""
    try:
        if sys.version_info >= (3, 14):
            from compression import zstd  # noqa: PLC0415 - as above
        else:
            from backports import zstd  # noqa: PLC0415
    except ImportError as exc:
        raise MissingExtra.named("zstd", "a compressed transfer") from exc
    window = zstd.DecompressionParameter.window_log_max
    return zstd.ZstdDecompressor(options={window: _WINDOW_LOG}), zstd.ZstdError
