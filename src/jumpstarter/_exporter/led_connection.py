"""Let a worker thread use a connection exclusively, for plain methods called one after the other.

Switching to a thread and back costs several times as much as most plain methods. Usually a test
calls one after the other, and nothing else happens. So a thread that gets a call gets the
connection with it: it sends the answer itself, waits a moment for the next call, and answers that
too. Meanwhile the loop does not use the connection.

    owner     what comes next
    LOOP      THREAD: a plain method was called, and nothing else is open
    THREAD    LOOP: a method takes its time, something else has come, nothing has come for a
              moment, others need the thread, the loop wants it back, the connection has ended

- A lock protects changes of the owner, and the thread's use of the rules and the socket. It is
  never held while a driver's code runs, or for longer than handling one frame takes. So the loop
  can take the connection back at any time, and finds it in a consistent state.
- A thread handles only the simple case by itself: one call, one answer. Anything else that it reads
  is left to the loop.
- If a method still runs when the connection goes back to the loop, it is an ordinary call from then
  on: it can be cancelled, and the loop sends its answer.
- The task that started the thread waits for it, so `trio.from_thread` works in all methods that it
  runs.

A thread can own only a plain socket: the loop must handle TLS. This module knows no drivers.
"""

from __future__ import annotations

import select
import threading
from functools import partial
from typing import Final, Generic, Protocol, TypeVar

import trio

from .._io.transport import SocketTransport, Transport
from .._protocol import events as ev
from .._protocol.base import BaseProtocol
from .._util.log_limit import RateLimitedLogger
from .._util.wakeup import Wakeup
from .eager import Answerer, Begun, EagerConnection, OwnScope

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["Lead", "LedConnection", "ThreadAnswerer"]

_PATIENCE: Final = 0.002  # seconds; a method that takes once or twice this loses the connection
_STAYS: Final = 2  # times that a thread waits for the next call,
_STAY_MS: Final = 5  # this long each, which limits the delay for other uses of the thread
_SMALL: Final = 16 * 1024  # bytes of an answer that a thread sends by itself

C = TypeVar("C", bound=Begun)


class ThreadAnswerer(Answerer[C], Protocol[C]):
    """The interface of the code that answers a connection's calls."""

    async def answer_in_thread(self, lead: Lead[C]) -> None:
        """Run `lead` in a thread, and finish the call that it returns unanswered, if any."""

    def may_lead(self) -> bool:
        """Return True if a thread is available, and may wait for calls. In any thread."""

    def run_sync(self, call: C) -> object:
        """Answer a call. In a thread.

        Returns:
            The result, encoded as a bytearray. The loop must convert anything else to one.

        Raises:
            BaseException: The failure of the call.
        """

    def take(self, event: ev.CallReceived) -> C | None:
        """Register a call as an handler, if a thread may answer it. In a thread."""

    def answered(self, call: C, result: bytearray) -> None:
        """Queue the result of a call that a thread has answered. In that thread."""


class Lead(Generic[C]):
    """The exclusive use of a connection by one thread.

    Attributes:
        call: The call that the thread answers, None while it waits for one.
        number: The number of calls that it has begun.
        poll: Waits for more data.
        scope: The cancel scope of the task that waits for the thread.
    """

    __slots__ = ("call", "number", "poll", "scope")

    def __init__(self, call: C, fileno: int) -> None:
        self.call: C | None = call
        self.number = 1
        self.poll = select.poll()
        self.poll.register(fileno, select.POLLIN)
        self.scope: trio.CancelScope | None = None


