"""How a driver's code is run: the one place that decides.

Two lanes so far. `async` code runs in the call's own Trio task. Everything else runs in a worker
thread, under a limiter of the exporter's own, and is waited for: a thread cannot be killed, and a
device operation that goes on behind the caller's back is what this library exists to prevent. Code
in a thread that may take long can ask `trio.from_thread.check_cancelled()`.

Whoever calls here sees coroutines and async iterators, and never which lane it was.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Callable, Generator
from functools import partial
from typing import Any, Final, TypeVar

import trio

from .._nesting import Nesting, nesting
from ..errors import DriverConnectionError

__all__ = ["DEFAULT_THREADS", "GeneratorEnd", "Lanes"]

DEFAULT_THREADS: Final = 64  # a blocked thread costs little; a queued call looks like a dead driver
# Threads for calls that drivers make themselves: whoever calls holds a thread already, so to wait
# for the same supply would be to wait for oneself. Deeper recursion than this is refused.
NESTED_THREADS: Final = 256
# Seconds for an async generator's `finally` when its consumer is gone: time to switch a relay off,
# and an end to one that waits for ever.
CLEANUP: Final = 5.0

T = TypeVar("T")


class GeneratorEnd:
    """The last thing that `Lanes.iterate` gives: what the generator returned."""

    __slots__ = ("value",)

    def __init__(self, value: object = None) -> None:
        self.value = value


class Lanes:
    """The lanes of one exporter.

    Args:
        threads: Worker threads at once for the drivers' plain methods; more calls wait their turn.
    """

    def __init__(self, threads: int = DEFAULT_THREADS) -> None:
        self.limiter = trio.CapacityLimiter(threads)
        self._nested = trio.CapacityLimiter(NESTED_THREADS)

    async def thread(self, function: Callable[..., T], *args: Any) -> T:
        """Run blocking code in a worker thread. A checkpoint; cancelled, it waits all the same.

        Raises:
            DriverConnectionError: A driver has called itself through a client, too many times over.
        """
        limiter = self.limiter
        if nesting.get() is Nesting.NESTED:
            limiter = self._nested
            if limiter.available_tokens < 1:
                text = f"{NESTED_THREADS} calls by drivers are under way, and wait for each other"
                raise DriverConnectionError(f"{text}; does this one call itself without end?")
        return await trio.to_thread.run_sync(function, *args, limiter=limiter)

    async def call(
        self, method: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]
    ) -> Any:
        """Run a method to its result."""
        if inspect.iscoroutinefunction(method):
            return await method(*args, **kwargs)
        result = await self.thread(partial(method, *args, **kwargs))
        # A decorator can hide that a method is `async`: then what came back is to be awaited.
        return await result if inspect.isawaitable(result) else result

    async def iterate(
        self, method: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]
    ) -> AsyncGenerator[Any, None]:
        """Run a generator; gives its items, and then a `GeneratorEnd`.

        Drive it from one task, from start to `aclose`: an async generator may hold a nursery.
        However it ends, the generator's `finally` has run; an async one has `CLEANUP` seconds for
        it.
        """
        if inspect.isasyncgenfunction(method):
            source = method(*args, **kwargs)
        else:
            source = await self.thread(partial(method, *args, **kwargs))
        if hasattr(source, "__anext__"):
            try:
                async for item in source:
                    yield item
            finally:
                with trio.move_on_after(CLEANUP, shield=True):
                    await source.aclose()
            yield GeneratorEnd()
            return
        try:
            while not isinstance(item := await self.thread(_step, source), GeneratorEnd):
                yield item
            yield item
        finally:
            with trio.CancelScope(shield=True):  # unbounded, as all threads: never abandoned
                await self.thread(source.close)


def _step(source: Generator[Any, None, Any]) -> Any:
    """Advance a plain generator. StopIteration cannot leave a thread, so its end is a value."""
    try:
        return next(source)
    except StopIteration as stop:
        return GeneratorEnd(stop.value)
