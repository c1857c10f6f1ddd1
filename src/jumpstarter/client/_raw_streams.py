"""A driver's raw stream, as a Trio stream for Trio code: how it is opened, and how it ends.

It also has the methods of an anyio stream, for code that was written for anyio. Closing delivers
what was sent. Bytes that were cut short never look like a finished stream.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import trio

from .._framing import HEADER_SIZE
from .._io.byte_stream import SlotStream
from .._io.connection import Connection
from .._protocol import events as ev
from .._protocol.codec import encode_error
from .._protocol.error_codec import exception_to_wire
from .._protocol.frames import Kind
from .._util.stream_errors import NoAttributes, end_of_stream
from ..errors import ArgumentError, Code, DriverError
from ._channel import Channel, StreamWatcher
from ._outgoing_call import OutgoingCall, Request

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["RemoteStream", "close_together", "open_stream", "unwatched"]

_logger = logging.getLogger("jumpstarter.connection")

_unwatched: ContextVar[bool] = ContextVar("jumpstarter_unwatched", default=False)


@contextmanager
def unwatched() -> Iterator[None]:
    """Open raw streams without a watcher, in this context and within the block."""
    token = _unwatched.set(True)
    try:
        yield
    finally:
        _unwatched.reset(token)


async def open_stream(channel: Channel, request: Request) -> RemoteStream:
    """Open a raw stream; the caller closes it with `aclose`. A checkpoint.

    If it is cancelled, the stream is not open, and the driver's code has ended.

    Raises:
        DriverError: The driver could not open it.
    """
    opening = _StreamCall(channel, request)
    await channel.open(opening)
    try:
        await opening.wait_accepted()
    except BaseException as exc:
        await opening.cancel(exc)
        raise
    return opening.stream


async def close_together(streams: Sequence[RemoteStream]) -> None:
    """Close streams concurrently, so that slow ones do not add up. A checkpoint."""
    async with trio.open_nursery() as nursery:
        for stream in streams:
            nursery.start_soon(stream.aclose)


class _StreamCall(OutgoingCall):
    """The call of a raw stream: hands its events to the stream."""

    __slots__ = ("accepted", "credits", "metadata", "stream")

    channel: Channel

    def __init__(self, channel: Channel, request: Request) -> None:
        super().__init__(channel, request)
        self.accepted: bool = False
        self.metadata: bytes = b""
        self.credits: int = 0  # how often the driver has taken half a window
        watch = None if _unwatched.get() else channel.watch
        watcher = None if watch is None else watch(request)
        self.stream: RemoteStream = (
            RemoteStream(channel.connection, self)
            if watcher is None
            else _WatchedStream(channel.connection, self, watcher)
        )

    def opened(self, slot: int) -> None:
        """See `OutgoingCall`."""
        super().opened(slot)
        self.stream.slot = slot

    def received(self, event: ev.SlotEvent) -> None:
        """Pass bytes and credit to the stream, or end it. With the lock."""
        if isinstance(event, ev.DataReceived):  # a class pattern costs several times as much
            self.stream.on_data(event)
        elif isinstance(event, ev.CreditReceived):
            self.credits += 1
            self.stream.on_writable()
        elif isinstance(event, ev.AcceptReceived):
            self.accepted = True
            self.metadata = event.body
            self._wake()
        else:
            super().received(event)

    def drained(self) -> None:
        """See `StreamHandler`."""
        self.stream.on_writable()

    def _end(self, failure: DriverError | None) -> None:
        if failure is None and self.error is None and not self.stream.complete:
            text = "the exporter ended the stream without its last bytes"
            failure = DriverError(text, context=self.context)
        super()._end(failure)
        self.stream.finish(self._why if self.has_failed else None)

    def _why(self) -> DriverError | None:
        return self.failure

    async def wait_accepted(self) -> None:
        """Wait until the driver has opened the stream, or failed to. A checkpoint."""
        lock = self.channel.connection.lock
        waited = False
        while True:
            with lock:
                if self.accepted or self.done:
                    break
                waiter = self.next_wakeup()
            await waiter.wait()
            waited = True
        if not waited:  # a thread has read the answer since the call was sent
            await trio.lowlevel.cancel_shielded_checkpoint()
        if not self.accepted and self.failure is not None:
            raise self.failure


class RemoteStream(SlotStream, NoAttributes):
    """A raw stream to a driver, as a Trio stream and as an anyio stream; made by `open_stream`."""

    def __init__(self, connection: Connection, call: _StreamCall) -> None:
        super().__init__(connection, call.slot)  # 0; the slot follows when the CALL is sent
        self._call = call
        self._linger = 0.0
        self._cut = False  # we cancelled the driver's code: its error only says so

    @property
    def metadata(self) -> Any:
        """The metadata that the exporter sent with its ACCEPT: None for a driver's stream.

        Raises:
            DriverError: It cannot be read.
        """
        try:
            return self._call.channel.decode(self._call.metadata)
        except ArgumentError as exc:
            raise DriverError(f"its metadata: {exc}", context=self._call.context) from exc

    if TYPE_CHECKING:

        async def send(self, data: bytes | bytearray | memoryview) -> None:
            """Send data as `send_all` does, under the name that it has in anyio."""

    else:
        send = SlotStream.send_all

    async def receive(self, max_bytes: int | None = None) -> bytes:
        """Receive at least one byte, as an anyio stream does. A checkpoint.

        Args:
            max_bytes: As for `receive_some`.

        Raises:
            EndOfStream: The driver has ended its half. It is anyio's too, if anyio was imported.
            Exception: As `receive_some` raises.
        """
        data = await self.receive_some(max_bytes)
        if not data:
            raise end_of_stream("the driver has ended its half of the stream")
        return data

    @property
    def failure(self) -> DriverError | None:
        """Why the driver failed; None if it did not, or only because this side closed."""
        return None if self._cut else self._call.failure

    @property
    def cancel_grace(self) -> float:
        """Seconds that work which is left to do may delay a cancellation, see `Limits`."""
        return self._call.channel.limits.cancel_grace

    def check(self) -> None:
        """Raise the driver's failure, if there is one.

        Raises:
            DriverError: The driver has failed, or the connection has ended.
        """
        if (failure := self.failure) is not None:
            raise failure

    async def wait_ended(self) -> None:
        """Wait until the driver's code has ended, or the connection has. A checkpoint."""
        await self._call.join()

    def linger_for(self, seconds: float) -> None:
        """Give the device more time than `Limits.linger` when the stream is closed."""
        self._linger = seconds

    def close_soon(self) -> None:
        """Schedule the end of the driver's code, without waiting. In any thread; for finalizers."""
        if not self.closed and not self._call.done:
            self._call.channel.ask_to_end_soon(self._call)

    async def aclose(self) -> None:
        """Close the stream: sent bytes are still delivered, those not received are lost.

        A checkpoint. The driver's code has ended when this returns. It waits as long as the device
        keeps accepting what was sent, at least half a window (16 KiB at first) every `linger`
        seconds. If the device is slower, the remaining bytes are lost, which is logged.

        If it is cancelled, or if a `send_all` sent only a part, it cancels the driver's code, and
        the bytes that the driver has not read are lost: the driver never sees end-of-file after
        missing bytes.
        """
        try:
            # Before END is queued: a stream that a timeout has cut short must not look finished.
            await trio.lowlevel.checkpoint_if_cancelled()
            if not self._torn:
                await self._close_in_order()
        finally:
            self.shut()
            self._cut = self._cut or not self._call.done
            await self._call.cancel()
        await trio.lowlevel.checkpoint()

    async def abort(self) -> None:
        """Close the stream immediately. The driver loses unread bytes, and sees no end-of-file.

        A checkpoint. The driver's code has ended when this returns, or `cancel_grace` has passed.
        """
        self._torn = True
        await self.aclose()

    async def excuse(self, exc: Exception) -> None:
        """Send the exporter the reason why a loan is about to be cut short.

        A checkpoint, of `cancel_grace` seconds at most. Does nothing if the exporter is gone, or
        uses version 1.0 of the protocol, which has no such message.
        """
        error = bytes(encode_error(*exception_to_wire(exc))[HEADER_SIZE:])
        with trio.move_on_after(self.cancel_grace), suppress(DriverError):
            await self._tell("lent_failed", self.metadata, error)

    async def give_back(self) -> None:
        """End a loan for both directions, once no driver uses it. A checkpoint.

        Raises:
            DriverError: The connection has ended, or the loan has.
        """
        await self._tell("lent_back", self.metadata)

    async def _tell(self, method: str, *args: Any) -> None:
        channel = self._call.channel
        exporter = f"the exporter at {channel.name}"
        await channel.call(Request(0, Kind.UNARY, method, args, driver=exporter))

    async def _close_in_order(self) -> None:
        call = self._call
        if not self.closed and not call.done:
            self.send_end()
            call.channel.ask_to_end(call, Code.CLOSE)
        self.shut()
        linger = max(self._linger, call.channel.limits.linger)
        while not call.done:
            taken = call.credits
            with trio.move_on_after(linger):
                await call.join()
            if call.credits == taken:
                break
        if not call.done:
            text = "a raw stream was closed, and its driver had not taken all within %g s: %s"
            _logger.warning(text, linger, call.context)


class _WatchedStream(RemoteStream):
    """Shows its bytes to a watcher: a class of its own, so that other streams do not ask for one.

    Received bytes are shown when they arrive, even if they are never read.
    """

    def __init__(self, connection: Connection, call: _StreamCall, watcher: StreamWatcher) -> None:
        super().__init__(connection, call)
        self._watcher = watcher

    # A thread may receive and send. It leaves the bytes for the loop, and so do the tasks: the
    # watcher is shown them in the order in which they were received and queued.

    def on_data(self, event: ev.DataReceived) -> None:
        if event.data:
            self._connection.ownership.later(self._watcher.received, event.data)
        super().on_data(event)

    def send_in_thread(self, data: bytes) -> bool:
        sent = super().send_in_thread(data)
        if sent:
            self._connection.ownership.later(self._watcher.sent, data)
        return sent

    async def _send_some(self, chunk: bytes, offset: int) -> int:
        sent = await super()._send_some(chunk, offset)
        with self._lock:
            self._connection.ownership.later(self._watcher.sent, chunk[offset : offset + sent])
        return sent
