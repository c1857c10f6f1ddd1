"""One byte stream shared by many calls: its life, and what each event means.

A connection is made of parts. `ConnectionReader` reads bytes and passes them to the rules; this
module passes the resulting events to the handlers of their slots; `Writer` writes what the rules
have queued. `Ownership` says who may do that at each moment, and has the lock for it. `Keepalive`
and `RateLimits` watch over the peer.

The reader never waits for a consumer or for the writer. Each event reaches the handler of its slot
synchronously, in the locked section in which it was read: the slot may be in use by another call a
moment later. Flow control bounds how much that can buffer.

The reader handles a limited number of frames and then lets other tasks run. If a peer has sent
more, the reader takes the dispatch lock for them, which one connection holds at a time. So many
floods slow the other connections down no more than one does. A connection whose peer sends too
many frames that cost attention and bring nothing is ended.

A connection ends once, for one reason, which every handler that is left receives. This module does
not know drivers, clients or values.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

import trio

from .._protocol import events as ev
from .._protocol.base import BaseProtocol
from .._util.log_limit import RateLimitedLogger
from .._util.text import sanitize_text
from .._util.wakeup import LazyEvent
from .._util.wording import worded
from ..errors import Code, HandshakeError, RemoteProtocolError
from .event_router import ConnectionEvent, EventRouter
from .handlers import ConnectionHandler, StreamHandler
from .keepalive import Keepalive
from .ownership import Ownership
from .reader import ConnectionReader
from .transport import SocketTransport, Transport
from .writer import Writer

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["Connection"]

_logger = logging.getLogger("jumpstarter.connection")

_MAX_REASON: Final = 500  # characters of the reason that a peer gives for the end


class Connection(EventRouter):
    """One connection, from the transport up to the handlers of its slots.

    All methods are for the tasks of one Trio loop, except those documented for threads. The rules
    and the handlers are used only with the lock.

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
        ownership: Who reads, and the lock.
        lock: That lock, for tasks.
        reader: The reading half.
        writer: The writing half.
        keepalive: Asks the peer for signs of life.
        handlers: The handler of each slot that is in use.
        slot_waiters: How many tasks wait for a free slot. They are told of each one.
        ended: Why the connection has ended, None while it has not.
        acked: Set when the peer has acknowledged our GOAWAY, or the connection has ended.
        finished: Set when the connection has ended and all handlers know.
        goaway: The peer's GOAWAY, None if it has sent none.
    """

    __slots__ = (
        "_event_log",
        "_scope",
        "_transport",
        "acked",
        "finished",
        "goaway",
        "keepalive",
        "lock",
    )
    handlers: dict[int, StreamHandler]  # as in the base class; else pyright infers these two anew
    ended: Exception | None

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
        fileno = transport.fileno() if isinstance(transport, SocketTransport) else -1
        super().__init__(rules, owner, name, Ownership(fileno, self._on_bug))
        self.goaway: ev.GoawayReceived | None = None
        self.acked: LazyEvent = LazyEvent()
        self.finished: LazyEvent = LazyEvent()
        self._transport = transport
        self._event_log = event_log or RateLimitedLogger()
        self.lock: threading.Lock = self.ownership.lock
        self.writer: Writer = Writer(self, transport, rules)
        self.reader: ConnectionReader = ConnectionReader(
            self, transport, rules, dispatch_lock or trio.Lock()
        )
        self.keepalive: Keepalive = Keepalive(self)
        self._scope: trio.CancelScope | None = None  # of all tasks, once they run

    # -------------------------------------------------------------------------------- life

    async def run(self) -> None:
        """Run the connection until it ends, and report the reason to all handlers.

        A checkpoint. Cancelling it ends the connection immediately. Raises only `trio.Cancelled`.
        """
        try:
            async with trio.open_nursery() as nursery:
                self._scope = nursery.cancel_scope
                if self.ended is not None:  # before it ran
                    self._scope.cancel()
                self._begin(nursery)
                if self._transport.keepalive and self.rules.limits.ping_interval:
                    nursery.start_soon(self._guard, self.keepalive.run)
                await self._read_loop()  # here: a task of its own would take 2 KiB
        finally:
            await self._close()

    def _begin(self, nursery: trio.Nursery) -> None:
        self.reader.hello_deadline = trio.current_time() + self.rules.limits.hello_timeout
        if self.ended is None:
            self.writer.start(nursery, self._run_writer)

    def _run_writer(self, run: Callable[[], Awaitable[None]]) -> Coroutine[Any, Any, None]:
        return self._guard(run)

    async def _close(self) -> None:
        self._finish()
        # The watch before the socket, whose number another file may get after that.
        self.ownership.discard_watch()
        await self._transport.aclose()

    async def _guard(self, loop: Callable[[], Awaitable[None]]) -> None:
        try:
            await loop()
        # It ends this connection only.
        except Exception as exc:  # noqa: BLE001
            self._fail(exc)

    def _fail(self, exc: Exception) -> None:
        """End the connection after an exception in a task of the loop."""
        if isinstance(exc, (trio.BrokenResourceError, trio.ClosedResourceError)):
            broken = ConnectionError(f"the connection to {self.name} broke: {exc}")
            self.end(self.reason_of_loss(broken))
        else:
            self._on_bug(exc)

    def _on_bug(self, exc: Exception) -> None:
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
        with self.lock:
            # Nothing reads or writes any more, and no handler is registered after this.
            self.ownership.close()
            if self.ended is None:
                cancelled = ConnectionError(f"the connection to {self.name} was cancelled")
                lost = self.writer.failure and self.reason_of_loss(self.writer.failure)
                self.ended = self.rules.failure or lost or cancelled
            handlers, self.handlers = self.handlers, {}
            for handler in handlers.values():
                handler.lost(self.ended)
            self._owner.on_slot_free()
        self.acked.set()
        self.finished.set()
        self.writer.close()

    # ----------------------------------------------------------------------------- reading

    async def _read_loop(self) -> None:
        try:
            while await self.reader.read_once():
                pass
            await self._stop_reading()
        # It ends this connection only.
        except Exception as exc:  # noqa: BLE001
            self._fail(exc)
        finally:
            self.writer.detach()

    async def _stop_reading(self) -> None:
        if self.rules.failure is not None:
            await self.writer.flush_goaway()
            self.end(self.rules.failure)

    def reason_of_loss(self, failure: Exception | None = None) -> Exception:
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

    def _enforce(self) -> bool:
        """Charge the peer. Return True if that ends the connection."""
        breach = self._rate_limits.charge(self.rules, trio.current_time())
        if breach is not None:
            self._act_on_own(self.rules.fail(breach))
        return breach is not None

    def _charge(self) -> None:
        """Charge the peer for frames that cost attention and bring nothing."""
        if self.ownership.holder:  # the limits need Trio's clock
            self.ownership.later(self._charge_in_loop)
        else:
            self._enforce()

    def _charge_in_loop(self) -> None:
        """Charge the peer for frames that a thread has read."""
        with self.lock:
            if self.ended is not None or self.rules.failure is not None:
                return
            if self._enforce():
                self.writer.flush()
                self.ownership.restart()  # no byte will wake the read task, which is to end

    def _act_on_own(self, event: ConnectionEvent) -> None:
        match event:
            case ev.HelloReceived():
                self._owner.on_hello(event.hello)
            case ev.GoawayReceived():
                self._on_goaway(event)
            case ev.GoawayAcked():
                self.ownership.defer(self.acked.set)
            case ev.ConnectionFailed():
                self._report(event.error)
            case ev.PongReceived():
                pass  # any byte read is a sign of life

    def _on_goaway(self, event: ev.GoawayReceived) -> None:
        self.goaway = event
        reason = sanitize_text(event.goaway.text, _MAX_REASON)
        if self.rules.peer is None:
            text = f"{self.name} refused the connection: {reason}"
            if event.goaway.code == Code.UNAUTHENTICATED:
                known = worded("is it the one in token=")
                text += f". Does it ask for a token, {known}, and does it admit this user?"
            self.ownership.defer(self.end, HandshakeError(text))
        elif event.goaway.code >= Code.PROTOCOL_ERROR:
            text = f"{self.name} ended the connection: {reason}"
            error = RemoteProtocolError(text, Code.of(event.goaway.code, Code.PROTOCOL_ERROR))
            self.ownership.defer(self.end, error)
        self._owner.on_slot_free()

    def _report(self, error: RemoteProtocolError) -> None:
        if self.rules.peer is None:
            known = error.code is Code.VERSION
            why = "" if known else " does not speak jumpstarter's protocol"
            error.message = f"{self.name}{why}: {error}"
            error.args = (error.message,)
        self.ownership.later(self.log_end, error)  # a log handler is code of the user

    def log_end(self, reason: Exception) -> None:
        """Log why the connection ends."""
        text = "connection to %s ended: %s"
        self._event_log.log(_logger, logging.WARNING, text, self.name, reason)
