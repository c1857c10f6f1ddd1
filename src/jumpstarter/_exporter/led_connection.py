"""A connection that a worker thread may have to itself, for plain methods called one by one.

The way to a thread and back costs several times what most plain methods do. But most often a test
calls one after the other, and nothing else goes on. So a thread that is given a call is given the
connection with it: it sends the answer itself, waits a moment for the next call, and goes on with
that, while the loop stands aside.

    owner     what comes next
    LOOP      THREAD: a plain method was called, and nothing else is open
    THREAD    LOOP: a method takes its time, something else has come, nothing has come for a
              moment, others need the thread, the loop wants it back, the connection has ended

- The owner is changed, and what the thread does with the rules and the socket is done, under a
  lock, which nobody holds while a driver's code runs or for longer than a frame takes. So the loop
  can take the connection back whenever it likes, and finds it whole.
- All that a thread does alone is small and ordinary: one call, one answer. Whatever else it reads,
  it leaves to the loop.
- A method that runs when the connection goes back to the loop is an ordinary call from then on: its
  CANCEL is heard, and its answer is the loop's to send.
- The task that has brought the thread here stays with it, so that `trio.from_thread` works in all
  its methods.

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

_PATIENCE: Final = 0.002  # seconds: a method that takes so long, or twice that, is not waited for
_STAYS: Final = 2  # times that a thread waits for the next call,
_STAY_MS: Final = 5  # for so long, which bounds the delay for other uses of the thread
_SMALL: Final = 16 * 1024  # bytes of an answer that a thread sends by itself

C = TypeVar("C", bound=Begun)


class ThreadAnswerer(Answerer[C], Protocol[C]):
    """What a connection needs of the side that answers its calls."""

    async def answer_in_thread(self, lead: Lead[C]) -> None:
        """Have a thread `lead`, and answer the call that it leaves, if it leaves one."""

    def may_lead(self) -> bool:
        """Tell if a thread is to be had, and may wait for calls. In any thread."""

    def run_sync(self, call: C) -> object:
        """Answer a call. In a thread.

        Returns:
            The result, encoded as a bytearray; anything else is the loop's to make one of.

        Raises:
            BaseException: What went wrong.
        """

    def take(self, event: ev.CallReceived) -> C | None:
        """Make an endpoint of a call, if a thread may answer it. In a thread."""

    def answered(self, call: C, result: bytearray) -> None:
        """Queue the result of a call that a thread has answered. In that thread."""


class Lead(Generic[C]):
    """One thread's time with a connection.

    Attributes:
        call: What the thread is at, None while it waits.
        number: Of the calls that it has begun.
        poll: Waits for more.
        scope: Of the task that stays with it.
    """

    __slots__ = ("call", "number", "poll", "scope")

    def __init__(self, call: C, fileno: int) -> None:
        self.call: C | None = call
        self.number = 1
        self.poll = select.poll()
        self.poll.register(fileno, select.POLLIN)
        self.scope: trio.CancelScope | None = None


class LedConnection(EagerConnection[C]):
    """A connection whose plain methods are answered by a thread that has it to itself.

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
        self._left: list[ev.Event] = []  # what a thread has read, and is the loop's to act on
        self._write_error: OSError | None = None  # or what reading has found

    # ---------------------------------------------------------------------------- in the loop

    @property
    def is_leased(self) -> bool:
        """True while the connection is not the loop's."""
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
        """Tell if nothing goes on but one call that has come."""
        rules = self.rules
        if rules.busy_slots > 1 or self._socket is None or not self.is_quiescent:
            return False
        return self._rate_limits.counted == self._rate_limits.count(rules)

    async def _stand_aside(self, lead: Lead[C]) -> None:
        """Wait while a thread leads, and take the connection back if a method takes its time."""
        while self._lead is lead:
            number = lead.number
            with trio.move_on_after(_PATIENCE):
                await self._returned.wait()
            if lead.number == number:
                self.reclaim(number)
        self.last_read: float = trio.current_time()
        left, self._left = self._left, []
        if self.ended is None:
            self._act_on(left)

    def reclaim(self, number: int = 0) -> None:
        """Take the connection back; a call that is under way goes on, as any other.

        Args:
            number: Only while the thread is at this one of its calls; 0 for at any, or at none.
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
        """The thread is back."""
        if self._lead is lead:
            self.reclaim()

    def _finish(self) -> None:
        self.reclaim()
        super()._finish()

    # ---------------------------------------------------------------------------- in a thread

    def lead(self, lead: Lead[C]) -> tuple[object, ...]:
        """Answer the call that a thread was given, and those that follow.

        Returns:
            What `work` has given for the call that the lead has still, if it has one; in a tuple,
            since Trio lets no coroutine out of a thread.

        Raises:
            BaseException: What `work` has raised for it.
        """
        while lead.call is not None:
            answer = self._desk.run_sync(lead.call)
            if not self._send(lead, lead.call, answer):
                return (answer,)
            self._wait_for_next(lead)
        return ()

    def _send(self, lead: Lead[C], call: C, answer: object) -> bool:
        """Send an answer, unless that is for the loop to do."""
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
        """Wait for a call, and take it."""
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
        """Read, and take what came if it is one call for a thread; all else is the loop's."""
        assert self._socket is not None
        try:
            data = self._socket.try_read()
        except OSError as exc:
            self._write_error = exc  # the system says it once, and the loop will find an end
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
