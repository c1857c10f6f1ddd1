"""One byte stream shared by many calls: one task reads, one writes, and nobody waits for anybody.

The reader never waits for a consumer or for the writer: it hands each event to the endpoint of its
slot, synchronously, and credit bounds what that can cost. Only the writer waits for the transport;
everybody else queues whole frames and calls `flush`, which writes them on the spot where that is
possible without waiting, so no cancellation can leave half a frame on the wire.

The reader handles a few frames at a time and then lets other tasks run. What a peer has sent beyond
that waits at a turnstile, through which one connection passes at a time, so that any number of
floods slows the others down no more than one does. A connection whose peer sends too many frames of
the kinds that cost attention and bring nothing is ended.

A connection ends once, for one reason, which every endpoint that is still there is told. This file
knows no drivers, no clients and no values: what comes in for a slot goes to its endpoint, what is
about the connection goes to its owner.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from contextvars import Context, copy_context
from typing import Final, Protocol

import trio

from .._protocol import events as ev
from .._protocol.base import BaseProtocol
from .._protocol.frames import Hello
from .._util.log_limit import RateLimitedLogger
from .._util.rate_limit import TokenBucket
from .._util.text import sanitize_text
from .._util.wakeup import LazyEvent, LazyParkingLot, Wakeup
from ..errors import Code, HandshakeError, RemoteProtocolError
from .transport import Chunk, Transport

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["Connection", "ConnectionHandler", "StreamHandler"]

_logger = logging.getLogger("jumpstarter.connection")

_LAST_WORDS: Final = 1.0  # seconds for a final GOAWAY to leave, or to be found; a courtesy
_SIGN_OF_LIFE: Final = 1.0  # seconds for the peer to answer a PING that was not for keepalive
_SAYING: Final = 500  # characters of what a peer gives as the reason for the end
_SECOND_LOOK: Final = 0.001  # seconds for what has come, and was not read, to be found
_DIRECT: Final = 1  # calls in flight up to which a frame is written by the task that made it


class StreamHandler(Protocol):
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


class ConnectionHandler(Protocol):
    """What a connection needs of the side that it belongs to."""

    def on_hello(self, hello: Hello) -> None:
        """The peer's HELLO has come; a server admits or refuses it before it returns."""

    def on_call(self, event: ev.CallReceived) -> None:
        """(server) Begin to answer a call."""

    def on_slot_free(self) -> None:
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

    Args:
        journal: Takes the line on how the connection went wrong; an exporter has one for all.
        turnstile: Held by whoever handles more frames than come first; an exporter has one for all.
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
        self.endpoints: dict[int, StreamHandler] = {}
        self.ended: Exception | None = None
        self.goaway: ev.GoawayReceived | None = None
        self.acked: LazyEvent = LazyEvent()
        self.finished: LazyEvent = LazyEvent()
        self._transport = transport
        self._owner = owner
        self._journal = event_log or RateLimitedLogger()
        self._dispatch_lock = dispatch_lock or trio.Lock()
        self._rest: list[bytes | bytearray | memoryview] = []  # taken, not written yet
        self._writing = False  # the writer is at it, or nothing can be written any more
        self._broken: Exception | None = None  # why nothing can
        self._wake_writer = Wakeup()
        self._written = LazyParkingLot()  # for an empty send_queue
        self._room = LazyParkingLot()  # in it
        self._large_room = LazyParkingLot()
        self.last_read: float = trio.current_time()
        self._greeting = math.inf  # when the peer has to have said HELLO
        self._asked = -math.inf  # when `is_alive` last sent a PING
        self._scope: trio.CancelScope | None = None  # of all loops, once they run
        self._context: Context
        self._for_writer: trio.Nursery | None = None  # where the writer can be begun
        limits = rules.limits
        self._max_unsent, self._max_pending = limits.max_unsent, limits.max_pending
        self._late = TokenBucket(limits.late_burst, limits.late_rate)
        self._nudges = TokenBucket(limits.ping_burst, limits.ping_rate)
        self._judged = (0, 0)  # late frames and nudges that these two have counted

    @property
    def is_leased(self) -> bool:
        """True while somebody else than this loop reads and writes."""
        return False

    # -------------------------------------------------------------------------------- life

    async def run(self) -> None:
        """Serve the connection until it ends, and tell everybody why. Raises nothing but Cancelled.

        A checkpoint. When it is cancelled the connection ends there and then.
        """
        self._greeting = trio.current_time() + self.rules.limits.hello_timeout
        try:
            async with trio.open_nursery() as nursery:
                await self._begin(nursery)
        finally:
            self._finish()
            await self._transport.aclose()

    async def _begin(self, nursery: trio.Nursery) -> None:
        self._for_writer = nursery
        self._context = copy_context()  # not that of whoever makes the writer begin
        self._scope = nursery.cancel_scope
        self._start_reading(nursery)
        self._start_keepalive(nursery)
        if self.ended is not None:
            self._scope.cancel()
        elif self._broken is not None:
            self._scope.deadline = trio.current_time() + _LAST_WORDS
        elif self._writing:
            self.flush_soon()

    def _start_reading(self, nursery: trio.Nursery) -> None:
        nursery.start_soon(self._guard, self._read_loop)

    def _start_keepalive(self, nursery: trio.Nursery) -> None:
        if self._transport.keepalive and self.rules.limits.ping_interval:
            nursery.start_soon(self._guard, self._keepalive_loop)

    async def _guard(self, loop: Callable[[], Awaitable[None]]) -> None:
        try:
            await loop()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            self.end(ConnectionError(f"the connection to {self.name} broke: {exc}"))
        # In the loop. What it is, is not known: it is logged, and ends this connection only.
        except Exception as exc:  # noqa: BLE001
            text = "internal error on the connection to %s"
            self._journal.log(_logger, logging.ERROR, text, self.name, exc=exc)
            self.end(exc)

    def end(self, reason: Exception) -> None:
        """End the connection now, for this reason; the first reason stands."""
        if self.ended is None:
            self.ended = reason
        if self._scope is not None:
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
        self._room.unpark_all()
        self._large_room.unpark_all()
        self._owner.on_slot_free()

    async def flush_goaway(self) -> None:
        """Give what is queued a moment to leave. A checkpoint; cancelling it loses what is left."""
        with trio.move_on_after(_LAST_WORDS):
            await self.written()

    @property
    def is_quiescent(self) -> bool:
        """True if nothing is on its way on the connection, in either direction, and it goes on."""
        rules = self.rules
        return not (
            self._writing
            or self._rest
            or rules.send_queue
            or rules.unfinished
            or rules.unprocessed
            or rules.going_away
            or self.ended is not None
        )

    async def written(self) -> None:
        """Wait until all that is queued has left. A checkpoint if something has not."""
        self.flush()
        while self._writing and self._broken is None and self.ended is None:
            await self._written.park()

    # ----------------------------------------------------------------------------- reading

    async def _read_loop(self) -> None:
        try:
            while await self._read_once():
                pass
            await self._stop_reading()
        finally:
            self._for_writer = None  # its nursery takes no more tasks once the last one has ended

    async def _stop_reading(self) -> None:
        if self.rules.failure is not None:
            await self.flush_goaway()
            self.end(self.rules.failure)

    async def _read_once(self) -> bool:
        """Act on what is left, in turns with others, or read more. False once nothing will come."""
        if self.ended is not None or self.rules.failure is not None:
            return False
        if self.rules.unprocessed:
            async with self._dispatch_lock:
                if self.ended is None:
                    self._handle(b"")
        else:
            data = await self._read()
            if not data:
                return False
            self._handle(data)
        self.last_read = trio.current_time()  # what waited at the turnstile was there as well
        return True

    async def _read(self) -> Chunk:
        """Give what has come; nothing once there will be no more, which is settled then."""
        if self.rules.peer is None:
            data = await self._read_by(self._greeting)
        else:
            data = await self._transport.read_on()  # most of a bulk's pieces need no deadline then
            if data is None and self.rules.unfinished:
                data = await self._read_by(self.last_read + self.rules.limits.read_stall)
            elif data is None:
                data = await self._transport.read()
        if data is None:
            self._give_up()
        elif not data:
            self._end_at_last_byte()
        return data or b""

    async def _read_by(self, deadline: float) -> Chunk | None:
        """Read what comes until then, or give None.

        What has come while the loop was busy with something else is looked for once more: a pause
        of ours is no silence of the peer's.
        """
        for patience in (deadline, max(deadline, trio.current_time()) + _SECOND_LOOK):
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
            self.flush()

    def _end_at_last_byte(self) -> None:
        self.end(self._broken or ConnectionError(f"{self.name} closed the connection"))

    def _handle(self, data: Chunk) -> None:
        self._act_on(self.rules.receive(data, self.rules.limits.max_frames_per_turn))

    def _act_on(self, events: list[ev.Event]) -> None:
        for event in events:
            self._dispatch(event)
        rules = self.rules
        counted = (rules.late_frames + rules.no_op_frames, rules.control_frames)
        if counted != self._judged and rules.failure is None:
            self._enforce_rate_limits(counted)
        self.flush()

    def _enforce_rate_limits(self, counted: tuple[int, int]) -> None:
        """End the connection if its peer asks for attention too often and brings nothing."""
        now = trio.current_time()
        late, nudges = (new - old for new, old in zip(counted, self._judged, strict=True))
        self._judged = counted
        limits = self.rules.limits
        if not self._nudges.try_acquire(now, nudges):
            what, burst, rate = "PING and GOAWAY", limits.ping_burst, limits.ping_rate
            names = "ping_burst", "ping_rate"
        elif not self._late.try_acquire(now, late):
            what, burst, rate = "frames to no effect", limits.late_burst, limits.late_rate
            names = "late_burst", "late_rate"
        else:
            return
        text = f"more {what} than {names[0]} ({burst}) and {names[1]} ({rate:g} a second) allow"
        self._dispatch(self.rules.fail(RemoteProtocolError(text, Code.TOO_MANY_FRAMES)))

    def _dispatch(self, event: ev.Event) -> None:
        match event:
            case ev.CallReceived():
                self._owner.on_call(event)
            case ev.ResultReceived() | ev.ErrorReceived() | ev.MessageDropped(terminal=True):
                endpoint = self.endpoints.pop(event.slot, None)
                if endpoint is not None:
                    endpoint.received(event)
                self._owner.on_slot_free()
            case ev.HelloReceived():
                self._owner.on_hello(event.hello)
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
            text = (
                f"{self.name} refused the connection: {sanitize_text(event.goaway.text, _SAYING)}"
            )
            if event.goaway.code == Code.UNAUTHENTICATED:
                text += ". Does it ask for a token, is it the one in token=, and may this user in?"
            self.end(HandshakeError(text))
        elif event.goaway.code >= Code.PROTOCOL_ERROR:
            text = f"{self.name} ended the connection: {sanitize_text(event.goaway.text, _SAYING)}"
            self.end(RemoteProtocolError(text, Code.of(event.goaway.code, Code.PROTOCOL_ERROR)))
        self._owner.on_slot_free()

    def _report(self, error: RemoteProtocolError) -> None:
        if self.rules.peer is None:
            known = error.code is Code.VERSION
            why = "" if known else " does not speak jumpstarter's protocol"
            error.args = (f"{self.name}{why}: {error}",)
        self._log_end(error)

    def _log_end(self, reason: Exception) -> None:
        text = "connection to %s ended: %s"
        self._journal.log(_logger, logging.WARNING, text, self.name, reason)

    # ----------------------------------------------------------------------------- writing

    def flush(self) -> None:
        """Send the queued frames. Synchronous, so nothing can cut a frame in two.

        With few calls in flight the frames are written here and now, which saves a task switch;
        with many, the writer takes them together, which saves system calls.
        """
        if self.rules.busy_slots <= _DIRECT:
            self.flush_now()
        elif self.rules.send_queue and not self._writing:
            self.flush_soon()

    def flush_now(self) -> None:
        """The same, here and now whoever else has something to say: for who has said it all."""
        if self._writing or not self.rules.send_queue:
            return
        try:
            self._rest = self._transport.try_write(self._take())
        except OSError as exc:
            self._cannot_write(exc)
            return
        if self._rest or self.rules.send_queue:
            self.flush_soon()

    def flush_soon(self) -> None:
        """Let the writer send the queued frames, and those that are queued until it runs."""
        self._writing = True
        if self._broken is not None:  # then there is no way on behind what was lost
            return
        nursery, self._for_writer = self._for_writer, None
        if nursery is None:
            self._wake_writer.set()
        else:  # for the first time: most connections need none, since each frame leaves at once
            self._context.run(nursery.start_soon, self._guard, self._write_loop)

    @property
    def write_paused(self) -> bool:
        """True if so much has not begun to leave that who has more to say should wait for `room`.

        With a peer that reads it is only ever true for a moment.
        """
        return self.rules.send_queue.unstarted_bytes >= self._max_unsent

    async def wait_writable(self) -> None:
        """Wait until the send_queue is not `full`, or the connection is over.

        A checkpoint if it has to wait; cancelling it loses nothing.
        """
        while self.write_paused and self.ended is None:
            await self._room.park()
        self._room.unpark()  # one is woken at a time, and this one may have little to say
        if self.ended is not None:  # who waits in a loop is told of that a moment later
            await trio.lowlevel.checkpoint()

    async def wait_mostly_writable(self) -> None:
        """Wait until there is room for one more large message, or the connection is over.

        Unlike `room`, it waits for what is leaving as well. A checkpoint if it has to wait.
        """
        while self.rules.send_queue.queued_bytes >= self._max_pending and self.ended is None:
            await self._large_room.park()
        self._large_room.unpark()
        if self.ended is not None:
            await trio.lowlevel.checkpoint()

    async def _write_loop(self) -> None:
        stall = self.rules.limits.write_stall
        while True:
            self._writing = bool(self._rest or self.rules.send_queue)
            if not self._writing:
                self._written.unpark_all()
                self._room.unpark()
                self._large_room.unpark()
                await self._wake_writer.wait()
                continue
            try:
                if self._rest:
                    await self._transport.write(self._rest, stall)
                    self._rest = []
                if self.rules.send_queue:
                    await self._transport.write(self._take(), stall)
            except trio.TooSlowError:
                text = f"{self.name} took nothing for {stall:g} s"
                stalled = RemoteProtocolError(text, Code.WRITE_STALL)
                self._log_end(stalled)
                self.end(stalled)
                return
            except trio.BrokenResourceError as exc:
                self._cannot_write(exc)
                return

    def _cannot_write(self, exc: Exception) -> None:
        """Write nothing more, and let the reader find the end: the peer may have said why."""
        self._writing = True
        self._broken = ConnectionError(f"the connection to {self.name} broke: {exc}")
        if self._scope is not None:
            self._scope.deadline = trio.current_time() + _LAST_WORDS
        self._written.unpark_all()

    def _take(self) -> list[bytes | bytearray | memoryview]:
        batch = self.rules.next_batch()
        for slot in batch.drained:
            endpoint = self.endpoints.get(slot)
            if endpoint is not None:
                endpoint.drained()
        if self._room and not self.write_paused:
            self._room.unpark()
        if self._large_room and self.rules.send_queue.queued_bytes < self._max_pending:
            self._large_room.unpark()
        return batch.buffers

    # --------------------------------------------------------------------------- keepalive

    async def is_alive(self) -> bool:
        """Ask the peer for a sign of life, and tell if one came within a second.

        A checkpoint. Who asks while another asks shares its PING or waits its turn: there is one a
        second at the most, however many calls have reached their deadline.
        """
        since = trio.current_time()
        await trio.sleep_until(self._asked + _SIGN_OF_LIFE)
        if self._asked < since:
            answered = self.last_read >= self._asked
            self._asked = trio.current_time()
            if answered:  # else that one still waits, and an answer to it will do
                self.rules.ping(b"deadline")
                self.flush()
        asked = self._asked
        await trio.sleep_until(asked + _SIGN_OF_LIFE)
        return await self._has_come_since(asked)

    async def _has_come_since(self, asked: float) -> bool:
        """Tell if anything was read since; what the loop was too busy to read counts as well."""
        if self.last_read < asked:
            await trio.sleep(_SECOND_LOOK)
        return self.last_read >= asked

    async def _keepalive_loop(self) -> None:
        interval = self.rules.limits.ping_interval
        timeout = self.rules.limits.ping_timeout
        while True:
            await trio.sleep_until(self.last_read + interval)
            # Nothing may be said before HELLO, which has its own limit, and by whom it is lent.
            if self.rules.peer is None or self.is_leased:
                self.last_read = trio.current_time()
            if trio.current_time() < self.last_read + interval:
                continue
            asked = trio.current_time()
            self.rules.ping(b"alive???")
            self.flush()
            await trio.sleep(timeout)
            if not await self._has_come_since(asked):
                silence = round(trio.current_time() - self.last_read)
                lost = ConnectionError(f"{self.name} gave no sign of life for {silence} s")
                self._log_end(lost)
                self.end(lost)
                return
