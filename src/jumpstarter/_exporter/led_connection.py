"""Let worker threads answer plain methods, whatever else is open on the connection.

The loop's half: it starts a thread, waits for it, and watches its calls. `worker` has the thread's
half, and says why, and when the thread reads the connection.

- The task that started a thread waits for it, so the thread's calls are cancelled by the task's
  scope.
- The deadlines of these calls are watched by a task that exists only if there are any.
- Another task exists while a thread holds the role of the reader beyond a method's beginning, and
  takes it back in time.

Without a watch, as on a stream in memory, the loop reads, and sends each answer. This module knows
no drivers.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Final, Protocol

import trio

from .._io.transport import Transport
from .._protocol.base import BaseProtocol
from .._util.log_limit import RateLimitedLogger
from .eager import Answerer, EagerConnection, OwnScope
from .incoming_call import IncomingCall
from .worker import CallSource, Worker

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["LedConnection", "ThreadAnswerer"]

_LOOK: Final = 0.002  # seconds between two looks whether a thread that holds the role goes on


class ThreadAnswerer(Answerer[IncomingCall], CallSource, Protocol):
    """The interface of the code that answers a connection's calls."""

    async def answer_in_thread(self, worker: Worker) -> None:
        """Run `worker.lead` in a thread, and finish the call that it returns unanswered, if any."""


class LedConnection(EagerConnection[IncomingCall]):
    """A connection on which threads can answer calls of plain methods by themselves.

    Args:
        transport, rules, owner, name, event_log, dispatch_lock: See `Connection`.
    """

    __slots__ = ("_session",)

    def __init__(
        self,
        transport: Transport,
        rules: BaseProtocol,
        owner: ThreadAnswerer,
        name: str,
        *,
        event_log: RateLimitedLogger,
        dispatch_lock: trio.Lock,
    ) -> None:
        super().__init__(
            transport, rules, owner, name, event_log=event_log, dispatch_lock=dispatch_lock
        )
        self._session: Final = owner

    def begin_in_thread(self, call: IncomingCall) -> None:
        """See `EagerConnection`."""
        self.ownership.watch_socket()
        self.ownership.begin_to_watch()  # in the read task
        if self.ownership.watch is None or not self._session.executor.has_idle_threads:
            self.begin(call, apart=True)
            return
        worker = Worker(self, self, self._session, call, _goes_on(trio.lowlevel.current_clock()))
        self._tasks.start_soon(self._guard, partial(self._stay_with, worker))

    async def _stay_with(self, worker: Worker) -> None:
        """Wait for the thread that answers a call, and those that it takes after that."""
        with OwnScope() as scope:
            worker.scope = scope
            with self.lock:
                assert worker.call is not None
                worker.call.attach(scope)
                worker.look_at_deadline()
            try:
                await self._session.answer_in_thread(worker)
            finally:
                if worker.watch is not None:
                    worker.watch.cancel()
        with self.lock:
            self.writer.flush()

    def watch_deadline_of(self, worker: Worker) -> None:
        """See `Worker`."""
        if worker.watch is not None:
            worker.watch.cancel()
        worker.watch = trio.CancelScope()
        self._tasks.start_soon(self._guard, partial(self._watch_deadline, worker, worker.watch))

    async def _watch_deadline(self, worker: Worker, scope: trio.CancelScope) -> None:
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

    def watch_time_of(self, worker: Worker) -> None:
        """See `Worker`."""
        self._tasks.start_soon(self._guard, partial(self._watch_time, worker))

    async def _watch_time(self, worker: Worker) -> None:
        """Take the role back from a thread that is still in the same method after two looks.

        Ends when the thread has held the role for no call between two looks.
        """
        seen = -1
        while self.ended is None:
            with self.lock:
                if worker.holdings == seen:
                    worker.is_watched = False
                    worker.release()
                    return
                seen = worker.holdings
            await trio.sleep(_LOOK)


def _goes_on(clock: trio.abc.Clock) -> bool:
    """Return False for a clock that stands still until a test advances it."""
    return clock.deadline_to_sleep_time(clock.current_time() + _LOOK) < 2 * _LOOK
