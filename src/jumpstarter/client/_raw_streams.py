"""A driver's raw stream, as a Trio stream for Trio code: how it is opened, and how it ends.

Closing delivers what was sent; what was cut short never looks finished.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import trio

from .._framing import HEADER_SIZE
from .._io.byte_stream import SlotStream
from .._io.connection import Connection
from .._protocol import events as ev
from .._protocol.codec import encode_error
from .._protocol.error_codec import exception_to_wire
from .._protocol.frames import Kind
from ..errors import ArgumentError, Code, DriverError
from ._channel import Channel, OutgoingCall, Request

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["RemoteStream", "close_together", "open_stream"]

_logger = logging.getLogger("jumpstarter.connection")


async def open_stream(channel: Channel, request: Request) -> RemoteStream:
    """Open a raw stream; close it with `aclose`. A checkpoint; cancelled, it is not open.

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
    """Close streams side by side, in the time that the slowest of them takes. A checkpoint."""
    async with trio.open_nursery() as nursery:
        for stream in streams:
            nursery.start_soon(stream.aclose)


class _StreamCall(OutgoingCall):
    """A raw stream under way."""

    def __init__(self, channel: Channel, request: Request) -> None:
        super().__init__(channel, request)
        self.accepted: bool = False
        self.metadata: bytes = b""
        self.credits: int = 0  # how often the driver has taken half a window
        self.stream: RemoteStream = RemoteStream(channel.connection, self)

    def opened(self, slot: int) -> None:
        super().opened(slot)
        self.stream.slot = slot

    def received(self, event: ev.SlotEvent) -> None:
        match event:
            case ev.DataReceived():
                self.stream.put(event)
            case ev.CreditReceived():
                self.credits += 1
                self.stream.wake_sender()
            case ev.AcceptReceived():
                self.accepted = True
                self.metadata = event.body
                self._wake()
            case _:
                super().received(event)

    def drained(self) -> None:
        self.stream.wake_sender()

    def _end(self, failure: DriverError | None) -> None:
        if failure is None and not self.stream.complete:
            text = "the exporter ended the stream without its last bytes"
            failure = DriverError(text, context=self.context)
        super()._end(failure)
        self.stream.finish(failure)

    async def wait_accepted(self) -> None:
        while not self.accepted and not self.done:
            await self._change()
        if not self.accepted and self.failure is not None:
            raise self.failure


class RemoteStream(SlotStream):
    """A raw stream to a driver, as a Trio stream; made by `open_stream`."""

    def __init__(self, connection: Connection, call: _StreamCall) -> None:
        super().__init__(connection, call.slot)  # which it has once the CALL is sent
        self._call = call
        self._linger = 0.0
        self._cut = False  # we have cancelled the driver's side, and its failure says no more

    @property
    def closed(self) -> bool:
        """True once it was closed here."""
        return self._closed

    @property
    def metadata(self) -> Any:
        """What the exporter has said of the stream when it was opened: None for a driver's own.

        Raises:
            DriverError: It cannot be read.
        """
        try:
            return self._call.channel.decode(self._call.metadata)
        except ArgumentError as exc:
            raise DriverError(f"its metadata: {exc}", context=self._call.context) from exc

    def check(self) -> None:
        """Raise what the driver's side has failed with, if it has.

        Raises:
            DriverError: That.
        """
        if self._call.failure is not None and not self._cut:
            raise self._call.failure

    def linger_for(self, seconds: float) -> None:
        """Give the device more time than `Limits.linger` when the stream is closed."""
        self._linger = seconds

    def close_soon(self) -> None:
        """End the driver's code without waiting, from any thread: for finalizers."""
        if not self._closed and not self._call.done:
            self._call.channel.ask_to_end_soon(self._call)

    async def aclose(self) -> None:
        """Close the stream: what was sent is still delivered, what was not received is lost.

        A checkpoint. The driver's code has ended when this returns, which takes as long as the
        device takes for what was sent, as long as it takes half a window (16 KiB at first) in
        `linger` seconds; what is lost after that is logged. Cancelled, or while part of a
        `send_all` has not been sent, the driver's code is cancelled too, and what it had not taken
        yet is lost: it never sees a proper end behind bytes that are missing.
        """
        try:
            # Before anything is said: what a timeout has cut short must not look finished.
            await trio.lowlevel.checkpoint_if_cancelled()
            if not self._torn:
                await self._close_in_order()
        finally:
            self.shut()
            self._cut = self._cut or not self._call.done
            await self._call.cancel()
        await trio.lowlevel.checkpoint()

    async def abort(self) -> None:
        """Close the stream at once: the driver loses what it had not taken, and sees no proper end.

        A checkpoint. The driver's code has ended when this returns, or `cancel_grace` has passed.
        """
        self._torn = True
        await self.aclose()

    async def excuse(self, exc: Exception) -> None:
        """Say why what was lent is about to be cut short. A checkpoint, of `cancel_grace` at most.

        An exporter of the wire's version 1.0 has no ear for it, and one that has gone neither.
        """
        channel = self._call.channel
        error = bytes(encode_error(*exception_to_wire(exc))[HEADER_SIZE:])
        args, who = (self.metadata, error), f"the exporter at {channel.name}"
        with trio.move_on_after(channel.limits.cancel_grace), suppress(DriverError):
            await channel.call(Request(0, Kind.UNARY, "lent_failed", args, who=who))

    async def _close_in_order(self) -> None:
        call = self._call
        if not self._closed and not call.done:
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
