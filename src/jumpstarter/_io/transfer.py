"""Transfer many bytes in constant memory, with a limit on their number and optional compression.

Decompression returns at most `CHUNK_SIZE` bytes per read, even if a few compressed bytes expand to
far more, so each end holds only a few chunks. Compressed data is one zstd frame; a truncated frame
is an error, never an end. This module does not know slots, handles or files: it reads from one
coroutine function and writes to another.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

import trio

from .._util.background import open_background
from .._util.compression import Compression, Compressor, DamagedDataError, Decompressor
from ..errors import ResourceError

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
        encoding: `""`, `"zstd"`, or for a file any other `Compression`.
        max_bytes: The limit on all bytes together, after decompression.
        is_file: The bytes are a compressed file, which may be empty or have several members, and
            not the one frame of zstd that a loan sends.
        checkpoint: Lets other tasks run; by default, those of Trio.

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
        *,
        is_file: bool = False,
        checkpoint: Callable[[], Awaitable[object]] = trio.lowlevel.checkpoint,
    ) -> None:
        self._receive = receive
        self._checkpoint = checkpoint
        self._codec: Decompressor | None = None
        if encoding:
            window = None if is_file else _WINDOW_LOG
            compression = Compression(encoding)
            self._codec = Decompressor(compression, window_log=window, members=is_file)
        self._max_bytes = max_bytes
        self.count: int = 0

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return the next bytes, `b""` at the end. A checkpoint.

        Raises:
            ResourceError: There are more bytes than the limit, or the compressed data is invalid or
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

    async def _expand(self, codec: Decompressor, size: int) -> bytes:
        await self._checkpoint()
        try:
            while not (expanded := codec.read(size)):
                data = await self._receive(CHUNK_SIZE)  # others have a turn before the next
                if not data:
                    codec.finish()
                    break
                codec.feed(data)
        except DamagedDataError as exc:
            raise ResourceError(f"the bytes are not compressed as they should be: {exc}") from exc
        return expanded


class CompressingWriter:
    """Writes bytes, compressed if an encoding is given.

    Args:
        send: Sends bytes.
        encoding: `""` or a `Compression`.
        is_file: The compressed bytes are a file: no bytes make an empty one.

    Raises:
        MissingExtra: The encoding is `"zstd"`, and the extra `zstd` is not installed.
    """

    def __init__(
        self,
        send: Callable[[bytes], Awaitable[object]],
        encoding: str = "",
        *,
        is_file: bool = False,
    ) -> None:
        self._send = send
        self._is_empty = is_file  # nothing was written
        self._codec = Compressor(Compression(encoding)) if encoding else None
        self._in_thread = encoding not in ENCODINGS  # the others take up to 40 ms for a chunk

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Write bytes. A checkpoint. If it is cancelled, an unknown part of them was written."""
        if self._codec is None:
            await self._send(data if type(data) is bytes else bytes(memoryview(data)))
            return
        view = memoryview(data).cast("B")
        await trio.lowlevel.checkpoint()
        self._is_empty = False
        for start in range(0, len(view), CHUNK_SIZE):
            await self._send_compressed(self._codec.compress, view[start : start + CHUNK_SIZE])

    async def _send_compressed(self, step: Callable[..., bytes], *args: memoryview) -> None:
        compressed = await trio.to_thread.run_sync(step, *args) if self._in_thread else step(*args)
        if compressed:
            await self._send(compressed)

    async def flush(self) -> None:
        """Write the bytes that the compressor still holds, without an end behind them.

        A checkpoint if there are any. The reader gets all of them, and misses the end. For xz and
        bz2 it does nothing.
        """
        if self._codec is not None:
            await self._send_compressed(self._codec.flush)

    async def finish(self) -> None:
        """Write the bytes that the compressor still holds, and the end. A checkpoint likewise."""
        if self._codec is not None and not self._is_empty:
            await self._send_compressed(self._codec.finish)


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
