"""How a driver's code is run: the one place that decides.

Two lanes so far. `async` code runs in the call's own Trio task. Everything else runs in a worker
thread, under a limiter of the exporter's own, and is waited for: a thread cannot be killed, and a
device operation that goes on behind the caller's back is what this library exists to prevent. Code
in a thread that may take long can ask `trio.from_thread.check_cancelled()`.

Whoever calls here sees coroutines, and never which lane it was.
"""

from __future__ import annotations

import inspect
import logging
import math
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, suppress
from contextvars import Context, copy_context
from functools import cache, cached_property, partial
from types import CodeType
from typing import Any, Final, Protocol, TypeAlias, TypeVar

import trio

from .._util.reentrancy import CallOrigin, call_origin
from ..errors import DriverConnectionError
from .item_batcher import ItemBatcher

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["DEFAULT_THREADS", "DriverExecutor", "NoThreadError"]

_logger: Final = logging.getLogger("jumpstarter.exporter")

DEFAULT_THREADS: Final = 64  # a blocked thread costs little; a queued call looks like a dead driver
SPARED: Final = 4  # one thread in so many is never one client's, whatever it calls
# Threads for calls that drivers make themselves: whoever calls holds a thread already, so to wait
# for the same supply would be to wait for oneself. Deeper recursion than this is refused.
NESTED_THREADS: Final = 256
# Seconds for the `finally` of an async generator that is ended at a `yield`: time to switch a relay
# off, and an end to one that waits for ever.
CLEANUP: Final = 5.0
_PAUSE: Final = 0.1  # seconds between two tries to get a thread for what has begun

T = TypeVar("T")
_AnyioClaim: TypeAlias = Callable[[object], AbstractContextManager[None]]

_no_anyio: Final[list[Exception]] = []  # with what anyio's private function has failed, if it has


def is_async(method: Callable[..., Any]) -> bool:
    """Tell if what a method gives is to be awaited, as far as can be seen before it is called."""
    code = getattr(method, "__code__", None)  # most often this says it, at a tenth of the cost
    if isinstance(code, CodeType) and code.co_flags & inspect.CO_COROUTINE:
        return True
    return inspect.iscoroutinefunction(method)


class NoThreadError(Exception):
    """The system starts no more threads, and what was to run in one has not begun."""


class BackpressureSource(Protocol):
    """The way back to a client, as far as lanes are concerned."""

    @property
    def write_paused(self) -> bool:
        """True while the client does not take what waits for it."""

    async def wait_writable(self) -> None:
        """Wait until it does."""


class DriverExecutor:
    """The lanes of one exporter.

    Args:
        threads: Worker threads at once for the drivers' plain methods; more calls wait their turn.
    """

    def __init__(self, threads: int = DEFAULT_THREADS) -> None:
        self.limiter: trio.CapacityLimiter = trio.CapacityLimiter(threads)
        self.nested: trio.CapacityLimiter = trio.CapacityLimiter(NESTED_THREADS)
        # Separate, so that calls that occupy all threads do not delay the hooks.
        self.hook_limiter: trio.CapacityLimiter = trio.CapacityLimiter(threads)

    def for_client(self, backpressure: BackpressureSource) -> DriverExecutor:
        """Give the same lanes to one connection, which never has all of the threads to itself.

        Args:
            backpressure: To the client: no thread works for one that does not read.
        """
        return _ClientExecutor(self, backpressure)

    @property
    def has_idle_threads(self) -> bool:
        """True while at least half of the threads have nothing to do. In any thread."""
        return 2 * self.limiter.borrowed_tokens <= self.limiter.total_tokens

    async def thread(self, function: Callable[..., T], *args: Any) -> T:
        """Run blocking code in a worker thread. A checkpoint; cancelled, it waits all the same.

        Raises:
            DriverConnectionError: A driver has called itself through a client, too many times over.
            NoThreadError: There is no thread to be had.
        """
        limiter = self._limiter()
        if limiter is self.nested and limiter.available_tokens < 1:
            raise _too_many(NESTED_THREADS)
        return await _in_thread(limiter, partial(function, *args))

    def _limiter(self) -> trio.CapacityLimiter:
        return self.nested if call_origin.get() is CallOrigin.NESTED else self.limiter

    async def call(
        self, method: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]
    ) -> Any:
        """Run a method to its result. Raises NoThreadError if it never began for want of one."""
        if is_async(method):
            return await method(*args, **kwargs)
        _, result = await self.thread(_begin, partial(method, *args, **kwargs))
        # A decorator can hide that a method is `async`: then what came back is to be awaited.
        return await result if inspect.isawaitable(result) else result

    async def run_hook(self, function: Callable[[], Any]) -> None:
        """Run a function at the end of a connection, even if calls occupy all the threads."""
        if is_async(function):
            await function()
            return
        begin = partial(_begin, function)
        _, result = await _at_last(partial(_in_thread, self.hook_limiter, begin))
        if inspect.isawaitable(result):
            await result

    async def iterate(
        self,
        method: Callable[..., Any],
        args: list[Any],
        kwargs: dict[str, Any],
        send: Callable[[Any], Awaitable[None]],
        batcher: ItemBatcher | None = None,
    ) -> Any:
        """Run a generator to its end, and give what it returned.

        However it ends, the generator's `finally` has run. Where `send` is cancelled or fails, an
        async generator has `CLEANUP` seconds for it, a plain one as long as it takes.

        Args:
            method: The generator function.
            args: Its positional arguments.
            kwargs: Its keyword arguments.
            send: Takes each item. It runs where the `yield` stands: a deadline or a nursery which
                an async generator has around its `yield` cancels it.
            batcher: Takes the items of a plain generator while the client has credit; the others
                go to `send`. Without it, all do.

        Raises:
            BaseException: What the generator or `send` has raised.
            trio.TooSlowError: The `CLEANUP` seconds did not suffice.
            NoThreadError: It never began for want of a thread; later ones are waited for.
        """
        if inspect.isasyncgenfunction(method):
            return await _drive(method(*args, **kwargs), send)
        context, source = await self.thread(_begin, partial(method, *args, **kwargs))
        if hasattr(source, "__anext__"):
            return await _drive(source, send)
        try:
            while True:
                capacity = 0 if batcher is None else batcher.capacity()
                step = partial(context.run, _advance, source, capacity, batcher)
                made = await _at_last(partial(self.thread, step))
                if batcher is not None:
                    batcher.check()
                if isinstance(made, _End):
                    return made.value
                await send(made)
        finally:
            if hasattr(source, "close"):
                with trio.CancelScope(shield=True):  # unbounded, as all threads: never abandoned
                    await self._close(partial(context.run, source.close))

    async def _close(self, close: Callable[[], None]) -> None:
        """End a plain generator, whatever is in its `finally`."""
        await _at_last(partial(_in_thread, self._limiter(), close))