class LedConnection(EagerConnection[C]):
    """A connection on which a thread can answer calls of plain methods by itself.

    Args:
        transport, rules, owner, name, event_log, dispatch_lock: See `Connection`.
    """

    __slots__ = ("_desk", "_lead", "_left", "_lock", "_returned", "_socket", "_write_error")

    def __init__(
        self,
        transport: Transport,
        rules: BaseProtocol,
        owner: ThreadAnswerer[C],
        name: str,
        *,
        event_log: RateLimitedLogger,
        dispatch_lock: trio.Lock,
    ) -> None:
        super().__init__(
            transport, rules, owner, name, event_log=event_log, dispatch_lock=dispatch_lock
        )
        self._desk: Final = owner
        self._socket = transport if isinstance(transport, SocketTransport) else None
        self._lock = threading.Lock()
        self._lead: Lead[C] | None = None  # the owner of the connection; None for the loop
        self._returned = Wakeup()  # for the reader
        self._left: list[ev.Event] = []  # events read by a thread, to be handled by the loop
        self._write_error: OSError | None = None  # or the error of reading

    # ---------------------------------------------------------------------------- in the loop

    @property
    def is_leased(self) -> bool:
        """True while the loop does not own the connection."""
        return self._lead is not None

    async def _begin_in_thread(self, call: C) -> None:
        if self._come or not (self._is_quiet() and self._desk.may_lead()):
            self.begin(call, apart=True)
            return
        assert self._socket is not None
        self._lead = lead = Lead(call, self._socket.fileno())
        self._tasks.start_soon(self._guard, partial(self._stay_with, lead))
        await self._stand_aside(lead)

    def _is_quiet(self) -> bool:
        """Return True if one call has arrived, and nothing else is in progress."""
        rules = self.rules
        if rules.busy_slots > 1 or self._socket is None or not self.is_quiescent:
            return False
        total = rules.late_frames + rules.no_op_frames + rules.control_frames
        return self._rate_limits.total == total

    async def _stand_aside(self, lead: Lead[C]) -> None:
        """Wait while a thread leads, and take the connection back if a method takes long."""
        while self._lead is lead:
            number = lead.number
            with trio.move_on_after(_PATIENCE):
                await self._returned.wait()
            if lead.number == number:
                self.reclaim(number)
        self.reader.last_read = trio.current_time()
        left, self._left = self._left, []
        if self.ended is None:
            self.act_on(left)

    def reclaim(self, number: int = 0) -> None:
        """Take the connection back. A call in progress continues as an ordinary call.

        Args:
            number: Only if this is the number of the thread's current call; 0 for always.
        """
        with self._lock:
            lead = self._lead
            if lead is None or (number and (lead.number != number or lead.call is None)):
                return
            self._lead = None
        if lead.call is not None and lead.scope is not None:
            lead.call.enter(lead.scope)
        if self._write_error is not None:
            self.writer.fail(self._write_error)
        elif self.writer.rest:
            self.writer.flush_soon()
        self._returned.set()

    async def _stay_with(self, lead: Lead[C]) -> None:
        with OwnScope() as scope:
            lead.scope = scope  # no call's, nor under a deadline, while the thread has them all
            if lead.call is not None and self._lead is not lead:
                lead.call.enter(scope)
            await self._desk.answer_in_thread(lead)
        if lead.call is not None:  # else another thread may lead by now
            self.writer.flush()

    def returned(self, lead: Lead[C]) -> None:
        """Note that the thread has returned."""
        if self._lead is lead:
            self.reclaim()

    def _finish(self) -> None:
        self.reclaim()
        super()._finish()

    # ---------------------------------------------------------------------------- in a thread

    def lead(self, lead: Lead[C]) -> tuple[object, ...]:
        """Answer the call that was passed to a thread, and those that follow.

        Returns:
            The result of `work` for the call that is still unanswered, if there is one; in a tuple,
            since Trio does not allow a thread to return a coroutine.

        Raises:
            BaseException: Raised by `work` for that call.
        """
        while lead.call is not None:
            answer = self._desk.run_sync(lead.call)
            if not self._send(lead, lead.call, answer):
                return (answer,)
            self._wait_for_next(lead)
        return ()

    def _send(self, lead: Lead[C], call: C, answer: object) -> bool:
        """Send an answer, unless the loop must do that."""
        if not isinstance(answer, bytearray) or len(answer) > _SMALL:
            return False
        with self._lock:
            if self._lead is not lead:
                return False
            assert self._socket is not None
            self._desk.answered(call, answer)
            lead.call = None
            try:
                self.writer.rest = self._socket.try_write(self.rules.next_batch().buffers)
            except OSError as exc:
                self._write_error = exc
        return True

    def _wait_for_next(self, lead: Lead[C]) -> None:
        """Wait for a call, and register it."""
        if self.writer.rest or self._write_error is not None:
            return
        for _ in range(_STAYS):
            if not self._desk.may_lead():
                return
            if lead.poll.poll(_STAY_MS):
                with self._lock:
                    if self._lead is lead:
                        self._receive(lead)
                return

    def _receive(self, lead: Lead[C]) -> None:
        """Read, and register one call for a thread; leave anything else to the loop."""
        assert self._socket is not None
        try:
            data = self._socket.try_read()
        except OSError as exc:
            self._write_error = exc  # reported only once; the loop will see EOF
            return
        match self.rules.receive(data, self.rules.limits.max_frames_per_turn) if data else []:
            case [ev.CallReceived() as event] if self._is_quiet():
                lead.call = self._desk.take(event)
                if lead.call is not None:
                    lead.number += 1
                else:
                    self._left = [event]
            case events:
                self._left = events
