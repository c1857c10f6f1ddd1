"""Run drivers' code: `async` code in the call's own Trio task, all other code in a worker thread.

Each exporter has a limiter of its own for threads. A thread is never abandoned, even if its call is
cancelled: it cannot be killed, and the purpose of this library is that no device operation
continues after its call has ended. Code in a thread that takes long can call
`trio.from_thread.check_cancelled()`.

Callers of this module await coroutines, and need not know where the code runs.

A generator (`DriverExecutor.iterate`, in the call's task):

    state      next
    CREATED    STEPPING, when it was called; a NoThreadError ends it
    STEPPING   SENDING, at a `yield`; ENDED, at its `return` or an exception
    SENDING    STEPPING, when the item was sent; CLOSING, if `send` was cancelled or failed
    CLOSING    ENDED, when its `finally` has run; an async one has `CLEANUP` seconds
    ENDED      -

While a plain generator's client has credit, its thread does not leave STEPPING at a `yield`: the
item goes to an `ItemBatcher`.
"""

from __future__ import annotations

import inspect
import math
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from contextvars import Context, copy_context
from functools import cached_property, partial
from types import CodeType, GeneratorType
from typing import Any, Final, Protocol, TypeVar

import trio

from .._util.reentrancy import CallOrigin, call_origin
from ..errors import DriverConnectionError
from .anyio_threads import in_anyio_thread
from .item_batcher import ItemBatcher

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["DEFAULT_THREADS", "DriverExecutor", "NoThreadError", "in_worker_thread"]

DEFAULT_THREADS: Final = 64  # a blocked thread costs little; a queued call looks like a dead driver
SPARED: Final = 4  # no client takes the last one in so many threads, so that others can call
# Threads for calls that drivers make themselves. Their caller occupies a thread already, so waiting
# for the same threads could deadlock. A deeper recursion than this is refused.
NESTED_THREADS: Final = 256
# Seconds for the `finally` of an async generator that is ended at a `yield`: enough to switch a
# relay off, and a bound for one that never ends.
CLEANUP: Final = 5.0
_PAUSE: Final = 0.1  # seconds between two attempts to get a thread for code that has begun

T = TypeVar("T")


def _is_async(method: Callable[..., Any]) -> bool:
    """Return True if a method's result must be awaited, as far as is known before the call."""
    code = getattr(method, "__code__", None)  # this usually decides, at a tenth of the cost
    if isinstance(code, CodeType) and code.co_flags & inspect.CO_COROUTINE:
        return True
    return inspect.iscoroutinefunction(method)


class NoThreadError(Exception):
    """The system starts no more threads, so the code has not begun."""


class BackpressureSource(Protocol):
    """The interface of a client's connection that the executor uses."""

    @property
    def write_paused(self) -> bool:
        """True while too much data waits to be sent to the client."""

    async def wait_writable(self) -> None:
        """Wait until `write_paused` is False. A checkpoint."""


