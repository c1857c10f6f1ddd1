"""Hold an async context manager of one loop open for code of the other loop.

One task enters and leaves the context manager, since task groups, cancel scopes and
`asyncio.timeout` demand that. The body of the block runs in the other loop.

| state    | next state                                                                           |
|----------|--------------------------------------------------------------------------------------|
| ENTERING | OPEN, when it was entered; ENDED, when entering has failed                           |
| OPEN     | LEAVING, when the body has ended; ENDED, when the context manager ends by itself     |
| LEAVING  | ENDED, when it was left                                                              |
| ENDED    | none                                                                                 |

The task that holds it owns the state. If a context manager of asyncio ends while its block is open,
because a task group in it has failed, the body is cancelled and its exception is raised.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any, Final, TypeVar

import trio

from .lane_call import LaneCall, LanePosts, TrioCall

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["HoldState", "hold_in_asyncio", "hold_in_trio"]

T = TypeVar("T")

_ENDED_EARLY: Final = "the context manager has ended without yielding"


class HoldState(enum.Enum):
    """How far a held context manager is; see the table in the module's docstring."""

    ENTERING = enum.auto()
    OPEN = enum.auto()
    LEAVING = enum.auto()
    ENDED = enum.auto()


class _Holder:
    """The side of a held context manager that enters and leaves it."""

    def __init__(self, lane: LanePosts, manager: AbstractAsyncContextManager[Any]) -> None:
        self.lane = lane
        self.manager = manager
        self.state = HoldState.ENTERING  # as the task that holds it knows it
        self.is_entered = False  # as the body's loop knows it
        self.value: Any = None
        self.error: BaseException | None = None  # of the body

    def was_entered(self) -> bool:
        return self.is_entered


class _AsyncioHolder(_Holder):
    call: LaneCall
    left: asyncio.Future[None]

    async def run(self) -> None:
        try:
            async with self.manager as value:
                self.left = self.lane.loop.create_future()
                self.state = HoldState.OPEN
                self.lane.post_back(partial(self.opened, value))
                await self.left
                self.state = HoldState.LEAVING
                if self.error is not None:
                    raise self.error
        finally:
            self.state = HoldState.ENDED

    def opened(self, value: object) -> None:  # in the Trio loop
        self.value, self.is_entered = value, True
        self.call.wake()

    def leave(self, error: BaseException | None) -> None:  # in the asyncio loop
        self.error = error
        if not self.left.done():
            self.left.set_result(None)


@asynccontextmanager
async def hold_in_asyncio(
    lane: LanePosts, manager: AbstractAsyncContextManager[T]
) -> AsyncIterator[T]:
    """Hold a context manager of asyncio code open, for a block in a Trio task.

    An exception of the body is raised in the asyncio task, where the context manager may suppress
    or replace it. If the body is cancelled, the asyncio task gets one CancelledError.
    """
    await trio.lowlevel.checkpoint_if_cancelled()
    holder = _AsyncioHolder(lane, manager)
    call = holder.call = LaneCall(lane, holder.run)
    call.start()
    await call.join(holder.was_entered)
    if not holder.is_entered:
        call.result()
        raise RuntimeError(_ENDED_EARLY)
    error: BaseException | None = None
    with trio.CancelScope() as scope:
        call.on_end = scope.cancel
        if call.ended:
            scope.cancel()
        try:
            yield holder.value
        except trio.Cancelled:
            call.cancel()
            raise
        except BaseException as exc:  # noqa: BLE001 - raised again below, unless suppressed
            error = exc
            if not call.ended:
                lane.post(partial(holder.leave, exc))
        else:
            if not call.ended:
                lane.post(partial(holder.leave, None))
        finally:
            call.on_end = None
            await call.join()
            if call.error is not None and not isinstance(call.error, asyncio.CancelledError):
                _raise_outcome(call, error)
    call.result()


def _raise_outcome(call: LaneCall, error: BaseException | None) -> None:
    """Raise how the context manager was left; the body's own exception with its own traceback."""
    if call.error is error and error is not None:
        call.error = None
        raise error.with_traceback(error.__traceback__)
    call.result()


class _TrioHolder(_Holder):
    call: TrioCall

    def __init__(self, lane: LanePosts, manager: AbstractAsyncContextManager[Any]) -> None:
        super().__init__(lane, manager)
        self.left = trio.Event()

    async def run(self) -> None:
        try:
            async with self.manager as value:
                self.state = HoldState.OPEN
                self.lane.post(partial(self.opened, value))
                await self.left.wait()
                self.state = HoldState.LEAVING
                if self.error is not None:
                    raise self.error
        finally:
            self.state = HoldState.ENDED

    def opened(self, value: object) -> None:  # in the asyncio loop
        self.value, self.is_entered = value, True
        self.call.wake()

    def leave(self, error: BaseException | None) -> None:  # in the asyncio loop
        self.error = error
        self.lane.post_back(self.left.set)


@asynccontextmanager
async def hold_in_trio(
    lane: LanePosts, manager: AbstractAsyncContextManager[T]
) -> AsyncIterator[T]:
    """Hold a context manager of Trio code open, for a block in an asyncio task of the lane.

    If the body is cancelled, the Trio task is cancelled. If the context manager fails while the
    block is open, its exception is raised at the end of the block.
    """
    holder = _TrioHolder(lane, manager)
    call = holder.call = TrioCall(lane, holder.run)
    call.start()
    await call.join(holder.was_entered)
    if not holder.is_entered:
        call.result()
        raise RuntimeError(_ENDED_EARLY)
    error: BaseException | None = None
    try:
        yield holder.value
    except asyncio.CancelledError:
        call.cancel()
        await call.join()
        if call.error is not None:
            call.result()
        raise
    except BaseException as exc:  # noqa: BLE001 - raised again below, unless suppressed
        error = exc
    holder.leave(error)
    await call.join()
    if call.error is error and error is not None:
        call.error = None
        raise error
    call.result()
