"""The thread that answers calls of plain methods on one connection, one after the other.

Switching to a thread and back costs several times as much as most plain methods. So a thread that
has run a method sends the answer itself, and becomes the connection's reader for a moment to get
the next call, which it answers too. `_io.ownership` has the lock, and the table of readers.

- The lock is never held while a driver's code runs.
- A thread takes one frame at a time. It keeps a call of a plain method; any other event, and all
  frames behind it, are the loop's (`ConnectionReader.left`), which handles them in order. No thread
  reads while the loop has some to handle.
- The thread gives the role of the reader up before it runs a method, so a slow method keeps nothing
  from the loop. If calls come faster than it answers them, as from several threads of a client, it
  holds the role instead while it runs *quick* methods, which took less time than the start of a
  thread when they last ran. So these calls are answered by one thread, and together, without the
  loop. A task of the loop looks every 2 ms, and takes the role back from a thread that is still in
  the same method.
- The task that started the thread waits for it, so `trio.from_thread` works in all methods that it
  runs, and a call is cancelled by that task's scope. A scope cannot be used again, so a thread
  whose call was cancelled returns, and the loop sends the answer.

What one such thread does, and when it has the role:

    state      | role | next
    -----------|------|--------------------------------------------------------------------------
    RUNNING    | no   | WAITING, if it gets the role as it answers; returned
    HOLDING    | held | HOLDING, if the next call was read already, or WAITING, as it answers;
               |      | RUNNING, when the loop takes the role back; returned
    WAITING    | yes  | RUNNING or HOLDING, with the next call; returned, after 10 ms without one

The thread owns the state, which follows from `Worker.call` and `Worker.holds`.
"""

from __future__ import annotations

import math
import time
from typing import Final, Protocol

import trio

from .. import _nonblocking
from .._io.event_router import EventRouter
from .._io.ownership import Reader
from .._protocol.events import CallReceived, Event
from .executor import DriverExecutor
from .incoming_call import IncomingCall

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["CallSource", "Worker"]

_STAYS: Final = 2  # times that a thread waits for the next call,
_STAY_MS: Final = 5  # this long each, which limits the delay for other uses of the thread
_SMALL: Final = 16 * 1024  # bytes of an answer that a thread sends by itself
# Seconds that a quick method takes at most. To start a thread takes as long, so to run such methods
# beside each other would gain nothing.
_QUICK: Final = 100e-6
_TOGETHER: Final = 100e-6  # seconds that an answer waits at most for those behind it

_HELD: Final = Reader.HELD
_NONE: Final = Reader.NONE


class CallSource(Protocol):
    """The interface of the session, which has the calls.

    Attributes:
        executor: Limits the threads, and knows which methods took under `_QUICK` when they last
            ran.
    """

    @property
    def executor(self) -> DriverExecutor:
        """The executor of the connection."""

    def run_sync(self, call: IncomingCall) -> object:
        """Answer a call. In a thread, without the lock.

        Returns:
            The result, encoded as a bytearray. The loop must convert anything else to one.

        Raises:
            BaseException: The failure of the call.
        """

    def take(self, event: CallReceived) -> IncomingCall | None:
        """Register a call as an handler, if a thread may answer it. In a thread, with the lock."""

    def may_answer(self, call: IncomingCall) -> bool:
        """Return True if a thread may send the answer: the call is neither cancelled nor late."""

    def answered(self, call: IncomingCall, result: bytearray) -> None:
        """Queue the result of a call that a thread has answered. In that thread, with the lock."""


class _Loop(Protocol):
    """The interface of the loop's half, which a thread uses by letters."""

    def end(self, reason: Exception) -> None:
        """End the connection."""

    def watch_deadline_of(self, worker: Worker) -> None:
        """Watch the deadline of the worker's call, and of those that follow."""

    def watch_time_of(self, worker: Worker) -> None:
        """Take the role back from the worker if a method takes longer than expected."""


