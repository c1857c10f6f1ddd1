"""Lend an object stream, as anyio has them, to a driver that may read it, write it, or both.

The published package lends in this way, and names the loan by a dict. Its direction is not known
when the loan is made: the end of each half is all that marks where its bytes end. `_lending` has
the loans whose direction is known.

This module knows raw streams, but neither portals nor client classes.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import trio

from .._io.transfer import Chunks, pipe
from .._util.background import open_background
from .._util.compression import Compression
from .._util.writes import check_sent
from ..errors import ArgumentError, DriverError
from ._lending import PeerClosed, ResourceTransfer, map_stream_errors
from ._progress import Meter, meter_for
from ._raw_streams import RemoteStream

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["ObjectDevice", "check_encoding", "is_object_stream", "total_of", "transfer_object"]

_AHEAD: Final = 4  # chunks that may wait in each direction


def is_object_stream(stream: object) -> bool:
    """Return True for a stream of anyio, False for a Trio stream and for a file."""
    others = ("receive_some", "send_all", "read", "write")
    return not any(hasattr(stream, name) for name in others) and (
        hasattr(stream, "receive") or hasattr(stream, "send")
    )


def check_encoding(content_encoding: str | None) -> str:
    """Return the name of a compression; `""` for None.

    Raises:
        ArgumentError: There is no such compression.
    """
    if content_encoding is None:
        return ""
    try:
        return str(Compression(content_encoding))
    except ValueError:
        text = f"content_encoding must be one of {', '.join(Compression)}, or None"
        raise ArgumentError(f"{text}, not {content_encoding!r:.100}") from None


def total_of(stream: Any) -> int | None:
    """Return how many bytes a stream of anyio says that it has; None if it does not say."""
    anyio = sys.modules.get("anyio")
    if anyio is None or not hasattr(stream, "extra"):
        return None
    from ._progress_attribute import ProgressAttribute  # noqa: PLC0415 - imports anyio

    total = stream.extra(ProgressAttribute.total, None)
    return None if total is None else int(total)


class ObjectDevice:
    """A stream of anyio, or a Trio stream, with the methods that a transfer needs."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._is_trio = hasattr(stream, "receive_some")
        self._receive = getattr(stream, "receive_some" if self._is_trio else "receive", None)
        self._send = getattr(stream, "send_all" if self._is_trio else "send", None)
        anyio = sys.modules.get("anyio")
        self._end = (EOFError,) if anyio is None else (EOFError, anyio.EndOfStream)

    async def receive(self) -> bytes:
        """Return the next bytes, and `b""` at the end."""
        if self._receive is None:
            return b""
        try:
            while not (data := await self._receive()):
                if self._is_trio:
                    break
        except self._end:
            return b""
        return data if type(data) is bytes else bytes(memoryview(data))

    async def send(self, data: bytes) -> None:
        """Send bytes."""
        if self._send is None:
            kind = type(self._stream).__name__
            raise ArgumentError(f"the driver has written, and a {kind} cannot be written")
        answer = await self._send(data)
        if answer is not None:
            check_sent(answer, len(data), f"{type(self._stream).__name__}.send()")

    async def send_eof(self) -> None:
        """Pass on the end of what the driver has written."""
        if hasattr(self._stream, "send_eof"):
            await self._stream.send_eof()

    async def flush(self) -> None:
        """Wait until a stream of the other loop has everything that was sent."""
        if self._is_trio and hasattr(self._stream, "flush"):
            await self._stream.flush()

    async def aclose(self) -> None:
        """Close the stream, if it can be closed."""
        if hasattr(self._stream, "aclose"):
            await self._stream.aclose()


@asynccontextmanager
async def transfer_object(
    raw: RemoteStream, device: ObjectDevice, encoding: str, total: int | None
) -> AsyncIterator[dict[str, str | None]]:
    """Transfer bytes both ways between a stream and a loan, for the length of the block.

    Args:
        raw: The raw stream that was opened for the loan; it is closed at the end.
        device: The stream, for the Trio loop.
        encoding: How its bytes are compressed, or empty.
        total: How many bytes it has, for a progress bar.

    Yields:
        The handle with which the driver opens the loan.

    Raises:
        DriverError: The driver has failed with it.
        Exception: Raised by the stream.
    """
    try:
        handle = raw.metadata
        if not isinstance(handle, str):
            text = f"the exporter gave the handle {handle!r:.100}, which is not a str"
            raise DriverError(text)
        async with (
            meter_for(None, "transfer", total) as meter,
            _BothWays(raw, device, meter).running(),
        ):
            yield {
                "kind": "client_stream",
                "uuid": handle,
                "x_jmp_content_encoding": encoding or None,
            }
    finally:
        await raw.abort()


class _BothWays(ResourceTransfer):
    """The driver may read and write."""

    def __init__(self, stream: RemoteStream, device: ObjectDevice, meter: Meter) -> None:
        super().__init__(stream)
        self._device = device
        self._meter = meter
        self._source_failure: Exception | None = None
        self._scope.shield = True  # only the block ends the task, after `interrupted`

    async def transfer(self) -> None:
        async with open_background() as nursery:
            nursery.start_soon(self._send_all, nursery.cancel_scope)
            try:
                await pipe(self._receive, self._take, _AHEAD)
            except PeerClosed:
                await self._device.flush()
                raise
            await self._device.send_eof()
            await self._device.flush()
        if self._source_failure is not None:
            raise self._source_failure

    async def _send_all(self, scope: trio.CancelScope) -> None:
        try:
            await pipe(self._read, self._send, _AHEAD)
            await map_stream_errors(self.stream.send_eof)
        except PeerClosed:
            pass  # the driver has not read the rest
        except Exception as exc:  # noqa: BLE001 - raised by `transfer`
            self._source_failure = exc
            scope.cancel()

    async def _receive(self) -> list[bytes]:
        data = await map_stream_errors(self.stream.receive_some)
        return [data] if data else []

    async def _read(self) -> list[bytes]:
        data = await self._device.receive()
        return [data] if data else []

    async def _send(self, chunks: Chunks) -> None:
        for chunk in chunks:
            await map_stream_errors(self.stream.send_all, chunk)
            self._meter.advance(len(chunk))

    async def _take(self, chunks: Chunks) -> None:
        for chunk in chunks:
            await self._device.send(chunk)  # type: ignore[arg-type]  # bytes, from the raw stream
        self._meter.advance(sum(map(len, chunks)))

    async def finish(self) -> None:
        """Wait until the driver is done with it, if it uses it, and the stream has everything."""
        with suppress(DriverError):  # the connection has ended, which `check` reports
            await self.stream.give_back()
        await self.done.wait()
        if self.failure is None:
            await self.stream.wait_ended()
            self.stream.check()

    async def interrupted(self) -> None:
        """Let the stream take the bytes that have arrived, for at most `cancel_grace` seconds."""
        await self.drain()
