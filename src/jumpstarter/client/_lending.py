"""Loans: what a client lends to a driver, which reads or writes it through a raw stream.

While the block that lends is open, a task transfers the bytes between the client's end and the raw
stream. If the client's end fails, the block raises that exception. Neither the driver nor the
client's file ever treats truncated data as complete. If the block ends by an exception, the bytes
that had arrived from the driver still reach the client's end.

States of a `ResourceTransfer`. Its task owns it until `done` is set, the block from then on:

    state     meaning                                   next states
    RUNNING   the task transfers bytes                  COMPLETE, FAILED, STOPPED
    COMPLETE  all bytes were transferred                none
    FAILED    the client's end failed, see `failure`    none
    STOPPED   the driver's end of the stream has gone,  none
              or the block was left

This module knows raw streams, but neither portals nor client classes.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import trio

from .._io.transfer import MAX_BYTES, Chunks, CompressingWriter, DecompressingReader, pipe
from .._util.background import open_background
from .._util.checks import check_callable, check_flag, check_int
from ..errors import DriverError
from ._loan_ends import READ_AHEAD, Sink, Source
from ._progress import Meter, Progress, meter_for
from ._raw_streams import RemoteStream

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["Loan", "PeerClosed", "ResourceTransfer", "map_stream_errors"]

_WRITE_AHEAD: Final = 16  # chunks that may wait while others are written


@dataclass(frozen=True, kw_only=True)
class Loan:
    """A file or stream of the client, and how it is lent. Either `source` or `sink` is given.

    Attributes:
        title: How a progress bar names it.
        source: Opens the source that the driver reads; also returns its size, if known.
        sink: Opens the sink that the driver writes to.
        size: Bytes that a driver will write, if that is known.
        batch_size: How many chunks are passed to a sink together, except the last ones.
        compress: Compress the bytes with zstd on the wire.
        progress: See `Progress`.
        max_bytes: How many bytes a driver may write, after decompression.
    """

    title: str
    source: AbstractAsyncContextManager[tuple[Source, int | None]] | None = None
    sink: AbstractAsyncContextManager[Sink] | None = None
    size: int | None = None
    batch_size: int = 1
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
        """The driver's use of it, as sent to the exporter."""
        return "read" if self.source is not None else "write"

    @property
    def encoding(self) -> str:
        """How the bytes are compressed, as sent to the exporter."""
        return "zstd" if self.compress else ""

    @asynccontextmanager
    async def transfer(self, stream: RemoteStream) -> AsyncIterator[str]:
        """Transfer the bytes, for the length of the block.

        Args:
            stream: The raw stream that was opened for this loan; it is closed at the end.

        Yields:
            The handle with which the driver opens the loan.

        Raises:
            DriverError: (on leaving) The driver has failed, or has not written everything.
            Exception: Raised by the client's end.
        """
        try:
            handle = stream.metadata
            if not isinstance(handle, str):
                text = f"the exporter gave the handle {handle!r:.100}, which is not a str"
                raise DriverError(text)
            if self.source is not None:
                async with (
                    self.source as (read, size),
                    meter_for(self.progress, self.title, size) as meter,
                    _Reading(stream, read, meter, self.encoding).running(),
                ):
                    yield handle
            elif self.sink is not None:
                async with (
                    self.sink as write,
                    meter_for(self.progress, self.title, self.size) as meter,
                    _Writing(stream, write, meter, self).running(),
                ):
                    yield handle
        finally:
            await stream.abort()


class _TransferState(enum.Enum):
    """Where a `ResourceTransfer` is; the module's docstring has the table."""

    RUNNING = enum.auto()
    COMPLETE = enum.auto()
    FAILED = enum.auto()
    STOPPED = enum.auto()