class Worker:
    """A thread that answers calls, and the task that waits for it.

    Its fields are changed with the lock.

    Args:
        connection: The connection.
        loop: The same, for what the loop has to do.
        session: The session.
        call: The first call.
        may_hold: Whether the loop's clock goes on, so that it can take the role back.

    Attributes:
        call: The call that the thread answers, None while it waits for one.
        scope: The cancel scope of the task.
        looks_at: When the loop looks at the deadline of the call. Infinite if it does not.
        watch: Ends the task that does that.
        holds: The thread holds the role of the reader while it runs a method.
        holdings: How many calls it has begun with the role held.
        is_watched: A task of the loop looks how long its methods take.
    """

    def __init__(
        self,
        connection: EventRouter,
        loop: _Loop,
        session: CallSource,
        call: IncomingCall,
        may_hold: bool,
    ) -> None:
        self.call: IncomingCall | None = call
        self.scope: trio.CancelScope
        self.looks_at: float = math.inf
        self.watch: trio.CancelScope | None = None
        self.holds: bool = False
        self.holdings: int = 0
        self.is_watched: bool = False
        self._may_hold = may_hold
        self._connection = connection
        self._loop = loop
        self._session = session
        self._rules = connection.rules
        self._ownership = connection.ownership
        self._reader = connection.reader
        self._writer = connection.writer
        self._quick = session.executor.quick
        self._limiter = session.executor.limiter
        self._most_busy: float = self._limiter.total_tokens / 2
        self._unsent_since: float = 0.0  # when the first answer was queued that is not sent; or 0
        self._in_turn: int = 0  # frames that it has taken since it last waited
        self._max_in_turn: int = connection.rules.limits.max_frames_per_turn

    def lead(self) -> tuple[object, ...]:
        """Answer the call that was passed to the thread, and those that follow.

        Returns:
            The result of `run_sync` for the call that is still unanswered, if there is one; in a
            tuple, since Trio does not allow a thread to return a coroutine.

        Raises:
            BaseException: Raised by `run_sync` for that call.
        """
        while (call := self.call) is not None:
            began = _nonblocking.monotonic()
            try:
                answer = self._session.run_sync(call)
            except BaseException:
                self._note(call, _nonblocking.monotonic() - began)
                self._stop_holding()
                raise
            ended = _nonblocking.monotonic()
            self._note(call, ended - began)
            if (
                not isinstance(answer, bytearray)
                or len(answer) > _SMALL
                or not self._send(call, answer, ended)
            ):
                self._stop_holding()
                return (answer,)
        return ()

    def _note(self, call: IncomingCall, took: float) -> None:
        """Note how long a method has taken. Without the lock: a set changes in one step."""
        head = call.head
        key = (head.target, head.method)
        if took <= _QUICK:
            self._quick.add(key)
        else:
            self._quick.discard(key)

    def _send(self, call: IncomingCall, answer: bytearray, now: float) -> bool:
        """Send an answer, and get the next call; or leave that to the loop.

        Args:
            call: The call.
            answer: Its encoded result.
            now: The time.
        """
        ownership, writer = self._ownership, self._writer
        leads = False
        ownership.acquire()
        try:
            if self._connection.ended is not None or not self._session.may_answer(call):
                return False
            # Before the answer is sent: the loop must not wake for the next call.
            leads = self._take_role()
            self.call = None
            self._session.answered(call, answer)
            if leads and self._rules.unprocessed:
                leads = False
                self._take(self._reader.take_buffered())
            if not self.holds or not self._may_wait(now):
                self._unsent_since = 0.0
                writer.flush_now()
                if not writer.is_idle and (leads or self.holds):  # the client does not read
                    leads = False
                    self._give_up()
        except Exception as exc:
            self._lose(exc)
            raise
        finally:
            ownership.release()
        if leads:
            self._wait_for_next()
        elif self._in_turn >= self._max_in_turn:
            self._in_turn = 0
            time.sleep(0)  # as the loop does: let others have their turn
        return True

    def _take_role(self) -> bool:
        """Become the reader, or be it again after a method, if that is possible. With the lock."""
        ownership = self._ownership
        if not self.holds:
            return (
                not (self._rules.unprocessed or self._reader.left)
                and self._may_lead()
                and ownership.take_role()
            )
        self.holds = False
        ownership.resume()
        if self._may_lead() and not ownership.at_end:
            return True
        ownership.give_up(self._reader.needs_loop)
        return False

    def _may_lead(self) -> bool:
        """Return whether enough threads are idle for this one to wait for calls. In any thread."""
        # Without `DriverExecutor.has_idle_threads`, which costs each call three Python frames more.
        return self._limiter.borrowed_tokens <= self._most_busy

    def _may_wait(self, now: float) -> bool:
        """Return whether answers may wait for the next one, to be sent together. With the lock."""
        if not self._unsent_since:
            self._unsent_since = now
        is_early = now - self._unsent_since < _TOGETHER
        return is_early and self._in_turn < self._max_in_turn

    def _wait_for_next(self) -> None:
        """Wait for a call, and register it. The thread is the reader before that."""
        ownership = self._ownership
        self._in_turn = 0
        for stays in range(_STAYS, 0, -1):
            readable = ownership.poll(_STAY_MS, False)
            ownership.acquire()
            try:
                is_over = ownership.reader is _NONE  # the descriptor may be another file's
                if readable and not is_over:
                    self._take(self._reader.take(1))
                    return
                if is_over or stays == 1 or not self._may_lead():
                    ownership.give_up(self._reader.needs_loop)
                    return
            except Exception as exc:
                self._lose(exc)
                raise
            finally:
                ownership.release()

    def _take(self, events: list[Event]) -> None:
        """Keep a call for this thread, leave anything else to the loop, and maybe hold the role.

        With the lock, in the thread that is the reader.

        Args:
            events: What came of one frame.
        """
        call = None
        if len(events) == 1 and isinstance(events[0], CallReceived):
            call = self._session.take(events[0])
        if call is None:
            self._reader.left += events
            self._connection.act_on([])  # charges the client, and answers a PING
            self._give_up()
            return
        self.call = call
        call.attach(self.scope)
        self.look_at_deadline()
        self._in_turn += 1
        if self._should_hold(call):
            self._ownership.hold()
            self.holds = True
            self.holdings += 1
            if not self.is_watched:
                self.is_watched = True
                self._ownership.defer(self._loop.watch_time_of, self)
        else:
            self._give_up()

    def _should_hold(self, call: IncomingCall) -> bool:
        """Return whether to hold the role while a call's method runs. With the lock."""
        return (
            self._may_hold
            and bool(self._rules.unprocessed or self.is_watched)
            and not self._ownership.at_end
            and (call.head.target, call.head.method) in self._quick
        )

    def look_at_deadline(self) -> None:
        """Have the loop look at the deadline of the call, in time. With the lock."""
        call = self.call
        if call is not None and call.deadline < self.looks_at:
            self.looks_at = call.deadline
            self._ownership.defer(self._loop.watch_deadline_of, self)

    def _give_up(self) -> None:
        """Give the role up. With the lock, in the thread that is the reader, or holds the role."""
        self.holds = False
        self._ownership.give_up(self._reader.needs_loop)

    def _stop_holding(self) -> None:
        """Leave all that the role is held for to the loop. Without the lock."""
        if not self.holds:  # nor does an answer wait
            return
        ownership = self._ownership
        ownership.acquire()
        try:
            self.release()
        except Exception as exc:
            self._lose(exc)
            raise
        finally:
            ownership.release()

    def release(self) -> None:
        """Send the answers that wait, and give the role up, if it is held. With the lock."""
        if self.holds and self._ownership.reader is _HELD:
            self._give_up()
            self._writer.flush_now()
        self.holds = False

    def _lose(self, exc: Exception) -> None:
        """End the connection, whose state is unknown after an exception. With the lock."""
        self.call = None
        self._ownership.lose()
        self._ownership.defer(self._loop.end, exc)