class _ClientExecutor(DriverExecutor):
    """The lanes as one connection has them."""

    def __init__(self, executor: DriverExecutor, backpressure: BackpressureSource) -> None:
        self.limiter: trio.CapacityLimiter = executor.limiter
        self.nested: trio.CapacityLimiter = executor.nested
        self._backpressure = backpressure

    @cached_property
    def _share(self) -> trio.CapacityLimiter:
        threads = int(self.limiter.total_tokens)
        return trio.CapacityLimiter(threads - threads // SPARED)

    @cached_property
    def _nested_share(self) -> trio.CapacityLimiter:
        # Whether a call comes from a driver is the client's word, so of those there is a share too.
        return trio.CapacityLimiter(NESTED_THREADS - NESTED_THREADS // SPARED)

    async def thread(self, function: Callable[..., T], *args: Any) -> T:
        if self._limiter() is self.nested:
            return await self._nested_thread(function, *args)
        await self._take_share()
        while self._backpressure.write_paused:  # not while we hold a share: a `finally` may need it
            self._share.release()
            await self._backpressure.wait_writable()
            await self._take_share()
        try:
            return await super().thread(function, *args)
        finally:
            self._share.release()

    async def _nested_thread(self, function: Callable[..., T], *args: Any) -> T:
        try:
            self._nested_share.acquire_nowait()
        except trio.WouldBlock:
            raise _too_many(int(self._nested_share.total_tokens)) from None
        try:
            return await super().thread(function, *args)
        finally:
            self._nested_share.release()

    async def _close(self, close: Callable[[], None]) -> None:
        if self._limiter() is self.nested:
            return await super()._close(close)
        await self._take_share()
        try:
            return await super()._close(close)
        finally:
            self._share.release()

    async def _take_share(self) -> None:
        try:
            self._share.acquire_nowait()  # as a rule, and without the checkpoint that acquire has
        except trio.WouldBlock:
            await self._share.acquire()


def _too_many(threads: int) -> DriverConnectionError:
    text = f"{threads} calls by drivers are under way, and wait for each other"
    return DriverConnectionError(f"{text}; does this one call itself without end?")


async def _in_thread(limiter: trio.CapacityLimiter, function: Callable[[], T]) -> T:
    """Run blocking code in a worker thread, or say that there is none."""
    began = False
    if "anyio" in sys.modules:
        function = _in_anyio_thread(function)

    def run() -> T:
        nonlocal began
        began = True
        return function()

    try:
        return await trio.to_thread.run_sync(run, limiter=limiter)
    except (RuntimeError, MemoryError) as exc:
        if began:
            raise
        text = f"the exporter's system starts no more threads ({exc}); try again later"
        raise NoThreadError(text) from exc


def _in_anyio_thread(function: Callable[[], T]) -> Callable[[], T]:
    """Make `anyio.from_thread` work in a worker thread of Trio. In the loop.

    Trio's `from_thread` finds the loop through Trio's own thread-local data, and anyio's through
    that of anyio.
    """
    try:
        claim = _anyio_claim()
    except OSError:  # no descriptor is left to import with; the next call tries again
        claim = None
    if claim is None:
        return function
    token = trio.lowlevel.current_trio_token()

    def run() -> T:
        leave = _enter(claim, token)
        try:
            return function()
        finally:
            leave()

    return run


def _enter(claim: _AnyioClaim, token: object) -> Callable[[], None]:
    """Enter anyio's context manager, and give what leaves it. The call runs even if it fails."""
    try:
        manager = claim(token)
        manager.__enter__()
    except Exception as exc:  # noqa: BLE001 - a private function: another release may change it
        _give_up_anyio(exc)
        return _nothing

    def leave() -> None:
        try:
            manager.__exit__(None, None, None)
        except Exception as exc:  # noqa: BLE001 - the same
            _give_up_anyio(exc)

    return leave


def _nothing() -> None:
    """Leave nothing."""


@cache
def _anyio_claim() -> _AnyioClaim | None:
    """Give the function by which anyio notes that a thread is a worker of a Trio loop.

    The function is private to anyio. With an anyio that lacks it, or whose function takes other
    arguments, `anyio.from_thread` raises in drivers' threads as it does in any foreign thread, and
    calls go on without it.
    """
    if _no_anyio:
        return None
    try:
        from anyio._core._eventloop import (  # noqa: PLC0415 - only where anyio is in use
            claim_worker_thread,
            get_async_backend,
        )

        return partial(claim_worker_thread, get_async_backend("trio"))
    except OSError:
        raise
    except Exception:  # noqa: BLE001 - a private module: another release may change anything in it
        return None


def _give_up_anyio(exc: Exception) -> None:
    """Use anyio's private function no more in this process."""
    if not _no_anyio:
        _no_anyio.append(exc)
        text = "anyio.from_thread does not work in drivers' threads with this anyio: %s: %s"
        _logger.warning(text, type(exc).__name__, exc)
    _anyio_claim.cache_clear()


async def _at_last(attempt: Callable[[], Awaitable[T]]) -> T:
    """Go on with code that has begun, as soon as there is a thread for it."""
    while True:
        with suppress(NoThreadError):
            return await attempt()
        await trio.sleep(_PAUSE)


async def _drive(source: Any, send: Callable[[Any], Awaitable[None]]) -> None:
    """Run an async generator.

    It may `yield` within a nursery or a cancel scope of its own, and then so do we. What one of
    these cancels is thrown in where it waits, to be caught there; and the scope for its end is
    there from the beginning, since it could not be opened inside one of the generator's.
    """
    with trio.CancelScope() as scope:
        advance = source.__anext__
        try:
            while True:
                item = await advance()
                try:
                    await send(item)
                    advance = source.__anext__
                except trio.Cancelled as exc:
                    if not _is_cancelled_inside(scope):
                        raise
                    advance = partial(source.athrow, exc)
        except StopAsyncIteration:
            pass
        finally:
            scope.shield, scope.deadline = True, trio.current_time() + CLEANUP
            await _aclose(source)
    if scope.cancelled_caught:
        raise trio.TooSlowError(f"the generator was ended, and had not cleaned up in {CLEANUP:g} s")


def _is_cancelled_inside(scope: trio.CancelScope) -> bool:
    """Tell if the running code is cancelled by a scope within this one, and not from outside."""
    scope.shield = True
    inside = trio.current_effective_deadline() == -math.inf
    scope.shield = False
    return inside


async def _aclose(source: Any) -> None:
    """Close an async iterator, if it can be. A nursery makes a group of what closes a generator."""
    try:
        if hasattr(source, "aclose"):
            await source.aclose()
    except BaseExceptionGroup as group:
        rest = group.split(GeneratorExit)[1]
        if rest is not None:
            raise rest from None


def _begin(function: Callable[[], T]) -> tuple[Context, T]:
    """Call a method. Gives its context too, which all steps of a generator share, as in a `for`.

    A coroutine that it gives is not for this thread, and Trio lets none out but in a tuple.
    """
    context = copy_context()
    return context, context.run(function)


class _End:
    """What `_advance` gives when a generator has ended, with what it returned."""

    __slots__ = ("value",)

    def __init__(self, value: object) -> None:
        self.value = value


def _advance(source: Iterator[Any], capacity: int, batcher: ItemBatcher | None) -> Any:
    """Advance a plain generator while there is capacity, and give the first item that finds none.

    StopIteration cannot leave a thread, so the generator's end is a value.
    """
    while True:
        try:
            item = next(source)
        except StopIteration as stop:
            return _End(stop.value)
        if batcher is None or capacity <= 0:
            return item
        capacity -= batcher.emit(item)