class DriverExecutor:
    """Run the drivers' code of one exporter.

    Args:
        threads: The number of worker threads for plain methods; more calls than that wait.

    Attributes:
        limiter: Of the threads for calls.
        quick: Plain methods that took little time when they last ran, by target and name. Threads
            change it.
        nested: Of the threads for calls that drivers make themselves.
        hook_limiter: Of the threads for functions at the end of a connection.
        adapt_hook: Puts such a function into the asyncio lane, if it is asyncio's.
    """

    def __init__(self, threads: int = DEFAULT_THREADS) -> None:
        self.limiter: trio.CapacityLimiter = trio.CapacityLimiter(threads)
        self.quick: set[tuple[int, str]] = set()
        self.nested: trio.CapacityLimiter = trio.CapacityLimiter(NESTED_THREADS)
        # Separate, so that calls that occupy all threads do not delay the hooks.
        self.hook_limiter: trio.CapacityLimiter = trio.CapacityLimiter(threads)
        self.adapt_hook: Callable[[Callable[[], Any]], Callable[[], Any]] | None = None

    def for_client(self, backpressure: BackpressureSource) -> DriverExecutor:
        """Make an executor for one connection. It shares the threads, and never uses all of them.

        Args:
            backpressure: The connection; no thread runs for a client that does not read.
        """
        return _ClientExecutor(self, backpressure)

    @property
    def has_idle_threads(self) -> bool:
        """True while at least half of the threads are idle. In any thread."""
        return 2 * self.limiter.borrowed_tokens <= self.limiter.total_tokens

    async def thread(self, function: Callable[..., T], *args: Any) -> T:
        """Run blocking code in a worker thread. A checkpoint.

        If it is cancelled, it still waits for the thread.

        Raises:
            DriverConnectionError: Drivers call each other, or themselves, through too many clients.
            NoThreadError: The system starts no more threads; the code has not begun.
        """
        limiter = self._limiter()
        if limiter is self.nested and limiter.available_tokens < 1:
            raise _too_many(NESTED_THREADS)
        return await in_worker_thread(limiter, partial(function, *args))

    def _limiter(self) -> trio.CapacityLimiter:
        return self.nested if call_origin.get() is CallOrigin.NESTED else self.limiter

    def call(
        self, method: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]
    ) -> Awaitable[Any]:
        """Return an awaitable that runs a method and returns its result.

        The awaitable raises a NoThreadError if the system starts no more threads; the method has
        not begun then.
        """
        if _is_async(method):  # not awaited here: another coroutine takes memory while it waits
            return method(*args, **kwargs)  # type: ignore[no-any-return]  # a coroutine
        return self._call_in_thread(partial(method, *args, **kwargs))

    async def _call_in_thread(self, function: Callable[[], Any]) -> Any:
        _, result = await self.thread(_begin, function)
        # A decorator can hide that a method is `async`: then the result must be awaited.
        return await result if inspect.isawaitable(result) else result

    async def run_hook(self, function: Callable[[], Any]) -> None:
        """Run a function at the end of a connection, even if calls occupy all the threads."""
        if self.adapt_hook is not None:
            function = self.adapt_hook(function)
        if _is_async(function):
            await function()
            return
        begin = partial(_begin, function)
        _, result = await _at_last(partial(in_worker_thread, self.hook_limiter, begin))
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
        """Run a generator to its end, and return what it returned.

        The generator's `finally` always runs. If `send` is cancelled or fails, an async generator
        has `CLEANUP` seconds for that; a plain one has as long as it takes.

        Args:
            method: The generator function.
            args: Its positional arguments.
            kwargs: Its keyword arguments.
            send: Takes each item. It runs within the cancel scopes and nurseries that an async
                generator has around its `yield`, so these can cancel it.
            batcher: Takes the items of a plain generator while the client has credit; the others
                go to `send`. Without it, all do.

        Raises:
            BaseException: Raised by the generator or by `send`.
            trio.TooSlowError: The generator's cleanup took longer than `CLEANUP` seconds.
            NoThreadError: There was no thread to begin it. Once it has begun, it waits for one.
        """
        in_lane = getattr(method, "iterate_in_lane", None)
        if in_lane is not None:  # see `lane_methods`
            return await in_lane(args, kwargs, send, batcher, CLEANUP)
        if inspect.isasyncgenfunction(method):
            return await _drive(method(*args, **kwargs), send)
        context, source = await self.thread(_begin, partial(method, *args, **kwargs))
        if hasattr(source, "__anext__"):
            return await _drive(source, send)
        is_over = False
        try:
            while True:
                capacity = 0 if batcher is None else batcher.capacity()
                step = partial(context.run, _advance, source, capacity, batcher)
                made = await _at_last(partial(self.thread, step))
                if batcher is not None:
                    batcher.check()
                if isinstance(made, _End):
                    is_over = type(source) is GeneratorType  # whose `close` has nothing to do then
                    return made.value
                await send(made)
        finally:
            if not is_over and hasattr(source, "close"):
                with trio.CancelScope(shield=True):  # no deadline: threads are never abandoned
                    await self._close(partial(context.run, source.close))

    async def _close(self, close: Callable[[], None]) -> None:
        """Close a plain generator, which runs its `finally`."""
        await _at_last(partial(in_worker_thread, self._limiter(), close))


