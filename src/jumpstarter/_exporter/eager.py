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

import types
from collections.abc import Callable, Collection, Coroutine, Generator
from contextvars import copy_context
from typing import Any, Final, Generic, Protocol, TypeVar

import trio

from .._io.connection import Connection
from .._io.handlers import ConnectionHandler, StreamHandler
from .._io.transport import Transport
from .._protocol.base import BaseProtocol
from .._util.log_limit import RateLimitedLogger
from .._util.trio_private import forget_child_nurseries

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["Answerer", "Begun", "EagerConnection", "OwnScope", "run_until_first_await"]


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

    def enter(self, scope: trio.CancelScope) -> None:
        """Assign the call to this task and cancel scope."""

    def leave(self) -> bool:
        """Return True if the task may answer another call in the same scope."""


_CALL_TASK: Final = f"{__name__}.a call"  # formatting a name for each task costs too much

C = TypeVar("C", bound=Begun)
C_contra = TypeVar("C_contra", bound=Begun, contravariant=True)


class Answerer(ConnectionHandler, Protocol[C_contra]):
    """The interface of the code that answers a connection's calls."""

    async def answer(self, call: C_contra) -> None:
        """Answer a call, and queue its terminal frame. Raises nothing."""


class EagerConnection(Connection, Generic[C]):
    """A server's connection, with the tasks that read it and answer its calls.

    Args:
        transport, rules, owner, name, event_log, dispatch_lock: See `Connection`.
    """

    __slots__ = ("_answer", "_come", "_reading", "_tasks")

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
        self._answer: Final = owner.answer
        self._come: list[C] = []  # calls that the reader has to start; a deque takes 760 bytes
        self._tasks: trio.Nursery
        self._reading = trio.CancelScope()  # of the task that reads

    async def run(self) -> None:
        """See `Connection`. When it returns, all calls have ended."""
        async with trio.open_nursery() as self._tasks:
            await super().run()
            self._begin_apart()  # calls were notified of the end, and handle it

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
            self._tasks.start_soon(self._answer_apart, call, name=_CALL_TASK)
        else:
            self._come.append(call)

    def _begin_apart(self) -> None:
        while self._come:
            self.begin(self._come.pop(0), apart=True)

    async def _answer_apart(self, call: C) -> None:
        with OwnScope() as scope:
            call.enter(scope)
            await self._answer(call)
        with self.lock:
            self.writer.flush()

    # ----------------------------------------------------------------------------- reading

    async def _begin(self, nursery: trio.Nursery) -> None:
        await super()._begin(nursery)
        try:
            # Ping even where the system reports a dead peer: a stopped client keeps its devices.
            if self._transport.silent and self.rules.limits.ping_interval:
                await self._guard(self.keepalive.run)
            await trio.sleep_forever()  # so that the nursery stays open for the writer
        finally:
            self.writer.detach()

    def _start_reading(self, nursery: trio.Nursery) -> None:
        del nursery  # what was begun while reading may outlive the connection
        self._tasks.start_soon(self._guard, self._read_loop)

    def _start_keepalive(self, nursery: trio.Nursery) -> None:
        del nursery  # the task that keeps it open does that

    def _finish(self) -> None:
        self._reading.cancel()
        super()._finish()

    async def _read_loop(self) -> None:
        with OwnScope() as scope:
            self._reading = scope
            while self.ended is None and (not self._come or await self._begin_here(scope)):
                if not await self.reader.read_once():
                    await self._stop_reading()
                    return

    async def _begin_here(self, scope: trio.CancelScope) -> bool:
        """Start the calls that were read. Return False if this task now belongs to a call."""
        while self._come:
            call = self._come.pop(0)
            if call.cancelled:
                self.begin(call, apart=True)
                continue
            if call.in_thread:
                await self._begin_in_thread(call)
                continue
            call.enter(scope)
            if not await run_until_first_await(self._answer(call), self._hand_on):
                with self.lock:
                    self.writer.flush()
                return False
            if not call.leave():
                self._hand_on()
                return False
        with self.lock:
            self.writer.flush_now()
        return True

    async def _begin_in_thread(self, call: C) -> None:
        self.begin(call, apart=True)

    def _hand_on(self) -> None:
        self._begin_apart()
        # Not now: it frees space in the queue, for which this task may be about to wait.
        with self.lock:
            if self.rules.send_queue and self.writer.is_idle:
                self.writer.flush_soon()
        self._tasks.start_soon(self._guard, self._read_loop)


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
        try:
            return self._scope.__exit__(exc_type, exc, traceback)
        except RuntimeError:
            if exc is not None:
                raise
            if not forget_child_nurseries():
                raise
            return True


@types.coroutine
def run_until_first_await(
    work: Coroutine[Any, Any, None], before_waiting: Callable[[], None]
) -> Generator[Any, Any, bool]:
    """Run a coroutine in this task, but with a context of its own.

    If it has to wait, the task belongs to it from then on, with that context, and
    must end when it ends.

    Args:
        work: The coroutine.
        before_waiting: Called once if it has to wait, just before it does. It must not wake this
            task, which is already suspended in the coroutine, but not yet in Trio.

    Returns:
        True if it never had to wait.
    """
    context = copy_context()
    try:
        trap = context.run(work.send, None)
    except StopIteration:
        return True
    before_waiting()
    trio.lowlevel.current_task().context = context
    try:
        while True:
            try:
                sent = yield trap
            except BaseException as exc:  # noqa: BLE001 - whatever it is, it is the coroutine's
                trap = work.throw(exc)
            else:
                trap = work.send(sent)
    except StopIteration:
        return False
