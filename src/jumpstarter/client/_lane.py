"""Let client code in an asyncio lane use the `_async` methods of its client.

The connection belongs to the Trio loop. Objects that the methods return to asyncio code use the
lane.
"""

from __future__ import annotations

from collections import deque
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, cast

from .._io.current_lane import Lane
from .._protocol.receive_buffer import Body
from ._generators import RemoteGenerator
from ._raw_streams import RemoteStream

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["generator_for", "stream_for"]

T = TypeVar("T")


def generator_for(lane: Lane | None, generator: RemoteGenerator[T]) -> RemoteGenerator[T]:
    """Return a generator for the code that runs in `lane`, or in Trio if that is None."""
    return generator if lane is None else cast("Any", _GeneratorInLane(lane, generator))


def stream_for(
    lane: Lane | None, manager: AbstractAsyncContextManager[RemoteStream]
) -> AbstractAsyncContextManager[RemoteStream]:
    """Return the manager of a stream for the code that runs in `lane`, or in Trio."""
    if lane is None:
        return manager
    from .._io.lane_streams import hold_trio_stream  # noqa: PLC0415 - it imports asyncio

    held: Any = hold_trio_stream(cast("Any", lane), manager)
    return cast("AbstractAsyncContextManager[RemoteStream]", held)


class _GeneratorInLane(Generic[T]):
    """Iterates over a driver's generator in asyncio code; as `RemoteGenerator`."""

    def __init__(self, lane: Lane, generator: RemoteGenerator[T]) -> None:
        self._lane = lane
        self._generator = generator
        self._bodies: deque[Body] = deque()  # items that have arrived, still encoded

    @property
    def value(self) -> Any:
        """The value that a plain generator returned, once the iteration is over."""
        return self._generator.value

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        if not self._bodies:
            self._bodies.extend(await self._lane.run_in_trio(self._generator.fetch))
        return self._generator.decode(self._bodies.popleft())

    async def aclose(self) -> None:
        """End the driver's generator."""
        await self._lane.run_in_trio(self._generator.aclose)

    async def __aenter__(self) -> Self:
        await self._lane.run_in_trio(self._generator.__aenter__)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._lane.run_in_trio(self._generator.__aexit__, exc_type, exc, traceback)
