"""One byte stream shared by many calls: one task reads, one writes, and nobody waits for anybody.

The reader never waits for a consumer or for the writer: it hands each event to the endpoint of its
slot, synchronously, and credit bounds what that can cost. Only the writer waits for the transport;
everybody else queues whole frames and calls `flush`, which writes them on the spot where that is
possible without waiting, so no cancellation can leave half a frame on the wire.

A connection ends once, for one reason, which every endpoint that is still there is told. This file
knows no drivers, no clients and no values: what comes in for a slot goes to its endpoint, what is
about the connection goes to its owner.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import trio

from . import _events as ev
from ._messages import Hello
from ._protocol import Protocol as Rules
from ._signal import Signal
from ._transport import Transport
from .errors import Code, HandshakeError, RemoteProtocolError

__all__ = ["Connection", "Endpoint", "Owner"]

_logger = logging.getLogger("jumpstarter.connection")

_LAST_WORDS: Final = 1.0  # seconds for a final GOAWAY to leave, or to be found; a courtesy
_DIRECT: Final = 1  # calls in flight up to which a frame is written by the task that made it


class Endpoint(Protocol):
    """What a connection needs of whoever owns a slot. All methods are synchronous and quick.

    They call no verbs of the rules, which may be ahead of the event: what came in one read was
    taken in as a whole before the first of its events is handed out.
    """

    def received(self, event: ev.SlotEvent) -> None:
        """Something came in for the slot."""

    def drained(self) -> None:
        """Nothing of the slot waits behind its turn any more."""

    def lost(self, reason: Exception) -> None:
        """The connection has ended; nothing more will come."""


class Owner(Protocol):
    """What a connection needs of the side that it belongs to."""

    def greeted(self, hello: Hello) -> None:
        """The peer's HELLO has come; a server admits or refuses it before it returns."""

    def called(self, event: ev.CallReceived) -> None:
        """(server) Begin to answer a call."""

    def freed(self) -> None:
        """A slot may have become free, or calls are over for good."""