class _ClientExecutor(DriverExecutor):
    """The part of an executor that one connection may use."""

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
        # A client can falsely claim that a driver makes the call, so these threads are limited too.
        return trio.CapacityLimiter(NESTED_THREADS - NESTED_THREADS // SPARED)

    async def thread(self, function: Callable[..., T], *args: Any) -> T:
        if self._limiter() is self.nested:
            return await self._nested_thread(function, *args)
        await self._take_share()
        while self._backpressure.write_paused:
            # Wait without the share: the `finally` of a generator may need it.
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
            self._share.acquire_nowait()  # the usual case, without the checkpoint of `acquire`
        except trio.WouldBlock:
            await self._share.acquire()


def _too_many(threads: int) -> DriverConnectionError:
    text = f"{threads} calls by drivers are under way, and wait for each other"
    return DriverConnectionError(f"{text}; does this one call itself endlessly?")


async def in_worker_thread(limiter: trio.CapacityLimiter, function: Callable[[], T]) -> T:
    """Run blocking code in a worker thread; raise NoThreadError if the system starts none."""
    thread: int | None = None  # the identifier of the one that runs it; `overdue` reads this
    function = in_anyio_thread(function)

    def run() -> T:
        nonlocal thread
        thread = threading.get_ident()
        return function()

    try:
        return await trio.to_thread.run_sync(run, limiter=limiter)
    except (RuntimeError, MemoryError) as exc:
        if thread is not None:
            raise
        text = f"the exporter's system starts no more threads ({exc}); try again later"
        raise NoThreadError(text) from exc


async def _at_last(attempt: Callable[[], Awaitable[T]]) -> T:
    """Retry until a thread starts: for code that has begun, and must continue."""
    while True:
        with suppress(NoThreadError):
            return await attempt()
        await trio.sleep(_PAUSE)


async def _drive(source: Any, send: Callable[[Any], Awaitable[None]]) -> None:
    """Run an async generator.

    If it yields within a nursery or cancel scope of its own, `send` runs inside that scope, too. So
    a Cancelled that such a scope causes is thrown into the generator, which holds the scope that
    catches it. The scope for the cleanup is opened before the generator begins, since Trio's scopes
    must nest: it could not be opened inside a scope that the generator leaves later.
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
    """Return True if a scope inside this one has cancelled the running code, not one outside."""
    scope.shield = True  # hides the outer scopes for a moment; no checkpoint comes in between
    inside = trio.current_effective_deadline() == -math.inf
    scope.shield = False
    return inside


async def _aclose(source: Any) -> None:
    """Close an async iterator, if it has an `aclose`.

    A nursery around the generator's `yield` wraps the GeneratorExit into a group.
    """
    try:
        if hasattr(source, "aclose"):
            await source.aclose()
    except BaseExceptionGroup as group:
        rest = group.split(GeneratorExit)[1]
        if rest is not None:
            raise rest from None


def _begin(function: Callable[[], T]) -> tuple[Context, T]:
    """Call a method, and return the context that it ran in with its result.

    All steps of a generator share that context, as in a `for` loop. The result may be a coroutine,
    which is awaited in the loop; Trio refuses to return one from a thread, except in a tuple.
    """
    context = copy_context()
    return context, context.run(function)


class _End:
    """The end of a generator, with what it returned."""

    __slots__ = ("value",)

    def __init__(self, value: object) -> None:
        self.value = value


def _advance(source: Iterator[Any], capacity: int, batcher: ItemBatcher | None) -> Any:
    """Advance a plain generator while there is capacity, and return the first item beyond it.

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
