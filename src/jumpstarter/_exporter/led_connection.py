"""Let a worker thread answer plain methods called one after the other, whatever else is open.

Switching to a thread and back costs several times as much as most plain methods. Usually a test
calls one after the other. So a thread that has run a method sends the answer itself, becomes the
connection's reader for a moment to get the next call, and answers that too. `_io.ownership` has
the lock, and the table of readers.

- The lock is never held while a driver's code runs. The thread gives the role of the reader up
  before it runs the next method, so a slow method keeps nothing from the loop.
- A thread takes one frame at a time. It keeps a call of a plain method; any other event, and all
  frames behind it, are the loop's (`ConnectionReader.left`), which handles them in order. No thread
  reads while the loop has some to handle.
- The task that started the thread waits for it, so `trio.from_thread` works in all methods that it
  runs, and a call is cancelled by that task's scope. A scope cannot be used again, so a thread
  whose call was cancelled returns, and the loop sends the answer.
- The deadlines of these calls are watched by a task that exists only if there are any.

Without a watch, as on a stream in memory, the loop reads, and sends each answer. This module knows
no drivers.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Final, Generic, Protocol, TypeVar

import trio

from .._io.ownership import Reader
from .._io.transport import Transport
from .._protocol import events as ev
from .._protocol.base import BaseProtocol
from .._util.log_limit import RateLimitedLogger
from .eager import Answerer, Begun, EagerConnection, OwnScope

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["Led", "LedConnection", "ThreadAnswerer", "Worker"]

_STAYS: Final = 2  # times that a thread waits for the next call,
_STAY_MS: Final = 5  # this long each, which limits the delay for other uses of the thread
_SMALL: Final = 16 * 1024  # bytes of an answer that a thread sends by itself

_NONE: Final = Reader.NONE


class Led(Begun, Protocol):
    """The interface of a call that a thread answers.

    Attributes:
        deadline: When it is cancelled; infinite if the client set no timeout.
    """

    deadline: float

    def attach(self, scope: trio.CancelScope) -> None:
        """Assign the call to a thread, whose task has this scope. With the lock, in any thread."""

    def cancel(self, reason: str) -> None:
        """Cancel the driver's code. With the lock, in the loop."""


C = TypeVar("C", bound=Led)


class ThreadAnswerer(Answerer[C], Protocol[C]):
    """The interface of the code that answers a connection's calls."""

    async def answer_in_thread(self, lead: Worker[C]) -> None:
        """Run `lead` in a thread, and finish the call that it returns unanswered, if any."""

    def may_lead(self) -> bool:
        """Return True if a thread is available, and may wait for calls. In any thread."""

    def run_sync(self, call: C) -> object:
        """Answer a call. In a thread, without the lock.

        Returns:
            The result, encoded as a bytearray. The loop must convert anything else to one.

        Raises:
            BaseException: The failure of the call.
        """

    def take(self, event: ev.CallReceived) -> C | None:
        """Register a call as an handler, if a thread may answer it. In a thread, with the lock."""

    def may_answer(self, call: C) -> bool:
        """Return True if a thread may send the answer: the call is neither cancelled nor late."""

    def answered(self, call: C, result: bytearray) -> None:
        """Queue the result of a call that a thread has answered. In that thread, with the lock."""


class Worker(Generic[C]):
    """A thread that answers calls, and the task that waits for it.

    Its fields are changed with the lock.

    Attributes:
        call: The call that the thread answers, None while it waits for one.
        scope: The cancel scope of the task.
        looks_at: When the loop looks at the deadline of the call. Infinite if it does not.
        watch: Ends the task that does that.
    """

    __slots__ = ("call", "looks_at", "scope", "watch")

    def __init__(self, call: C) -> None:
        self.call: C | None = call
        self.scope: trio.CancelScope
        self.looks_at = math.inf
        self.watch: trio.CancelScope | None = None


