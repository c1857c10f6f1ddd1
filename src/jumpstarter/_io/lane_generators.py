"""Run an async generator of asyncio code in one asyncio task, in batches for a Trio task.

The Trio task asks for items: up to a number of bytes they are emitted without waiting, and the next
one is returned. So crossing between the loops costs once per batch.

| state    | next state                                                                       |
|----------|----------------------------------------------------------------------------------|
| WAITING  | STEPPING, when the Trio task asks for items; CLOSING                             |
| STEPPING | WAITING, with the item beyond the batch; ENDED, at its `return` or an exception  |
| CLOSING  | ENDED, when its `finally` has run, or has used up its time                       |
| ENDED    | none                                                                             |

The asyncio task owns the state. A cancellation from within the generator, by `asyncio.timeout` or a
task group around a `yield`, is raised at that `yield`.
"""

from __future__ import annotations

import asyncio
import enum
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final, TypeAlias

import trio

from .lane_call import LaneCall, LanePosts

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["GeneratorEnd", "GeneratorState", "LaneGenerator"]

_ITEMS_PER_TURN: Final = 32  # items that a generator makes before other tasks have their turn

Emit: TypeAlias = Callable[[object], int]


class GeneratorState(enum.Enum):
    """How far a generator is; see the table in the module's docstring."""

    WAITING = enum.auto()
    STEPPING = enum.auto()
    CLOSING = enum.auto()
    ENDED = enum.auto()


class GeneratorEnd:
    """Stands for the end of a generator, in place of an item."""


class LaneGenerator:
    """An async generator that runs in the lane.

    Args:
        lane: The lane.
        make: Makes the generator. In the asyncio loop.
        emit: Takes an item of a batch, and returns its cost in bytes. In the asyncio loop.
        cleanup: Seconds for its `finally` when it is closed at a `yield`.
    """

    def __init__(
        self, lane: LanePosts, make: Callable[[], Any], emit: Emit | None, cleanup: float
    ) -> None:
        self._lane = lane
        self._make = make
        self._emit = emit
        self._cleanup = cleanup
        self._call = LaneCall(lane, self._run)
        self._call.on_end = self._on_end
        self._state = GeneratorState.WAITING
        self._requested: asyncio.Future[int] | None = None  # set while it waits
        self._request: int | None = None  # bytes that the next batch may cost
        self._ahead: deque[Any] = deque()  # items that it has yielded without being asked
        self._emitted = 0
        self._made: Any = None
        self._is_made = False  # in the Trio loop: an item was returned
        self._sending: trio.CancelScope | None = None

    # ------------------------------------------------------------------------ in the Trio loop

    def start(self) -> None:
        """Start its asyncio task. Raises RuntimeError if the lane has ended."""
        self._call.start()

    async def step(self, capacity: int) -> Any:
        """Have it run, and return the item beyond the batch. A checkpoint.

        If this is cancelled, the generator gets one CancelledError, and this waits for its end.

        Args:
            capacity: Bytes of items that may be emitted.

        Returns:
            The item, or a `GeneratorEnd`.

        Raises:
            BaseException: Raised by the generator or by `emit`.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        self._is_made = False
        self._lane.post(partial(self._ask, capacity))
        await self._call.join(self._was_made)
        if self._is_made:
            made, self._made = self._made, None
            return made
        self._call.result()
        return GeneratorEnd()

    async def send(self, item: object, send: Callable[[Any], Awaitable[None]]) -> None:
        """Pass an item on, and stop waiting if the generator ends meanwhile. A checkpoint."""
        with trio.CancelScope() as scope:
            self._sending = scope
            if not self._call.ended:
                await send(item)
        self._sending = None

    async def aclose(self) -> None:
        """End it, and wait until its `finally` has run. Shielded from cancellation.

        Raises:
            BaseException: Raised by its `finally`.
            trio.TooSlowError: The `finally` took too long.
        """
        with trio.CancelScope(shield=True):
            if not self._call.ended:
                self._lane.post(partial(self._ask, None))
                await self._call.join()
        if self._call.error is not None:
            self._call.result()

    def _was_made(self) -> bool:
        return self._is_made

    def _on_made(self) -> None:
        self._is_made = True
        self._call.wake()

    def _on_end(self) -> None:
        if self._sending is not None:
            self._sending.cancel()

    # --------------------------------------------------------------------- in the asyncio loop

    def _ask(self, capacity: int | None) -> None:
        self._request = -1 if capacity is None else capacity
        if self._requested is not None and not self._requested.done():
            self._requested.set_result(0)

    async def _wait_for_request(self) -> int:
        """Return how many bytes the next batch may cost; negative if the generator is to end."""
        while self._request is None:
            self._requested = self._lane.loop.create_future()
            await self._requested
        request, self._request = self._request, None
        return request

    async def _run(self) -> None:
        source: Any = None
        try:
            capacity = await self._wait_for_request()
            if capacity < 0:
                return
            source = self._make()
            while capacity >= 0:
                self._state = GeneratorState.STEPPING
                self._made = await self._advance(source, capacity)
                self._state = GeneratorState.WAITING
                self._lane.post_back(self._on_made)
                capacity = await self._wait_at_yield(source)
        except StopAsyncIteration:
            pass
        finally:
            self._state = GeneratorState.CLOSING
            if source is not None:
                await self._close(source)
            self._state = GeneratorState.ENDED

    async def _wait_at_yield(self, source: Any) -> int:
        """Wait for the next request, and raise at the `yield` what cancels the generator there."""
        while True:
            try:
                return await self._wait_for_request()
            except asyncio.CancelledError as exc:
                if self._call.is_cancelled:
                    raise
                self._ahead.append(await source.athrow(exc))

    async def _advance(self, source: Any, capacity: int) -> Any:
        """Emit items while there is capacity, and return the next one."""
        while True:
            item = self._ahead.popleft() if self._ahead else await source.__anext__()
            if self._emit is None or capacity <= 0:
                return item
            capacity -= self._emit(item)
            self._emitted += 1
            if self._emitted % _ITEMS_PER_TURN == 0:
                await asyncio.sleep(0)

    async def _close(self, source: Any) -> None:
        if not hasattr(source, "aclose"):
            return
        limit = asyncio.timeout(self._cleanup)
        try:
            async with limit:
                await source.aclose()
        except TimeoutError:
            if not limit.expired():
                raise
            text = f"the generator was ended, and had not cleaned up in {self._cleanup:g} s"
            raise trio.TooSlowError(text) from None
        except BaseExceptionGroup as group:  # a task group around the `yield` wraps GeneratorExit
            rest = group.split(GeneratorExit)[1]
            if rest is not None:
                raise rest from None
