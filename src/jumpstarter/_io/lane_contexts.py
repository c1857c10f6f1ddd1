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
from collections.abc import AsyncIterator, Callable
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
    """The task that enters and leaves a held context manager.

    Args:
        manager: The context manager, of this task's loop.
        left: An event of this loop; set when the block has ended.
        announce: Runs a callback in the loop of the body, soon.
    """

    call: LaneCall | TrioCall  # which runs `run`

    def __init__(
        self,
        manager: AbstractAsyncContextManager[Any],
        left: asyncio.Event | trio.Event,
        announce: Callable[[Callable[[], object]], None],
    ) -> None:
        self._manager = manager
        self._left = left
        self._announce = announce
        self.state = HoldState.ENTERING  # as this task knows it
        self.is_entered = False  # as the body's loop knows it
        self.value: Any = None
        self._error: BaseException | None = None  # of the body

    async def run(self) -> None:
        """Hold the context manager open until `leave` is called. In its loop."""
        try:
            async with self._manager as value:
                self.state = HoldState.OPEN
                self._announce(partial(self._opened, value))
                await self._left.wait()
                self.state = HoldState.LEAVING
                if self._error is not None:
                    raise self._error
        finally:
            self.state = HoldState.ENDED

    def leave(self, error: BaseException | None) -> None:
        """End the block, with the exception of its body. In the loop of the context manager."""
        self._error = error
        self._left.set()

    def _opened(self, value: object) -> None:  # in the loop of the body
        self.value, self.is_entered = value, True
        self.call.wake()

    def was_entered(self) -> bool:
        """Return `is_entered`, as the condition of a `join`."""
        return self.is_entered


@asynccontextmanager
async def hold_in_asyncio(
    lane: LanePosts, manager: AbstractAsyncContextManager[T]
) -> AsyncIterator[T]:
    """Hold a context manager of asyncio code open, for a block in a Trio task.

    An exception of the body is raised in the asyncio task, where the context manager may suppress
    or replace it. If the body is cancelled, the asyncio task gets one CancelledError.
    """
    await trio.lowlevel.checkpoint_if_cancelled()
    holder = _Holder(manager, asyncio.Event(), lane.post_back)
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


@asynccontextmanager
async def hold_in_trio(
    lane: LanePosts, manager: AbstractAsyncContextManager[T]
) -> AsyncIterator[T]:
    """Hold a context manager of Trio code open, for a block in an asyncio task of the lane.

    If the body is cancelled, the Trio task is cancelled. If the context manager fails while the
    block is open, its exception is raised at the end of the block.
    """
    holder = _Holder(manager, trio.Event(), lane.post)
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
    lane.post_back(partial(holder.leave, error))
    await call.join()
    if call.error is error and error is not None:
        call.error = None
        raise error
    call.result()
