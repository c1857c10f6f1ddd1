"""Let the thread or task that waits for an answer read it itself: it then "leads" the connection.

Through the portal, a call takes four switches between threads and tasks, which cost several times
as much as the call itself. In the loop, switching between the reader and the caller costs as much
as the call. Usually one small call follows another, and nothing else happens on the connection.
Then the reader pauses: the calling thread or task writes the call, waits, and reads and handles the
answer itself, with the same protocol rules and the same objects.

At any time one side owns the connection, its rules, handlers and transport:

    state    lock    owner               what comes next
    LOOP     free    the loop            FREE: nothing is open, and a quick call has just ended
    FREE     free    nobody              held: a thread makes a call; TASK: a task does; LOOP: some
                                         task wants more than that, or for a while none has called
    FREE     held    the lock's holder   free: its call has ended; BACK: whatever else happens
    TASK     free    the loop; a task    FREE: its call has ended, and nothing else is open; BACK:
                     of it reads         whatever else happens; LOOP: it takes its time
    BACK     free    nobody              LOOP: as soon as the loop gets round to it

- The loop never waits for the lock, except at the connection's end. It marks that it wants the
  connection, and the holder gives it back after `_PATIENCE_MS` at the latest.
- A thread or task only makes one small call alone, which is answered immediately. If the answer
  takes longer, or if there is another frame, a lost peer, a signal or a cancellation, it gives the
  connection back and waits for its call like any other caller.
- While a task reads, other tasks may open slots and write, as they may while the reader runs.
- A thread that holds the lock defers signals except while it polls, when the state is consistent,
  and Trio protects the steps of a task from Ctrl-C. If an exception is raised anyway, the state may
  be inconsistent, so the connection is ended.

Only a plain socket can be led: the loop must do TLS. This module knows no requests and no values.
"""

from __future__ import annotations

import enum
import logging
import select
import threading
from collections.abc import Callable
from contextlib import suppress
from threading import get_ident
from typing import Final, Protocol, TypeVar

import trio

from .._io.connection import Connection
from .._io.handlers import ConnectionHandler
from .._io.transport import SocketTransport, Transport
from .._protocol import events as ev
from .._protocol.base import BaseProtocol
from .._util.deferred_signals import DeferSignals, Interrupted
from .._util.wakeup import LazyParkingLot, Wakeup
from ..errors import DriverError

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["LeadConnection", "Led"]

_logger = logging.getLogger("jumpstarter.connection")

_PATIENCE_MS: Final = 2  # leading does not speed up a longer call, and the loop may be waiting
_IDLE: Final = 0.05  # seconds without a call until the loop takes the connection back
_PAUSE: Final = 0.05  # seconds after a task has wanted it until threads may lead again


class _State(enum.Enum):
    LOOP = enum.auto()
    FREE = enum.auto()
    TASK = enum.auto()
    BACK = enum.auto()


# Constants, since to look a member up in its enum takes as long as a small system call.
_LOOP: Final = _State.LOOP
_FREE: Final = _State.FREE
_TASK: Final = _State.TASK
_BACK: Final = _State.BACK
_ANSWERS: Final = (ev.ResultReceived, ev.ErrorReceived)


class Led(Protocol):
    """A call not yet registered with the connection."""

    slot: int

    @property
    def done(self) -> bool:
        """True once it has ended."""

    def received(self, event: ev.SlotEvent) -> None:
        """Act on the answer, which has arrived."""


LedT = TypeVar("LedT", bound=Led)


