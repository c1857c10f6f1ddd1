"""Run a coroutine as an asyncio task that belongs to a Trio task, and the other way round.

`LaneCall`: a Trio task has an asyncio task run a function.

| state     | owner            | next state                                                      |
|-----------|------------------|-----------------------------------------------------------------|
| POSTED    | the lane's inbox | RUNNING, when its task takes its first step; CANCELLED          |
| RUNNING   | its asyncio task | CANCELLED; ENDED, when the function has returned or raised      |
| CANCELLED | its asyncio task | ENDED; it got one CancelledError, or the function never begins  |
| ENDED     | the Trio task    | none                                                            |

`TrioCall`: an asyncio task has a Trio task run a function, with the same states. Its CANCELLED is a
cancelled scope of Trio.

The state is written in the loop that runs the function. A cancellation of the task that waits is
passed on, and the wait goes on until the function has ended. So no code of a call runs after the
call has ended, in either loop.
"""

from __future__ import annotations

import asyncio
import enum
import math
from collections.abc import Awaitable, Callable
from contextvars import Context, ContextVar, copy_context
from functools import partial
from typing import Any, Final, NoReturn, Protocol

import trio

from .portal_job import name_of

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["LaneCall", "LaneCallState", "LanePosts", "TrioCall"]

_CANCELLED_ITSELF: Final = (
    "the asyncio task of this call was cancelled, though nobody has cancelled the call: its own "
    "code has, or code that it awaits"
)

# When the Trio scopes around the asyncio code end, so that calls which it makes have that deadline.
_deadline: Final[ContextVar[float]] = ContextVar("jumpstarter_lane_deadline", default=math.inf)


class LaneCallState(enum.Enum):
    """How far a call into the other loop is; see the table in the module's docstring."""

    POSTED = enum.auto()
    RUNNING = enum.auto()
    CANCELLED = enum.auto()
    ENDED = enum.auto()


class LanePosts(Protocol):
    """The part of a lane that calls use."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The asyncio loop."""

    @property
    def nursery(self) -> trio.Nursery:
        """Runs the Trio tasks of asyncio code."""

    @property
    def trio_calls(self) -> set[TrioCall]:
        """The calls of asyncio code that run in Trio tasks. In the Trio loop."""

    def begin(self, call: LaneCall) -> None:
        """Post the start of a call. In the Trio loop."""

    def forget(self, call: LaneCall) -> None:
        """Note that a call has ended. In the Trio loop."""

    def post(self, callback: Callable[[], object]) -> None:
        """Run a callback in the asyncio loop, soon. In the Trio loop."""

    def post_back(self, callback: Callable[[], object]) -> None:
        """Run a callback in the Trio loop, soon. In the asyncio loop."""


class LaneCall:
    """A function that an asyncio task of the lane runs for a Trio task.

    Args:
        lane: The lane.
        function: An async function without parameters, or one that returns an awaitable.

    Attributes:
        deadline: When the calling task's scopes end; minus infinity if they are cancelled.
        on_end: Called once in the Trio loop when the function has ended, if it is set.
        error: The exception of the function; kept until `result` raises it.
    """

    __slots__ = (
        "_cancel_posted", "_context", "_function", "_lane", "_raise_cancel", "_state", "_task",
        "_waiter", "deadline", "ended", "error", "on_end", "value",
    )  # fmt: skip

    def __init__(self, lane: LanePosts, function: Callable[[], Awaitable[Any]]) -> None:
        self._lane = lane
        self._function = function
        self._context: Context = copy_context()
        self.deadline: float = trio.current_effective_deadline()
        if self.deadline != math.inf:
            self._context.run(_deadline.set, self.deadline)
        self._state = LaneCallState.POSTED
        self._task: asyncio.Task[None] | None = None
        self._waiter: trio.lowlevel.Task | None = None
        self._raise_cancel: Callable[[], NoReturn] | None = None
        self._cancel_posted = False
        self.on_end: Callable[[], object] | None = None
        self.ended: bool = False  # as the Trio loop knows it
        self.error: BaseException | None = None
        self.value: Any = None

    @property
    def waiting_task(self) -> trio.lowlevel.Task | None:
        """The Trio task that waits for it, as the watchdog sees it from its own thread."""
        return self._waiter

    # ------------------------------------------------------------------------ in the Trio loop

    def start(self) -> None:
        """Post the start. Raises RuntimeError if the lane has ended, or no thread can start."""
        self._lane.begin(self)

    async def join(self, until: Callable[[], bool] | None = None) -> None:
        """Wait until the function has ended, or a condition holds. Raises nothing.

        A cancellation of this task is passed on once, and the wait goes on.

        Args:
            until: The condition; its change is announced by `wake`.
        """
        while not self.ended and (until is None or not until()):
            self._waiter = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._abort)

    def _abort(self, raise_cancel: Callable[[], NoReturn]) -> trio.lowlevel.Abort:
        self._raise_cancel = raise_cancel
        self.cancel()
        return trio.lowlevel.Abort.FAILED

    def cancel(self) -> None:
        """Deliver one CancelledError to the asyncio task. Later calls do nothing."""
        if not (self._cancel_posted or self.ended):
            self._cancel_posted = True
            self._lane.post(self._cancel)

    def wake(self) -> None:
        """Have the task that waits check its condition."""
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            trio.lowlevel.reschedule(waiter)

    def result(self) -> Any:
        """Return what the function has returned, or raise what it has raised.

        Raises:
            trio.Cancelled: The task that waited was cancelled, and so was the function.
            RuntimeError: The asyncio task was cancelled for another reason.
        """
        error, self.error = self.error, None
        try:
            if error is None:
                return self.value
            if not isinstance(error, asyncio.CancelledError):
                raise error
            if self._raise_cancel is not None:
                self._raise_cancel()
            raise RuntimeError(_CANCELLED_ITSELF) from error
        finally:
            del error  # its traceback refers to this frame

    def fail(self, error: BaseException) -> None:
        """End it because the lane has crashed."""
        if not self.ended:
            self.error = error
            self._finish()

    def _finish(self) -> None:
        if self.ended:
            return
        self.ended = True
        self._task = None
        self._lane.forget(self)
        self.wake()
        if self.on_end is not None:
            self.on_end()

    # --------------------------------------------------------------------- in the asyncio loop

    @property
    def is_cancelled(self) -> bool:
        """True once the CancelledError of `cancel` was delivered."""
        return self._state is LaneCallState.CANCELLED

    def begin_task(self) -> None:
        """Start the asyncio task."""
        self._task = self._lane.loop.create_task(self._run(), context=self._context)

    async def _run(self) -> None:
        if self._state is LaneCallState.CANCELLED:
            self.error = asyncio.CancelledError()
        else:
            self._state = LaneCallState.RUNNING
            try:
                self.value = await self._function()
            # SystemExit too: asyncio would end the loop, and with it the calls of all others.
            except BaseException as exc:  # noqa: BLE001 - `result` raises it
                self.error = exc
        self._state = LaneCallState.ENDED
        self._lane.post_back(self._finish)

    def _cancel(self) -> None:
        if self._state is LaneCallState.RUNNING:
            assert self._task is not None
            self._task.cancel()
        if self._state is not LaneCallState.ENDED:
            self._state = LaneCallState.CANCELLED


