"""Wrap the methods of asyncio drivers, so that the code which answers calls runs them as Trio's.

The executor and the dispatcher call an `async` method, a generator or a raw stream of the lane as
any other. The returned objects use the lane. A plain method stays in its worker thread; only
`anyio.from_thread` leads to the lane in there.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any, Final

import msgspec
import trio

from .._io.asyncio_lane import AsyncioLane
from .._io.current_lane import Lane
from .._io.lane_generators import GeneratorEnd, LaneGenerator
from .._io.lane_streams import open_asyncio_stream
from .._protocol.frames import Kind
from .._util.async_library import innermost
from ..driver._export import Exported
from .anyio_threads import leads_to_lane
from .item_batcher import ItemBatcher
from .stream_forwarder import device_stream

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["hook_in_lane", "in_lane"]


def in_lane(exported: Exported, lane: AsyncioLane) -> Exported:
    """Make an entry of the export table whose code runs in the lane."""
    function = _LaneFunction(exported, lane)
    return msgspec.structs.replace(exported, function=function, is_wrapper=True)


def hook_in_lane(function: Callable[[], Any], lane: Lane) -> Callable[[], Any]:
    """Make a function for the end of a connection that runs in the lane, if it is async."""
    return _method(function, lane) if _is_async(function) else _plain(function, lane)


def _is_async(function: Any) -> bool:
    return inspect.iscoroutinefunction(innermost(function)) or inspect.iscoroutinefunction(function)


class _LaneFunction:
    """Descriptor that binds a method, and wraps the bound method.

    Attributes:
        original: The function of the class.
    """

    __slots__ = ("_lane", "_wrap", "original")

    def __init__(self, exported: Exported, lane: AsyncioLane) -> None:
        self.original: Final[Any] = exported.function
        self._lane = lane
        inner = innermost(exported.function)
        self._wrap: Callable[[Any, AsyncioLane], Callable[..., Any]]
        if exported.kind is Kind.STREAM:
            self._wrap = _stream
        elif exported.kind is Kind.GENERATOR:
            self._wrap = _Generator if inspect.isasyncgenfunction(inner) else _plain_generator
        else:
            self._wrap = _method if exported.is_async or _is_async(inner) else _plain

    def __get__(self, instance: object, owner: type) -> Callable[..., Any]:
        return self._wrap(self.original.__get__(instance, owner), self._lane)


def _named(wrapper: Callable[..., Any], method: Any) -> Callable[..., Any]:
    wrapper.__wrapped__ = method  # type: ignore[attr-defined]  # where `inspect.signature` looks
    return wrapper


def _method(method: Callable[..., Awaitable[Any]], lane: Lane) -> Callable[..., Any]:
    async def call(*args: Any, **kwargs: Any) -> Any:
        return await lane.run(method, *args, **kwargs)

    return _named(call, method)


def _plain(method: Callable[..., Any], lane: Lane) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        with leads_to_lane(lane):
            value = method(*args, **kwargs)
        # A decorator can hide that a method is `async`: then the result must be awaited.
        return lane.run(lambda: value) if inspect.isawaitable(value) else value

    return _named(call, method)


def _plain_generator(method: Callable[..., Any], lane: AsyncioLane) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        with leads_to_lane(lane):
            source = method(*args, **kwargs)
        if hasattr(source, "__anext__"):
            return _AsyncIterator(source, lane)
        return _PlainGenerator(source, lane)

    return _named(call, method)


class _PlainGenerator:
    """A plain generator, each step of which may run in another worker thread."""

    def __init__(self, source: Any, lane: AsyncioLane) -> None:
        self._source = source
        self._lane = lane

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        with leads_to_lane(self._lane):
            return next(self._source)

    def close(self) -> None:
        if hasattr(self._source, "close"):
            with leads_to_lane(self._lane):
                self._source.close()


class _AsyncIterator:
    """An async iterator that a decorator had hidden; each step is a call into the lane."""

    def __init__(self, source: Any, lane: AsyncioLane) -> None:
        self._source = source
        self._lane = lane

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        made = await self._lane.run(self._next)
        if isinstance(made, GeneratorEnd):
            raise StopAsyncIteration
        return made

    async def _next(self) -> Any:
        try:
            return await self._source.__anext__()
        except StopAsyncIteration:  # it cannot leave a coroutine
            return GeneratorEnd()

    async def aclose(self) -> None:
        if hasattr(self._source, "aclose"):
            await self._lane.run(self._source.aclose)


class _Generator:
    """An async generator function of the lane, bound to its driver."""

    def __init__(self, method: Callable[..., Any], lane: AsyncioLane) -> None:
        self.__wrapped__ = method
        self._lane = lane

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return _AsyncIterator(self.__wrapped__(*args, **kwargs), self._lane)

    async def iterate_in_lane(
        self,
        args: list[Any],
        kwargs: dict[str, Any],
        send: Callable[[Any], Awaitable[None]],
        batcher: ItemBatcher | None,
        cleanup: float,
    ) -> None:
        """Run the generator to its end; see `DriverExecutor.iterate`."""
        make = partial(self.__wrapped__, *args, **kwargs)
        if batcher is not None:
            batcher.post = self._lane.post_back  # so that items arrive before the generator's end
        emit = None if batcher is None else batcher.add
        generator = LaneGenerator(self._lane, make, emit, cleanup)
        generator.start()
        try:
            while True:
                made = await generator.step(0 if batcher is None else batcher.capacity())
                if batcher is not None:
                    batcher.check()
                if isinstance(made, GeneratorEnd):
                    return
                await generator.send(made, send)
        finally:
            await generator.aclose()


def _stream(method: Callable[..., Any], lane: AsyncioLane) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        manager = method(*args, **kwargs)
        if not isinstance(manager, AbstractAsyncContextManager):
            return manager  # the dispatcher explains that
        return _open_stream(lane, manager)

    return _named(call, method)


@asynccontextmanager
async def _open_stream(
    lane: AsyncioLane, manager: AbstractAsyncContextManager[Any]
) -> AsyncIterator[trio.abc.Stream]:
    async with (
        lane.hold(manager) as value,
        open_asyncio_stream(lane, device_stream(value)) as stream,
    ):
        yield stream