class LeadConnection(Connection):
    """A connection that callers may lead while nothing else is open on it."""

    # Beside the attributes of a `Connection`: more of them than Python shares the names of between
    # objects (30) would cost each a dict of its own.
    __slots__ = (
        "_at_end",
        "_calls",
        "_fd",
        "_last_wanted",
        "_leader",
        "_left",
        "_lock",
        "_offered",
        "_poll",
        "_returned",
        "_socket",
        "_state",
        "_token",
        "_waiting",
        "_wanted",
        "_write_error",
    )

    def __init__(
        self, transport: Transport, rules: BaseProtocol, owner: ConnectionHandler, name: str
    ) -> None:
        super().__init__(transport, rules, owner, name)
        self._socket = transport if isinstance(transport, SocketTransport) else None
        self._state = _LOOP
        self._lock = threading.Lock()
        self._leader = 0  # the thread that holds the lock
        self._calls = 0  # that were led
        self._wanted = False  # a task waits for the connection
        self._offered = False  # the reader is to step aside
        self._returned = Wakeup()  # for the reader
        self._waiting = LazyParkingLot()  # tasks that want it
        self._last_wanted = -_PAUSE
        self._left: list[ev.Event] = []  # events read by a leader, to be handled by the loop
        self._write_error: OSError | None = None
        self._at_end = False  # a leader has read the last byte
        self._token = trio.lowlevel.current_trio_token()
        self._poll = select.poll()
        self._fd = -1 if self._socket is None else self._socket.fileno()
        if self._socket is not None:
            self._poll.register(self._fd, select.POLLIN)

    # ---------------------------------------------------------------------------- in the loop

    @property
    def is_leased(self) -> bool:
        """True while the loop does not own the connection."""
        return self._state is _FREE or self._state is _BACK

    async def offer(self) -> None:
        """Let callers lead, if the connection is idle. Then a checkpoint, never cancelled."""
        if self._socket is not None and not self._offered and self._is_quiet():
            self._offered = True
            self._socket.stop_waiting()
            # The reader pauses before the caller that waits for us can make its next call.
            await trio.lowlevel.cancel_shielded_checkpoint()

    def _is_quiet(self) -> bool:
        if self.handlers or not self.is_quiescent:
            return False
        return trio.current_time() >= self._last_wanted + _PAUSE

    async def reclaim(self) -> None:
        """Take the connection back. A checkpoint if a thread has it just now."""
        if self._state is _FREE:
            self._last_wanted = trio.current_time()
        while self.is_leased and not self._take_back():
            self._wanted = True
            if not self._take_back():  # again: the holder may have looked before the mark was there
                await self._waiting.park()

    @trio.lowlevel.enable_ki_protection
    def _take_back(self) -> bool:
        """Take it if no thread holds it."""
        if not self._lock.acquire(blocking=False):
            return False
        if self._state is _FREE:
            self._become_ours()
        self._lock.release()
        return not self.is_leased

    def _become_ours(self) -> None:
        self._state = _LOOP
        self._wanted = False
        self.last_read: float = trio.current_time()
        self._returned.set()
        self._waiting.unpark_all()

    @trio.lowlevel.enable_ki_protection
    def _given_back(self) -> None:
        """Handle what the leader has left, before any task runs."""
        if self._state is not _BACK:
            return  # the connection has ended meanwhile
        self._become_ours()
        left, self._left = self._left, []
        try:
            self._act_on(left)
        except Exception as exc:  # noqa: BLE001 - in the loop; logged, and ends this connection
            text = "internal error on the connection to %s"
            self._event_log.log(_logger, logging.ERROR, text, self.name, exc=exc)
            self.end(exc)
        if self.rules.failure is not None and self.writer.is_idle:
            self.end(self.rules.failure)  # as the reader does, but before the task goes on
        elif self._at_end:
            self.end(self._reason_of_loss(self.writer.failure))
        elif self._write_error is not None:
            self.writer.fail(self._write_error)
        elif self.writer.rest or self.rules.send_queue:
            self.writer.flush_soon()

    async def _read_once(self) -> bool:
        if self._offered:
            self._offered = False
            if self._is_quiet():
                await self._stand_aside()
                return True
        try:
            return await super()._read_once()
        except trio.ClosedResourceError:
            if not self._offered:
                raise
            return True

    @trio.lowlevel.enable_ki_protection
    async def _stand_aside(self) -> None:
        assert self._socket is not None
        self._state = _FREE
        while self._state is not _LOOP:
            calls = self._calls
            with trio.move_on_after(_IDLE):
                await self._returned.wait()
            if calls != self._calls:
                continue
            if self._state is _TASK:
                self._become_ours()
                self._socket.stop_waiting()  # its task, which waits for its call from now on
            else:
                self._take_back()

    @trio.lowlevel.enable_ki_protection
    def _finish(self) -> None:
        """Wait for the leading thread, if any: the objects that it uses are about to be closed."""
        with self._lock:
            if self._state is _BACK:
                self._given_back()
            self._state = _LOOP
        self._waiting.unpark_all()
        super()._finish()

    # ------------------------------------------------------------------------------ in a task

    @trio.lowlevel.enable_ki_protection
    async def lead_here(
        self, call: LedT, start: Callable[[LedT, float], None], seconds: float
    ) -> bool:
        """Make a call from the task that waits for it. See `lead`.

        A checkpoint if it was started. If it is cancelled, the loop continues the call.
        """
        if not self._enter():
            return False
        keep = whole = False
        try:
            if self._poll.poll(0) and not self._receive(call):
                whole = True
                return False
            start(call, seconds)
            self._calls += 1
            keep = self._send()
            while keep and not call.done:
                whole = True
                with suppress(trio.ClosedResourceError):
                    await trio.lowlevel.wait_readable(self._fd)
                if self._state is not _TASK:
                    break  # the task may not read any more
                whole = False
                keep = self._receive(call)
            whole = True
        except DriverError:
            keep = whole = True
            raise
        finally:
            if not whole:
                self._left = []
                self.end(self._cut_off())
            self._leave(keep=keep)
            # Tasks may have begun to wait for the slot meanwhile. (They do not while a thread
            # leads: they wait for the connection first.)
            if call.done:
                self._owner.on_slot_free()
        return call.slot > 0

    @trio.lowlevel.enable_ki_protection
    def _enter(self) -> bool:
        """Make the calling task read in place of the reader, if no thread leads."""
        if self._state is not _FREE or self._wanted or not self._lock.acquire(blocking=False):
            return False
        if self._state is _FREE:
            self._state = _TASK
        self._lock.release()
        return self._state is _TASK

    @trio.lowlevel.enable_ki_protection
    def _leave(self, *, keep: bool) -> None:
        if self._state is not _TASK:
            return  # the reader goes on already, or the connection has ended
        if keep and not (self.handlers or not self.writer.is_idle or self._wanted):
            self._state = _FREE
            return
        self._last_wanted = trio.current_time()
        self._state = _BACK
        self._given_back()

    # ---------------------------------------------------------------------------- in a thread

    def led_from_here(self) -> bool:
        """Return True if the calling thread leads: then a finalizer calls this, during that."""
        return self._leader == get_ident()

    def lead(self, call: LedT, start: Callable[[LedT, float], None], seconds: float) -> bool:
        """Make a call from the thread that waits for it.

        Args:
            call: The call. Afterwards it is `done` if it was answered; if it has a slot and is not
                `done`, the loop handles it from now on.
            start: Registers the call with the rules and the handlers. If it raises DriverError,
                nothing has changed.
            seconds: The timeout to pass to `start`.

        Returns:
            False if it was not started: the connection cannot be led, or the loop must check it
            first.

        Raises:
            DriverError: Raised by `start`.
            BaseException: Raised by a signal handler; the call may have been sent, or answered.
        """
        with DeferSignals() as shelter:
            if not self._lock.acquire(blocking=False):
                return False
            keep = whole = False
            try:
                self._leader = get_ident()
                if self._state is not _FREE:
                    whole = True
                    return False
                keep = self._make(call, start, seconds, shelter)
                whole = True
            except DriverError:
                keep = whole = True
                raise
            except Interrupted:
                whole = True
            except BaseException:
                whole = shelter.waiting
                raise
            finally:
                if not whole:
                    self._fail()
                self._let_go(keep=keep)
        return call.slot > 0

    def _make(
        self,
        call: LedT,
        start: Callable[[LedT, float], None],
        seconds: float,
        shelter: DeferSignals,
    ) -> bool:
        """Send the call, and wait for its answer. Return False if the loop must continue it."""
        if self._poll.poll(0) and not self._receive(call):
            return False  # unexpected data is often the peer's GOAWAY
        start(call, seconds)
        self._calls += 1
        if not self._send():
            return False
        while not call.done:
            ready = shelter.wait(self._poll.poll, _PATIENCE_MS)
            if not ready or not self._receive(call):
                return False
        return True

    def _send(self) -> bool:
        assert self._socket is not None
        try:
            self.writer.rest = self._socket.try_write(self.rules.next_batch().buffers)
        except OSError as exc:
            self._write_error = exc
            return False
        return not (self.writer.rest or self.rules.send_queue)

    def _receive(self, call: Led) -> bool:
        """Read and handle the answer. Return False if the loop must handle anything."""
        assert self._socket is not None
        rules = self.rules
        try:
            data = self._socket.try_read()
        except OSError:
            return False  # the loop will find it too
        if not data:
            self._at_end = data is not None
            return not self._at_end
        events = rules.receive(data, rules.limits.max_frames_per_turn)
        event = events[0] if len(events) == 1 else None
        if isinstance(event, _ANSWERS) and event.slot == call.slot:
            del self.handlers[event.slot]
            call.received(event)
            events = []
        self._left = events
        return not (events or rules.unprocessed or rules.send_queue)

    def _fail(self) -> None:
        """End the connection, since its state is unknown."""
        self._left = []
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self.end, self._cut_off())

    def _cut_off(self) -> ConnectionError:
        text = f"the connection to {self.name} was cut off by an exception in the midst of a call"
        return ConnectionError(text)

    def _let_go(self, *, keep: bool) -> None:
        """Stop leading: hand over to the next thread, or to the loop."""
        self._leader = 0
        if keep and not self._wanted:
            self._lock.release()
            if not self._is_wanted_now():
                return
        if self._state is _FREE:
            self._state = _BACK
            with suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._given_back)
        self._lock.release()

    def _is_wanted_now(self) -> bool:
        """Return True if a task wanted the connection while the lock was held. With the lock."""
        return self._wanted and self._lock.acquire(blocking=False)