class Connection:
    """One connection, from the transport up to its slots' endpoints.

    Attributes:
        rules: The protocol's state; call its verbs, then `flush`.
        name: What the peer is called in errors and logs.
        endpoints: The owner of each slot that is in use.
        ended: Why the connection is over, None while it is not.
        last_read: When something was last read, in `trio.current_time` seconds.
        acked: Set once the peer has seen our GOAWAY, or the connection has ended.
        finished: Set once the connection has ended and all endpoints know.
        goaway: What the peer said when it said that it takes no more calls, else None.
    """

    def __init__(self, transport: Transport, rules: Rules, owner: Owner, name: str) -> None:
        self.rules = rules
        self.name = name
        self.endpoints: dict[int, Endpoint] = {}
        self.ended: Exception | None = None
        self.goaway: ev.GoawayReceived | None = None
        self.acked = trio.Event()
        self.finished = trio.Event()
        self._transport = transport
        self._owner = owner
        self._rest: list[bytes | bytearray | memoryview] = []  # taken, not written yet
        self._writing = False  # the writer is at it, or nothing can be written any more
        self._broken: Exception | None = None  # why nothing can
        self._wake_writer = Signal()
        self._written = trio.lowlevel.ParkingLot()  # tasks that wait for an empty outbox
        self.last_read = trio.current_time()
        self._scope = trio.CancelScope()

    @property
    def lent(self) -> bool:
        """True while somebody else than this loop reads and writes."""
        return False

    # -------------------------------------------------------------------------------- life

    async def run(self) -> None:
        """Serve the connection until it ends, and tell everybody why. Raises nothing but Cancelled.

        A checkpoint. When it is cancelled the connection ends there and then.
        """
        loops = [self._read_loop, self._write_loop]
        if self._transport.keepalive and self.rules.limits.ping_interval:
            loops.append(self._keepalive_loop)
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    for loop in loops:
                        nursery.start_soon(self._guard, loop)
        finally:
            self._finish()
            await self._transport.aclose()

    async def _guard(self, loop: Callable[[], Awaitable[None]]) -> None:
        try:
            await loop()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            self.end(ConnectionError(f"the connection to {self.name} broke: {exc}"))
        except Exception as exc:
            _logger.exception("internal error on the connection to %s", self.name)
            self.end(exc)

    def end(self, reason: Exception) -> None:
        """End the connection now, for this reason; the first reason stands."""
        if self.ended is None:
            self.ended = reason
        self._scope.cancel()

    def _finish(self) -> None:
        if self.ended is None:
            cancelled = ConnectionError(f"the connection to {self.name} was cancelled")
            self.ended = self.rules.failure or self._broken or cancelled
        endpoints, self.endpoints = self.endpoints, {}
        for endpoint in endpoints.values():
            endpoint.lost(self.ended)
        self.acked.set()
        self.finished.set()
        self._written.unpark_all()
        self._owner.freed()

    async def say_last_words(self) -> None:
        """Give what is queued a moment to leave. A checkpoint; cancelling it loses what is left."""
        with trio.move_on_after(_LAST_WORDS):
            await self.written()

    async def written(self) -> None:
        """Wait until all that is queued has left. A checkpoint if something has not."""
        self.flush()
        while self._writing and self._broken is None and self.ended is None:
            await self._written.park()

    # ----------------------------------------------------------------------------- reading

    async def _read_loop(self) -> None:
        with trio.move_on_after(self.rules.limits.hello_timeout) as hello_scope:
            while self.rules.peer is None:
                if not await self._read_once():
                    return
        if hello_scope.cancelled_caught and self.rules.peer is None:
            seconds = self.rules.limits.hello_timeout
            text = f"{self.name} did not say HELLO within {seconds:g} s; is it a jumpstarter?"
            self.end(self.rules.failure or HandshakeError(text))
            return
        while await self._read_once():
            pass

    async def _read_once(self) -> bool:
        """Read and act on what came. False once there is nothing more to read."""
        data = await self._transport.read()
        if not data:
            self._end_at_last_byte()
            return False
        self.last_read = trio.current_time()
        self._act_on(self.rules.receive(data))
        return self.rules.failure is None or await self._end_failed()

    def _end_at_last_byte(self) -> None:
        self.end(self._broken or ConnectionError(f"{self.name} closed the connection"))

    def _act_on(self, events: list[ev.Event]) -> None:
        for event in events:
            self._dispatch(event)
        self.flush()

    async def _end_failed(self) -> bool:
        """End as the rules have failed. False: there is nothing more to read."""
        assert self.rules.failure is not None
        await self.say_last_words()
        self.end(self.rules.failure)
        return False

    def _dispatch(self, event: ev.Event) -> None:
        match event:
            case ev.CallReceived():
                self._owner.called(event)
            case ev.ResultReceived() | ev.ErrorReceived() | ev.MessageDropped(terminal=True):
                endpoint = self.endpoints.pop(event.slot, None)
                if endpoint is not None:
                    endpoint.received(event)
                self._owner.freed()
            case ev.HelloReceived():
                self._owner.greeted(event.hello)
            case ev.GoawayReceived():
                self._said_goaway(event)
            case ev.GoawayAcked():
                self.acked.set()
            case ev.ConnectionFailed():
                self._report(event.error)
            case ev.PongReceived():
                pass  # any byte read is a sign of life
            case _:
                endpoint = self.endpoints.get(event.slot)
                if endpoint is not None:
                    endpoint.received(event)

    def _said_goaway(self, event: ev.GoawayReceived) -> None:
        self.goaway = event
        if self.rules.peer is None:
            text = f"{self.name} refused the connection: {event.goaway.text}"
            if event.goaway.code == Code.UNAUTHENTICATED:
                text += ". Does it ask for a token, and is it the one that was passed as token=?"
            self.end(HandshakeError(text))
        elif event.goaway.code >= Code.PROTOCOL_ERROR:
            text = f"{self.name} ended the connection: {event.goaway.text}"
            self.end(RemoteProtocolError(text, Code.of(event.goaway.code, Code.PROTOCOL_ERROR)))
        self._owner.freed()

    def _report(self, error: RemoteProtocolError) -> None:
        if self.rules.peer is None:
            known = error.code is Code.VERSION
            why = "" if known else " does not speak jumpstarter's protocol"
            error.args = (f"{self.name}{why}: {error}",)
        _logger.warning("connection to %s ended: %s", self.name, error)

    # ----------------------------------------------------------------------------- writing

    def flush(self) -> None:
        """Send what the outbox holds on its way. Synchronous, so nothing can cut a frame in two.

        With few calls in flight the frames are written here and now, which saves a task switch;
        with many, the writer takes them together, which saves system calls.
        """
        if self._writing or not self.rules.outbox:
            return
        if self.rules.busy > _DIRECT:
            self.flush_soon()
            return
        batch = self.rules.take()
        try:
            self._rest = self._transport.try_write(batch.buffers)
        except OSError as exc:
            self._cannot_write(exc)
            return
        if batch.drained:
            self._tell_drained(batch.drained)
        if self._rest or self.rules.outbox:
            self.flush_soon()

    def flush_soon(self) -> None:
        """Let the writer send what the outbox holds, together with what will come until it runs."""
        self._writing = True
        if self._broken is None:  # else there is no way on behind what was lost
            self._wake_writer.set()

    async def _write_loop(self) -> None:
        stall = self.rules.limits.write_stall
        while True:
            self._writing = bool(self._rest or self.rules.outbox)
            if not self._writing:
                self._written.unpark_all()
                await self._wake_writer.wait()
                continue
            try:
                if self._rest:
                    await self._transport.write(self._rest, stall)
                    self._rest = []
                if self.rules.outbox:
                    batch = self.rules.take()
                    self._tell_drained(batch.drained)
                    await self._transport.write(batch.buffers, stall)
            except trio.TooSlowError:
                text = f"{self.name} took nothing for {stall:g} s"
                self.end(RemoteProtocolError(text, Code.WRITE_STALL))
                return
            except trio.BrokenResourceError as exc:
                self._cannot_write(exc)
                return

    def _cannot_write(self, exc: Exception) -> None:
        """Write nothing more, and let the reader find the end: the peer may have said why."""
        self._writing = True
        self._broken = ConnectionError(f"the connection to {self.name} broke: {exc}")
        self._scope.deadline = trio.current_time() + _LAST_WORDS
        self._written.unpark_all()

    def _tell_drained(self, slots: list[int]) -> None:
        for slot in slots:
            endpoint = self.endpoints.get(slot)
            if endpoint is not None:
                endpoint.drained()

    # --------------------------------------------------------------------------- keepalive

    async def _keepalive_loop(self) -> None:
        interval = self.rules.limits.ping_interval
        timeout = self.rules.limits.ping_timeout
        while True:
            await trio.sleep_until(self.last_read + interval)
            # Nothing may be said before HELLO, which has its own limit, and by whom it is lent.
            if self.rules.peer is None or self.lent:
                self.last_read = trio.current_time()
            if trio.current_time() < self.last_read + interval:
                continue
            asked = trio.current_time()
            self.rules.ping(b"alive???")
            self.flush()
            await trio.sleep(timeout)
            if self.last_read < asked:
                silence = math.ceil(trio.current_time() - self.last_read)
                text = f"{self.name} gave no sign of life for {silence} s"
                self.end(ConnectionError(text))
                return
