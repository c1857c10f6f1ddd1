"""The stream with which a driver reads or writes a resource, and the same as a file.

This module knows neither loans nor requests.
"""

from __future__ import annotations

import io
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import trio

from .._io.transfer import CompressingWriter, DecompressingReader
from .._util.checks import check_max_bytes
from .._util.stream_errors import NoAttributes, closed, end_of_stream
from ..errors import ResourceError

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["ResourceFile", "ResourceStream"]


class ResourceStream(trio.abc.HalfCloseableStream, NoAttributes):
    """The Trio stream with which a driver reads or writes a resource.

    `send` and `receive` are there for code that expects an anyio stream. `async for` yields chunks.

    Args:
        reader: Reads it, if it can be read.
        writer: Writes it, if it can be written.
        end: Called once after the last bytes were written.
    """

    def __init__(
        self,
        reader: DecompressingReader | None = None,
        writer: CompressingWriter | None = None,
        end: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._end = end
        self._closed = False

    def shut(self) -> None:
        """Refuse further use after the block was left: missing data would look like end-of-file."""
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise closed("the block that has opened this resource was left")

    @property
    def is_readable(self) -> bool:
        """True if it was lent for reading, or for both directions."""
        return self._reader is not None

    @property
    def is_writable(self) -> bool:
        """True if it was lent for writing, or for both directions."""
        return self._writer is not None

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Receive at least one byte, or `b""` at the end. A checkpoint.

        Args:
            max_bytes: The largest number of bytes to return; by default as many as there are.

        Raises:
            ValueError: `max_bytes` is less than 1.
            ResourceError: The resource is larger than `max_bytes` of `Driver.resource`, is damaged,
                or was lent for writing.
            trio.BrokenResourceError: The client is gone, has failed, or has taken it back.
            trio.ClosedResourceError: The block that gave this stream was left.
        """
        self._check_open()
        if self._reader is None:
            raise ResourceError("this resource was lent to be written, and cannot be read")
        check_max_bytes(max_bytes)
        return await self._reader.receive_some(max_bytes)

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Receive at least one byte, as an anyio stream does. A checkpoint.

        Raises:
            EndOfStream: At the end; it is anyio's too, if anyio was imported.
            Exception: As `receive_some` raises.
        """
        data = await self.receive_some(max_bytes)
        if not data:
            raise end_of_stream("the resource has ended")
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Write bytes; blocks while the client accepts none. A checkpoint.

        Raises:
            ResourceError: The resource was lent for reading.
            trio.BrokenResourceError: The client is gone, has failed, or has taken it back.
            trio.ClosedResourceError: The block that gave this stream was left, or `send_eof` was
                called.
        """
        self._check_open()
        if self._writer is None:
            raise ResourceError("this resource was lent to be read, and cannot be written")
        await self._writer.send_all(data)

    send = send_all

    async def send_eof(self) -> None:
        """Write what the compressor still holds, and the end. A checkpoint, unless it has ended.

        The end of the block does this too, unless it raises an exception.
        """
        end, self._end = self._end, None
        if end is not None and self._writer is not None:
            await self._writer.finish()
            await end()

    async def give_up(self) -> None:
        """Write what the compressor still holds, but no end, since the driver has failed."""
        if self._end is not None and self._writer is not None:
            with suppress(Exception):  # the driver's says more
                await self._writer.flush()

    async def wait_send_all_might_not_block(self) -> None:
        """Return immediately: the client's credit is known only when sending."""

    async def aclose(self) -> None:
        """Do nothing: the block that has opened the stream closes it."""


class ResourceFile(io.RawIOBase):
    """A resource as a raw file, for blocking code in a worker thread.

    Attributes:
        discards: True if written bytes are dropped, since the block has failed.
    """

    def __init__(self, stream: ResourceStream) -> None:
        self._stream = stream
        self.discards = False

    def readable(self) -> bool:
        """Return whether the driver borrowed it for reading."""
        return self._stream.is_readable

    def writable(self) -> bool:
        """Return whether the driver borrowed it for writing."""
        return self._stream.is_writable

    def readinto(self, buffer: Any) -> int:
        """Read into the buffer, and return how many bytes that was; 0 at the end. Blocks."""
        data = trio.from_thread.run(self._stream.receive_some, len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def write(self, data: Any) -> int:
        """Write all of the bytes. Blocks while the client takes none."""
        if not self.discards:
            trio.from_thread.run(self._stream.send_all, bytes(data))
        return len(data)