class ResourceTransfer:
    """The task that transfers a loan's bytes while the block is open.

    Attributes:
        state: See `_TransferState`.
        failure: The exception that the client's end has raised.
        done: Set when the task has ended.
    """

    def __init__(self, stream: RemoteStream) -> None:
        self.stream: RemoteStream = stream
        self.state: _TransferState = _TransferState.RUNNING
        self.failure: Exception | None = None
        self.done: trio.Event = trio.Event()
        self._scope = trio.CancelScope()  # of the task

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the task while the block is open.

        If the client's end fails, the block raises its exception in place of any other.
        """
        try:
            async with open_background() as nursery:
                nursery.start_soon(self._run)
                try:
                    yield
                    await self.finish()
                except BaseException:
                    await self.interrupted()
                    raise
                finally:
                    self._scope.cancel()
        except DriverError as exc:  # often only the consequence of our failure, at the driver
            if self.failure is not None:
                raise self.failure from exc
            raise
        if self.failure is not None:
            raise self.failure

    async def _run(self) -> None:
        with self._scope:
            await self._transfer_all()

    async def _transfer_all(self) -> None:
        try:
            await self.transfer()
            self.state = _TransferState.COMPLETE
        except PeerClosed:
            pass  # the stream knows why, and `finish` or the driver's call raises it
        except Exception as exc:  # noqa: BLE001 - raised by `running` as it is
            self.failure = exc
            self.state = _TransferState.FAILED
            # Send the reason before cutting the stream short: the driver's read raises what it
            # knows by then.
            await self.stream.excuse(exc)
            await self.stream.abort()
        finally:
            if self.state is _TransferState.RUNNING:
                self.state = _TransferState.STOPPED
            self.done.set()

    async def transfer(self) -> None:
        """Transfer all bytes."""
        raise NotImplementedError

    async def finish(self) -> None:
        """Finish, at the end of a block that raised nothing."""
        raise NotImplementedError

    async def interrupted(self) -> None:
        """Do what is left to do when the block ends by an exception. Shielded, and bounded."""

    async def drain(self) -> None:
        """Let the client's end take the bytes that have arrived, in at most `cancel_grace` seconds.

        Bytes that arrive later are dropped, so a driver that goes on writing does not prolong it.
        """
        with self.stream.connection.lock:
            self.stream.finish(ConnectionError("the block that lends was left by an exception"))
        with trio.move_on_after(self.stream.cancel_grace, shield=True):
            await self.done.wait()


class _Reading(ResourceTransfer):
    """The driver reads."""

    def __init__(self, stream: RemoteStream, read: Source, meter: Meter, encoding: str) -> None:
        super().__init__(stream)
        self._read = read
        self._meter = meter
        self._writer = CompressingWriter(partial(map_stream_errors, stream.send_all), encoding)

    async def transfer(self) -> None:
        await pipe(self._read, self._send, READ_AHEAD)
        await self._writer.finish()
        await map_stream_errors(self.stream.send_eof)

    async def _send(self, chunks: Chunks) -> None:
        for chunk in chunks:
            await self._writer.send_all(chunk)
            self._meter.advance(len(chunk))

    async def finish(self) -> None:
        """Let the driver take the rest, if everything was sent. Otherwise the loan is withdrawn."""
        if self.state is _TransferState.COMPLETE:
            await self.stream.aclose()


class _Writing(ResourceTransfer):
    """The driver writes."""

    def __init__(self, stream: RemoteStream, write: Sink, meter: Meter, loan: Loan) -> None:
        super().__init__(stream)
        receive = partial(map_stream_errors, stream.receive_some)
        self._reader = DecompressingReader(receive, loan.encoding, loan.max_bytes)
        self._batch_size = loan.batch_size
        self._write = write
        self._meter = meter
        self._scope.shield = True  # only the block ends the task, after `interrupted`

    async def transfer(self) -> None:
        await pipe(self._receive, self._take, _WRITE_AHEAD // self._batch_size)

    async def _receive(self) -> list[bytes]:
        chunks: list[bytes] = []
        try:
            while len(chunks) < self._batch_size and (data := await self._reader.receive_some()):
                chunks.append(data)
        except PeerClosed:
            if not chunks:
                raise
        return chunks  # after an error too: the next call raises it again

    async def _take(self, chunks: Chunks) -> None:
        await self._write(chunks)
        self._meter.advance(sum(map(len, chunks)))

    async def finish(self) -> None:
        """Wait until the driver has written everything, and the sink has it."""
        with suppress(PeerClosed):
            await map_stream_errors(self.stream.send_eof)
        await self.done.wait()
        if self.state is not _TransferState.FAILED:
            await self.stream.aclose()
            self.stream.check()
            if self.state is not _TransferState.COMPLETE:
                raise DriverError("the client was closed before the driver had written everything")

    async def interrupted(self) -> None:
        """Let the sink take the bytes that have arrived."""
        await self.drain()


class PeerClosed(Exception):
    """The driver has closed its end of the stream."""


async def map_stream_errors(function: Callable[..., Awaitable[Any]], *args: Any) -> Any:
    """Call a function of the raw stream, and wrap its errors.

    A Trio stream that is lent raises the same classes: only these are failures of the driver's end.
    """
    try:
        return await function(*args)
    except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
        raise PeerClosed from exc
