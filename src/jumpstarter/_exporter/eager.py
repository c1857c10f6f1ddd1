"""Start calls in the task that has read them, since most calls need no task of their own.

A task costs more than most calls of `async` methods, and many of these never wait for anything. So
a call starts in the task that has read it. If the call has to wait, that task becomes the call's
task until the call has ended, and a new task continues to read. Either way, a running call has a
task, a cancel scope and a context of its own, and the next frame is read no later than with a task
per call. One difference is visible: code that asks Trio for the current task, as Trio's locks do,
may see the same task in several calls that do not wait.

Blocking code, generators and raw streams always wait, so they get a task of their own immediately.
So do all calls that were read together with a call that has had to wait.

The tasks run in a nursery around the connection. So after the transport was closed, the connection
waits until all calls have ended, cleanup included. This module knows no drivers.
"""

from __future__ import annotations

import math
import types
from collections.abc import Awaitable, Callable, Collection, Coroutine, Generator
from typing import Any, Final, Generic, Protocol, TypeVar

import trio

from .._io.connection import Connection
from .._io.handlers import ConnectionHandler, StreamHandler
from .._io.transport import Transport
from .._protocol.base import BaseProtocol
from .._util.log_limit import RateLimitedLogger
from .._util.trio_private import forget_child_nurseries

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["Answerer", "Begun", "EagerConnection", "OwnScope", "resume"]


class Begun(StreamHandler, Protocol):
    """The interface of a call that is used by the task that answers it.

    Attributes:
        slot: Its slot.
        cancelled: True once it was cancelled, for whatever reason.
        in_thread: True while a thread answers it.
    """

    slot: int
    cancelled: bool
    in_thread: bool

    def enter(self, scope: trio.CancelScope, task: trio.lowlevel.Task) -> None:
        """Assign the call to this task and cancel scope."""

    def leave(self, task: trio.lowlevel.Task) -> bool:
        """Return True if this task may answer another call in the same scope."""


# Formatting a name for each task costs too much.
_CALL_TASK: Final = f"{__name__}.a call"
_READ_TASK: Final = f"{__name__}.a connection's reader"

T = TypeVar("T")
C = TypeVar("C", bound=Begun)


class Answerer(ConnectionHandler, Protocol[C]):
    """The interface of the code that answers a connection's calls."""

    def answer(self, call: C, rest: None, apart: bool) -> Coroutine[Any, Any, None]:
        """Answer a call, and queue its terminal frame. Raises nothing.

        Args:
            call: The call.
            rest: None: the call has not begun.
            apart: True in a task of the call's own: it then calls `enter_apart` and `leave_apart`.
        """

    def begin_calls(
        self, calls: list[C], scope: trio.CancelScope, task: trio.lowlevel.Task
    ) -> Awaitable[None] | None:
        """Begin calls in this task, each in a context of its own. Send what was answered.

        Args:
            calls: The calls. Those that were begun are removed.
            scope: The innermost cancel scope of this task.
            task: This task.

        Returns:
            None if this task may go on to read. Otherwise it belongs to a call, with its context,
            and awaits this. It must not be woken before that: it is suspended in the driver's code
            already, but not yet in Trio.
        """