class TrioCall:
    """A function that a Trio task runs for an asyncio task of the lane.

    Args:
        lane: The lane.
        function: An async function without parameters.
    """

    __slots__ = (
        "_cancelled", "_context", "_deadline", "_function", "_lane", "_missed_cancel", "_scope",
        "_state", "_waiter", "_was_cancelled", "ended", "error", "value",
    )  # fmt: skip

    def __init__(self, lane: LanePosts, function: Callable[[], Awaitable[Any]]) -> None:
        self._lane = lane
        self._function = function
        self._context: Context = copy_context()
        self._deadline = _deadline.get()
        self._state = LaneCallState.POSTED
        self._scope: trio.CancelScope | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._cancelled: asyncio.CancelledError | None = None  # delivered to the task that waits
        self._was_cancelled = False  # the function was
        self._missed_cancel = False  # the function had ended before a cancellation reached it
        self.ended: bool = False  # as the asyncio loop knows it
        self.error: BaseException | None = None
        self.value: Any = None

    # --------------------------------------------------------------------- in the asyncio loop

    def start(self) -> None:
        """Post the start."""
        self._lane.post_back(self._begin_task)

    async def join(self, until: Callable[[], bool] | None = None) -> None:
        """Wait until the function has ended, or a condition holds. Raises nothing.

        A CancelledError of this task cancels the function, and the wait goes on.
        """
        while not self.ended and (until is None or not until()):
            self._waiter = self._lane.loop.create_future()
            try:
                await self._waiter
            except asyncio.CancelledError as exc:
                self._cancelled = exc
                self.cancel()

    def cancel(self) -> None:
        """Cancel the function's scope."""
        self._lane.post_back(self.cancel_now)

    def wake(self) -> None:
        """Have the task that waits check its condition."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def result(self) -> Any:
        """Return what the function has returned, or raise what it has raised.

        Raises:
            asyncio.CancelledError: The task that waited was cancelled, even if the function has
                ended before: asyncio delivers a cancellation once, so it must not be lost.
        """
        error, self.error = self.error, None
        cancelled, self._cancelled = self._cancelled, None
        try:
            if cancelled is not None and (error is None or self._missed_cancel):
                raise cancelled from error
            if error is not None:
                raise error
            if self._was_cancelled:  # the deadline around the asyncio code; its own is being ended
                raise asyncio.CancelledError
            return self.value
        finally:
            del error, cancelled

    def _finish(self) -> None:
        self.ended = True
        self.wake()

    # ------------------------------------------------------------------------ in the Trio loop

    def _begin_task(self) -> None:
        name = name_of(self._function)
        self._lane.trio_calls.add(self)
        try:
            self._context.run(partial(self._lane.nursery.start_soon, self._run, name=name))
        except RuntimeError as exc:  # the nursery is closed: the Trio loop ends
            self._lane.trio_calls.discard(self)
            self.error = exc
            self._lane.post(self._finish)

    async def _run(self) -> None:
        # Shielded: the asyncio task decides when it is cancelled, so that its `finally` may await.
        self._scope = trio.CancelScope(shield=True, deadline=self._deadline)
        if self._state is LaneCallState.CANCELLED:
            self._scope.cancel()
        else:
            self._state = LaneCallState.RUNNING
        try:
            with self._scope:
                self.value = await self._function()
            self._was_cancelled = self._scope.cancelled_caught
        except BaseException as exc:  # noqa: BLE001 - `result` raises it in the asyncio task
            self.error = exc
        self._missed_cancel = self._state is not LaneCallState.CANCELLED
        self._state = LaneCallState.ENDED
        self._lane.trio_calls.discard(self)
        self._lane.post(self._finish)

    def cancel_now(self) -> None:
        """Cancel the function's scope. In the Trio loop."""
        if self._scope is not None:
            self._scope.cancel()
        if self._state is not LaneCallState.ENDED:
            self._state = LaneCallState.CANCELLED