class LedConnection(EagerConnection[C]):
    """A connection on which threads can answer calls of plain methods by themselves.

    Args:
        transport, rules, owner, name, event_log, dispatch_lock: See `Connection`.
    """

    __slots__ = ("_desk",)

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

    # ---------------------------------------------------------------------------- in the loop

    async def _begin_in_thread(self, call: C) -> None:
        self.ownership.watch_socket()
        if self.ownership.watch is None or not self._desk.may_lead():
            self.begin(call, apart=True)
            return
        self._tasks.start_soon(self._guard, partial(self._stay_with, Worker(call)))

    async def _stay_with(self, worker: Worker[C]) -> None:
        """Wait for the thread that answers a call, and those that it takes after that."""
        with OwnScope() as scope:
            worker.scope = scope
            with self.lock:
                assert worker.call is not None
                worker.call.attach(scope)
                self._look_at_deadline(worker)
            try:
                await self._desk.answer_in_thread(worker)
            finally:
                if worker.watch is not None:
                    worker.watch.cancel()
        with self.lock:
            self.writer.flush()

    def _look_at_deadline(self, worker: Worker[C]) -> None:
        """Have the loop look at the deadline of a thread's call, in time. With the lock."""
        call = worker.call
        if call is not None and call.deadline < worker.looks_at:
            worker.looks_at = call.deadline
            self.ownership.defer(self._watch_deadline_of, worker)

    def _watch_deadline_of(self, worker: Worker[C]) -> None:
        if worker.watch is not None:
            worker.watch.cancel()
        worker.watch = trio.CancelScope()
        self._tasks.start_soon(self._guard, partial(self._watch, worker, worker.watch))

    async def _watch(self, worker: Worker[C], scope: trio.CancelScope) -> None:
        """Cancel the call that a thread answers at its deadline, if it has one then.

        The next call usually has a later deadline, so this wakes once per timeout, not per call.
        """
        with scope:
            while True:
                with self.lock:
                    call = worker.call
                    worker.looks_at = math.inf if call is None else call.deadline
                    if call is None or call.deadline == math.inf:
                        return
                    if call.deadline <= trio.current_time():
                        call.cancel("deadline passed")
                        return
                await trio.sleep_until(worker.looks_at)

    # ---------------------------------------------------------------------------- in a thread

    def lead(self, worker: Worker[C]) -> tuple[object, ...]:
        """Answer the call that was passed to a thread, and those that follow.

        Returns:
            The result of `run_sync` for the call that is still unanswered, if there is one; in a
            tuple, since Trio does not allow a thread to return a coroutine.

        Raises:
            BaseException: Raised by `run_sync` for that call.
        """
        while (call := worker.call) is not None:
            answer = self._desk.run_sync(call)
            if not isinstance(answer, bytearray) or len(answer) > _SMALL:
                return (answer,)
            if not self._send(worker, call, answer):
                return (answer,)
        return ()

    def _send(self, worker: Worker[C], call: C, answer: bytearray) -> bool:
        """Send an answer, and wait for the next call; or leave that to the loop."""
        ownership = self.ownership
        leads = False
        ownership.acquire()
        try:
            if self.ended is not None or not self._desk.may_answer(call):
                return False
            # Before the answer is sent: the loop must not wake for the next call.
            leads = self._may_read() and ownership.take_role()
            worker.call = None
            self._desk.answered(call, answer)
            self.writer.flush_now()
            if leads and not self.writer.is_idle:  # the client does not read
                leads = False
                ownership.give_up(self.reader.needs_loop)
        except Exception as exc:
            self._lose(exc)
            raise
        finally:
            ownership.release()
        if leads:
            self._wait_for_next(worker)
        return True

    def _may_read(self) -> bool:
        reader = self.reader
        return not (self.rules.unprocessed or reader.left) and self._desk.may_lead()

    def _lose(self, exc: Exception) -> None:
        """End the connection, whose state is unknown after an exception. With the lock."""
        self.ownership.lose()
        self.ownership.defer(self.end, exc)

    def _wait_for_next(self, worker: Worker[C]) -> None:
        """Wait for a call, and register it. The thread is the reader before, and not after that."""
        ownership = self.ownership
        for stays in range(_STAYS, 0, -1):
            readable = ownership.poll(_STAY_MS)
            ownership.acquire()
            try:
                is_over = ownership.reader is _NONE  # the descriptor may be another file's
                if readable and not is_over:
                    self._take_next(worker)
                if readable or is_over or stays == 1 or not self._desk.may_lead():
                    ownership.give_up(self.reader.needs_loop)
                    return
            except Exception as exc:
                self._lose(exc)
                raise
            finally:
                ownership.release()

    def _take_next(self, worker: Worker[C]) -> None:
        """Read, and keep a call for this thread; leave anything else to the loop."""
        reader = self.reader
        match reader.take(max_frames=1):
            case [ev.CallReceived() as event]:
                call = self._desk.take(event)
                if call is None:
                    reader.left.append(event)
                    return
                worker.call = call
                call.attach(worker.scope)
                self._look_at_deadline(worker)
            case events:
                reader.left += events
        self.act_on([])  # charges the client, and answers a PING