class EagerConnection(Connection, Generic[C]):
    """A server's connection, with the tasks that read it and answer its calls.

    Args:
        transport, rules, owner, name, event_log, dispatch_lock: See `Connection`.

    Attributes:
        arrived: Calls that the reading task begins after it has processed everything that arrived
            together with them.
    """

    __slots__ = ("_answerer", "_ends_at", "_reading", "_tasks", "_writing", "arrived")

    def __init__(
        self,
        transport: Transport,
        rules: BaseProtocol,
        owner: Answerer[C],
        name: str,
        *,
        event_log: RateLimitedLogger,
        dispatch_lock: trio.Lock,
    ) -> None:
        super().__init__(
            transport, rules, owner, name, event_log=event_log, dispatch_lock=dispatch_lock
        )
        self._answerer: Final = owner
        self.arrived: list[C] = []  # a deque takes 760 bytes
        self._tasks: trio.Nursery
        self._reading: trio.CancelScope | None = None  # of the task that reads
        self._writing: trio.CancelScope | None = None  # of the writer's task
        self._ends_at = math.inf

    async def run(self) -> None:
        """See `Connection`. When it returns, all calls have ended."""
        async with trio.open_nursery() as self._tasks:
            try:
                self._begin(self._tasks)
                self._start_reading()
                while self.ended is None and trio.current_time() < self._ends_at:
                    with trio.CancelScope(deadline=self._look_after()) as self._scope:
                        await trio.sleep_forever()
            finally:
                self.writer.detach()
                await self._close()
            self._begin_apart()  # calls were notified of the end, and handle it

    def _look_after(self) -> float:
        """Look if the peer is there. Return when to look again, or to end the connection."""
        due = math.inf
        # Even where the system reports a dead peer: a stopped client keeps its devices.
        if self._transport.silent and self.rules.limits.ping_interval:
            try:
                due = self.keepalive.look()
            # A bug: it ends this connection only.
            except Exception as exc:  # noqa: BLE001
                self._fail(exc)
        return min(due, self._ends_at) if self.ended is None else -math.inf

    def end_within(self, seconds: float) -> None:
        """See `Connection`."""
        self._ends_at = trio.current_time() + seconds
        super().end_within(seconds)

    @property
    def tasks(self) -> Collection[trio.lowlevel.Task]:
        """The tasks that read, and answer calls. Once it runs."""
        return self._tasks.child_tasks

    def begin(self, call: C, *, apart: bool) -> None:
        """Answer a call, after everything that arrived together with it was processed.

        Args:
            call: The argument for `answer`.
            apart: True to start it in a separate task.
        """
        if apart:
            self._tasks.start_soon(self._answerer.answer, call, None, True, name=_CALL_TASK)
        else:
            self.arrived.append(call)

    def _begin_apart(self) -> None:
        while self.arrived:
            self.begin(self.arrived.pop(0), apart=True)

    # Two functions, and no `with` in a coroutine around the call's own, which raises nothing: these
    # would take 350 bytes while the call waits.
    def enter_apart(self, call: C) -> trio.CancelScope:
        """Enter a scope for a call, in its own task, and return it."""
        scope = trio.CancelScope().__enter__()
        call.enter(scope, trio.lowlevel.current_task())
        return scope

    def leave_apart(self, scope: trio.CancelScope) -> None:
        """Leave that scope, and send what the call has queued."""
        _leave(scope, None, None, None)
        with self.lock:
            self.writer.flush()

    # ----------------------------------------------------------------------------- reading

    def _start_reading(self) -> None:
        self._tasks.start_soon(self._read_loop, name=_READ_TASK)

    def _finish(self) -> None:
        for scope in (self._reading, self._writing):
            if scope is not None:
                scope.cancel()
        super()._finish()

    async def _run_writer(self, run: Callable[[], Awaitable[None]]) -> None:
        with trio.CancelScope() as self._writing:
            if self.ended is None:
                await self._guard(run)

    async def _read_loop(self) -> None:
        task = trio.lowlevel.current_task()
        try:
            with OwnScope() as scope:
                self._reading = scope
                while self.ended is None:
                    if self.arrived:
                        rest = self._answerer.begin_calls(self.arrived, scope, task)
                        if rest is not None:
                            await self._belong_to_call(rest)
                            return
                    if not await self.reader.read_once():
                        await self._stop_reading()
                        return
        # It ends this connection only.
        except Exception as exc:  # noqa: BLE001
            self._fail(exc)

    async def _belong_to_call(self, rest: Awaitable[None]) -> None:
        self._hand_on()
        await rest
        with self.lock:
            self.writer.flush()

    def begin_in_thread(self, call: C) -> None:
        """Answer a call in a thread, after everything that arrived together with it was begun."""
        self.begin(call, apart=True)

    def _hand_on(self) -> None:
        self._begin_apart()
        # Not now: it frees space in the queue, for which this task may be about to wait.
        with self.lock:
            if self.rules.send_queue and self.writer.is_idle:
                self.writer.flush_soon()
        self._start_reading()


class OwnScope:
    """A cancel scope in which calls are answered. It ends scopes and nurseries that they left open.

    Trio would raise an error, which would end the task and the connection; but the client of the
    call that left them open already has an error. The tasks of such nurseries are cancelled, and
    not waited for.
    """

    __slots__ = ("_scope",)

    def __init__(self) -> None:
        self._scope = trio.CancelScope()

    def __enter__(self) -> trio.CancelScope:
        return self._scope.__enter__()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> bool:
        return _leave(self._scope, exc_type, exc, traceback)


def _leave(
    scope: trio.CancelScope,
    exc_type: type[BaseException] | None,
    exc: BaseException | None,
    traceback: types.TracebackType | None,
) -> bool:
    """Leave a scope as `OwnScope` does."""
    try:
        return scope.__exit__(exc_type, exc, traceback)
    except RuntimeError:
        if exc is not None:
            raise
        if not forget_child_nurseries():
            raise
        return True


@types.coroutine
def resume(work: Coroutine[Any, Any, T], trap: object) -> Generator[Any, Any, T]:
    """Wait for a coroutine that already runs, as `await` does for one that does not.

    Args:
        work: The coroutine.
        trap: Yielded by it when it began to wait.

    Returns:
        Returned by the coroutine.
    """
    try:
        while True:
            try:
                sent = yield trap
            except BaseException as exc:  # noqa: BLE001 - whatever it is, it is the coroutine's
                trap = work.throw(exc)
            else:
                trap = work.send(sent)
    except StopIteration as stop:
        result: T = stop.value
        return result
