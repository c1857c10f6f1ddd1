"""Choose for each function that is given to a portal whether it runs in Trio or in asyncio.

The rules are those of `_util.async_library`. The asyncio lane of a portal starts with the first
function of asyncio, and ends with the portal.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import trio

from .._util.async_library import (
    ASYNCIO,
    UNDECIDED,
    Choice,
    advice_for,
    choose,
    is_in_wrong_loop,
    library_of_function,
    library_of_manager,
    said_by,
)
from .portal_job import name_of

if TYPE_CHECKING:
    from .asyncio_lane import AsyncioLane

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["PortalLane"]

T = TypeVar("T")


class PortalLane:
    """The asyncio lane of a portal, and what runs in it.

    Args:
        name: The portal's name.

    Attributes:
        others: The first client class of the portal's clients that is asyncio's, if there is one.
        loop_hold: Seconds for which code may hold the loop before it is logged.
    """

    def __init__(self, name: str) -> None:
        self.others: Choice = UNDECIDED
        self.loop_hold: float = math.inf
        self._name = f"{name}-asyncio"
        self._lane: AsyncioLane | None = None
        self._lock = trio.Lock()
        self._nursery: trio.Nursery

    @asynccontextmanager
    async def available(self) -> AsyncIterator[None]:
        """Let the lane start when it is needed, and end it when the block ends."""
        async with trio.open_nursery() as self._nursery:
            yield
            self._nursery.cancel_scope.cancel()

    async def _get(self) -> AsyncioLane:
        if self._lane is None:
            async with self._lock:
                if self._lane is None:
                    self._lane = await self._nursery.start(self._run)
        return self._lane

    async def _run(self, *, task_status: trio.TaskStatus[AsyncioLane]) -> None:
        from .asyncio_lane import open_lane  # noqa: PLC0415 - it imports asyncio
        from .asyncio_watchdog import watched_asyncio  # noqa: PLC0415 - the same

        async with open_lane(self._name, partial(watched_asyncio, self.loop_hold)) as lane:
            task_status.started(lane)
            await trio.sleep_forever()

    def adapt(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function for a Trio task that runs `func` where it belongs.

        Args:
            func: A function, async or sync.
        """
        instance = getattr(func, "__self__", None)
        said = UNDECIDED if instance is None else said_by(type(instance))
        choice = choose(said, None, library_of_function(func), self.others)
        if choice.library == ASYNCIO:
            return _Advised(self._in_lane(func), choice, name_of(func))
        return _Advised(func, choice, name_of(func))

    def _in_lane(self, func: Callable[..., Any]) -> Callable[..., Any]:
        async def run(*args: Any, **kwargs: Any) -> Any:
            lane = await self._get()
            return await lane.run(_call, func, args, kwargs)

        return run

    def adapt_manager(
        self, manager: AbstractAsyncContextManager[T], said: Choice = UNDECIDED
    ) -> AbstractAsyncContextManager[T, bool | None]:
        """Return a context manager for a Trio task that holds `manager` open where it belongs.

        Args:
            manager: It was not entered yet.
            said: What the client's class says of itself.
        """
        choice = choose(said, None, library_of_manager(manager), self.others)
        return self._hold(manager) if choice.library == ASYNCIO else manager

    @asynccontextmanager
    async def _hold(self, manager: AbstractAsyncContextManager[T]) -> AsyncIterator[T]:
        lane = await self._get()
        async with lane.hold(manager) as value:
            yield value


async def _call(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    value = func(*args, **kwargs)
    return await value if inspect.isawaitable(value) else value


class _Advised:
    """A function whose error says in which loop it ran, if that was the wrong one."""

    def __init__(self, func: Callable[..., Any], choice: Choice, name: str) -> None:
        self._func = func
        self._choice = choice
        self.__qualname__ = name

    async def __call__(self, *args: Any) -> Any:
        try:
            value: Awaitable[Any] | Any = self._func(*args)
            return await value if inspect.isawaitable(value) else value
        except (RuntimeError, TypeError) as exc:
            if is_in_wrong_loop(exc):
                exc.add_note(advice_for(self.__qualname__, self._choice, serves=False))
            raise
