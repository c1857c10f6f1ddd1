"""One byte stream shared by many calls: the connection and its reader.

A connection is made of parts: the reader in this module, the `Writer`, the `Keepalive` and the
`RateLimits`.

The reader never waits for a consumer or for the writer. It passes each event to the handler of its
slot, synchronously; flow control bounds how much that can buffer.

The reader handles a limited number of frames and then lets other tasks run. If a peer has sent
more, the reader takes the dispatch lock for them, which one connection holds at a time. So many
floods slow the other connections down no more than one does. A connection whose peer sends too
many frames that cost attention and bring nothing is ended.

A connection ends once, for one reason, which every handler that is left receives. This module does
not know drivers, clients or values.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from .._protocol import events as ev
from .._protocol.base import BaseProtocol
from .._util.log_limit import RateLimitedLogger
from .._util.text import sanitize_text
from .._util.wakeup import LazyEvent
from .._util.wording import worded
from ..errors import Code, HandshakeError, RemoteProtocolError
from .handlers import ConnectionHandler, StreamHandler
from .keepalive import SECOND_LOOK, Keepalive
from .rate_limits import RateLimits
from .transport import Chunk, Transport
from .writer import Writer

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["Connection"]

_logger = logging.getLogger("jumpstarter.connection")

_MAX_REASON: Final = 500  # characters of the reason that a peer gives for the end


class Connection:
    """One connection, from the transport up to the handlers of its slots.

    All methods are for the tasks of one Trio loop.

    Args:
        transport: The byte stream. The connection closes it.
        rules: The state of the protocol.
        owner: Handles the events that belong to no slot.
        name: The peer's name in errors and logs.
        event_log: Logs how the connection failed. An exporter has one for all connections.
        dispatch_lock: Held to handle more frames than the first `max_frames_per_turn` of a read. An
            exporter has one for all connections.

    Attributes:
        rules: The state of the protocol. Call its verbs, then `writer.flush`.
        name: The peer's name in errors and logs.
        writer: The writing half.
        keepalive: Asks the peer for signs of life.
        handlers: The handler of each slot that is in use.
        ended: Why the connection has ended, None while it has not.
        last_read: When bytes were last read, in seconds of `trio.current_time`.
        acked: Set when the peer has acknowledged our GOAWAY, or the connection has ended.
        finished: Set when the connection has ended and all handlers know.
        goaway: The peer's GOAWAY, None if it has sent none.
    """

    def __init__(
        self,
        transport: Transport,
        rules: BaseProtocol,
        owner: ConnectionHandler,
        name: str,
        *,
        event_log: RateLimitedLogger | None = None,
        dispatch_lock: trio.Lock | None = None,
    ) -> None:
        self.rules: BaseProtocol = rules
        self.name: str = name
        self.handlers: dict[int, StreamHandler] = {}
        self.ended: Exception | None = None
        self.goaway: ev.GoawayReceived | None = None
        self.acked: LazyEvent = LazyEvent()
        self.finished: LazyEvent = LazyEvent()
        self._transport = transport
        self._owner = owner
        self._event_log = event_log or RateLimitedLogger()
        self._dispatch_lock = dispatch_lock or trio.Lock()
        self.last_read: float = trio.current_time()
        self.writer: Writer = Writer(self, transport, rules)
        self.keepalive: Keepalive = Keepalive(self)
        self._rate_limits = RateLimits(rules.limits)
        self._hello_deadline = math.inf
        self._scope: trio.CancelScope | None = None  # of all tasks, once they run

    @property
    def is_leased(self) -> bool:
        """True while a thread or task outside the reader reads and writes."""
        return False

    # -------------------------------------------------------------------------------- life

    async def run(self) -> None:
        """Run the connection until it ends, and report the reason to all handlers.

        A checkpoint. Cancelling it ends the connection immediately. Raises only `trio.Cancelled`.
        """
        self._hello_deadline = trio.current_time() + self.rules.limits.hello_timeout
        try:
            async with trio.open_nursery() as nursery:
                await self._begin(nursery)
        finally:
            self._finish()
            await self._transport.aclose()

    async def _begin(self, nursery: trio.Nursery) -> None:
        self._scope = nursery.cancel_scope
        self._start_reading(nursery)
        self._start_keepalive(nursery)
        if self.ended is not None:  # before it ran
            self._scope.cancel()
        else:
            self.writer.start(nursery, self._guard)

    def _start_reading(self, nursery: trio.Nursery) -> None:
        nursery.start_soon(self._guard, self._read_loop)

    def _start_keepalive(self, nursery: trio.Nursery) -> None:
        if self._transport.keepalive and self.rules.limits.ping_interval:
            nursery.start_soon(self._guard, self.keepalive.run)

    async def _guard(self, loop: Callable[[], Awaitable[None]]) -> None:
        try:
            await loop()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            broken = ConnectionError(f"the connection to {self.name} broke: {exc}")
            self.end(self._reason_of_loss(broken))
        # A bug, in a task of the loop: it ends this connection only.
        except Exception as exc:  # noqa: BLE001
            text = "internal error on the connection to %s"
            self._event_log.log(_logger, logging.ERROR, text, self.name, exc=exc)
            self.end(exc)

    def end(self, reason: Exception) -> None:
        """End the connection immediately. If it is called again, the first reason stays."""
        if self.ended is None:
            self.ended = reason
        if self._scope is not None:
            self._scope.cancel()

    def end_within(self, seconds: float) -> None:
        """End the connection after this time, if it has not ended by then."""
        if self._scope is not None:
            self._scope.deadline = trio.current_time() + seconds

    def _finish(self) -> None:
        if self.ended is None:
            cancelled = ConnectionError(f"the connection to {self.name} was cancelled")
            lost = self.writer.failure and self._reason_of_loss(self.writer.failure)
            self.ended = self.rules.failure or lost or cancelled
        handlers, self.handlers = self.handlers, {}
        for handler in handlers.values():
            handler.lost(self.ended)
        self.acked.set()
        self.finished.set()
        self.writer.close()
        self._owner.on_slot_free()

    @property
    def is_quiescent(self) -> bool:
        """True if the connection goes on, and nothing is under way in either direction."""
        rules = self.rules
        return not (
            not self.writer.is_idle
            or self.writer.rest
            or rules.send_queue
            or rules.unfinished
            or rules.unprocessed
            or rules.going_away
            or self.ended is not None
        )

    # ----------------------------------------------------------------------------- reading

    async def _read_loop(self) -> None:
        try:
            while await self._read_once():
                pass
            await self._stop_reading()
        finally:
            self.writer.detach()

    async def _stop_reading(self) -> None:
        if self.rules.failure is not None:
            await self.writer.flush_goaway()
            self.end(self.rules.failure)

    async def _read_once(self) -> bool:
        """Handle frames that are left, or read more. Return False when nothing will follow."""
        if self.ended is not None or self.rules.failure is not None:
            return False
        if self.rules.unprocessed:
            async with self._dispatch_lock:
                if self.ended is None:
                    self._handle(b"")
        else:
            data = await self._read()
            # Another task may have ended the connection after this one was scheduled to read.
            if not data or self.ended is not None:
                return False
            self._handle(data)
        self.last_read = trio.current_time()  # frames that waited for the lock count as well
        return True

    async def _read(self) -> Chunk:
        """Return the next bytes. Return none at the end, after the reason was settled."""
        if self.rules.peer is None:
            data = await self._read_by(self._hello_deadline)
        else:
            data = await self._transport.read_on()  # most reads of bulk need no deadline
            if data is None and self.rules.unfinished:
                data = await self._read_by(self.last_read + self.rules.limits.read_stall)
            elif data is None:
                data = await self._transport.read()
        if data is None:
            self._give_up()
        elif not data:
            self.end(self._reason_of_loss(self.writer.failure))
        return data or b""

    async def _read_by(self, deadline: float) -> Chunk | None:
        """Read until the deadline, or return None.

        Tries once more after it: bytes that arrived while the loop was busy are not the peer's
        silence.
        """
        for patience in (deadline, max(deadline, trio.current_time()) + SECOND_LOOK):
            with trio.CancelScope(deadline=patience):
                return await self._transport.read()
        return None

    def _give_up(self) -> None:
        limits = self.rules.limits
        if self.rules.peer is None:
            text = f"{self.name} did not say HELLO within {limits.hello_timeout:g} s"
            self.end(HandshakeError(f"{text}; is it a jumpstarter?"))
        else:
            text = f"{self.name} sent no more of what it had begun for {limits.read_stall:g} s"
            self._dispatch(self.rules.fail(RemoteProtocolError(text)))
            self.writer.flush()

    def _reason_of_loss(self, failure: Exception | None = None) -> Exception:
        """Return why the connection ends, once the peer has gone.

        If the peer has said goodbye, that is the reason: a peer that leaves does not wait for our
        answer to it, so writing the answer may fail.
        """
        text = f"{self.name} closed the connection"
        if self.goaway is None:
            return failure or ConnectionError(text)
        if self.goaway.goaway.text:
            text += f": {sanitize_text(self.goaway.goaway.text, _MAX_REASON)}"
        return ConnectionError(text)

    def _handle(self, data: Chunk) -> None:
        self._act_on(self.rules.receive(data, self.rules.limits.max_frames_per_turn))

    def _act_on(self, events: list[ev.Event]) -> None:
        for event in events:
            self._dispatch(event)
        counters = RateLimits.count(self.rules)
        if counters != self._rate_limits.counted and self.rules.failure is None:
            breach = self._rate_limits.charge(counters, trio.current_time())
            if breach is not None:
                self._dispatch(self.rules.fail(breach))
        self.writer.flush()

    def _dispatch(self, event: ev.Event) -> None:
        match event:
            case ev.CallReceived():
                self._owner.on_call(event)
            case ev.ResultReceived() | ev.ErrorReceived() | ev.MessageDropped(terminal=True):
                handler = self.handlers.pop(event.slot, None)
                if handler is not None:
                    handler.received(event)
                self._owner.on_slot_free()
            case ev.HelloReceived():
                self._owner.on_hello(event.hello)
            case ev.GoawayReceived():
                self._on_goaway(event)
            case ev.GoawayAcked():
                self.acked.set()
            case ev.ConnectionFailed():
                self._report(event.error)
            case ev.PongReceived():
                pass  # any byte read is a sign of life
            case _:
                handler = self.handlers.get(event.slot)
                if handler is not None:
                    handler.received(event)

    def _on_goaway(self, event: ev.GoawayReceived) -> None:
        self.goaway = event
        reason = sanitize_text(event.goaway.text, _MAX_REASON)
        if self.rules.peer is None:
            text = f"{self.name} refused the connection: {reason}"
            if event.goaway.code == Code.UNAUTHENTICATED:
                known = worded("is it the one in token=")
                text += f". Does it ask for a token, {known}, and may this user in?"
            self.end(HandshakeError(text))
        elif event.goaway.code >= Code.PROTOCOL_ERROR:
            text = f"{self.name} ended the connection: {reason}"
            self.end(RemoteProtocolError(text, Code.of(event.goaway.code, Code.PROTOCOL_ERROR)))
        self._owner.on_slot_free()

    def _report(self, error: RemoteProtocolError) -> None:
        if self.rules.peer is None:
            known = error.code is Code.VERSION
            why = "" if known else " does not speak jumpstarter's protocol"
            error.message = f"{self.name}{why}: {error}"
            error.args = (error.message,)
        self.log_end(error)

    def log_end(self, reason: Exception) -> None:
        """Log why the connection ends."""
        text = "connection to %s ended: %s"
        self._event_log.log(_logger, logging.WARNING, text, self.name, reason)
