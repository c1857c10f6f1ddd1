"""A driver's generator, as an async iterator for Trio code.

Its items wait in the slot's handler until they are requested. Credit is returned as they are taken,
so the window bounds how many wait. However an iteration ends, the driver's generator is ended too.

States of a `RemoteGenerator`. The task that iterates owns it; `end` and `close_soon` may come from
another one, or from a finalizer in any thread:

    state  meaning                                  next states
    NEW    nothing was sent                         OPEN: the first step, or `async with`
                                                    OVER: ended before that; nothing is sent
    OPEN   the driver's generator may run           OVER: it has ended or failed, a step was
                                                    cancelled, or it was closed
    OVER   no step gives an item any more           none
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, Self

import trio

from .._protocol import events as ev
from .._util.no_copies import ReduceEx, no_copies
from ..errors import ArgumentError, DriverError
from ._channel import Channel
from ._outgoing_call import OutgoingCall, Request

if TYPE_CHECKING:
    from typing_extensions import TypeVar  # for a default, which typing's own has from 3.13 on

    T = TypeVar("T", default=Any)
else:
    from typing import TypeVar

    T = TypeVar("T")

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["RemoteGenerator"]

Taken = TypeVar("Taken")

_ITEMS_PER_TURN: Final = 32  # items that may be taken before other tasks have their turn


class _GeneratorState(enum.Enum):
    """Where a `RemoteGenerator` is; the module's docstring has the table."""

    NEW = enum.auto()
    OPEN = enum.auto()
    OVER = enum.auto()


_NEW: Final = _GeneratorState.NEW
_OPEN: Final = _GeneratorState.OPEN
_OVER: Final = _GeneratorState.OVER


class _GeneratorCall(OutgoingCall):
    """The call of a generator. Its items wait here until they are requested."""

    __slots__ = ("items",)

    def __init__(self, channel: Channel, request: Request) -> None:
        super().__init__(channel, request)
        self.items: deque[ev.ItemReceived] = deque()

    def received(self, event: ev.SlotEvent) -> None:
        match event:
            case ev.ItemReceived():
                if self.failure is None:  # after a dropped item, no other may be returned
                    self.items.append(event)
                    self._wake()
            case ev.MessageDropped(terminal=False):
                self.failure = DriverError(event.reason, context=self.context)
                self._wake()
            case _:
                dropped = self.failure
                super().received(event)
                self.failure = dropped or self.failure

    async def changed(self) -> None:
        """Wait for an item, or the end."""
        await self._change()


class RemoteGenerator(Generic[T]):
    """Iterates over a driver's generator. One task at a time.

    `async for` is enough. `async with` around it ends the driver's code at the end of the block,
    even if the loop was left early. Without it, the driver's code is ended only when the object is
    garbage-collected. When `__anext__` raises an exception, `Cancelled` included, the driver's code
    has ended.

    Attributes:
        value: What a plain generator returned, once the iteration is over; else None.
    """

    __reduce_ex__: ClassVar[ReduceEx] = no_copies("a driver's generator", "pass the items on")

    def __init__(
        self,
        channel: Channel,
        request: Request,
        decode: Callable[[bytes], T] | None = None,
    ) -> None:
        self._channel = channel
        self._request = request
        self._decode = channel.decode if decode is None else decode
        self._state = _NEW
        self._call: _GeneratorCall | None = None  # from the moment when its CALL is sent
        self._busy = False
        self._taken = 0
        self._fetched = 0  # bytes of items that blocking code has, whose credit is to go back
        self.value: Any = None

    @property
    def running(self) -> bool:
        """True while the driver's generator may run: it was started and has not ended."""
        return self._call is not None and not self._call.done

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        """Return the next item. If cancelled, it ends the generator.

        A checkpoint if it must wait, and for one in 32 of the items that have arrived already.

        Raises:
            StopAsyncIteration: The driver's generator has ended.
            DriverError: It failed, after all items from before were returned.
        """
        body = await self._receive(self._take)
        try:
            return self.decode(body)
        except DriverError:
            await self.aclose()
            raise

    def decode(self, body: bytes) -> T:
        """Decode an item. In any thread.

        Raises:
            DriverError: It cannot be decoded, and the caller is to end the generator.
        """
        try:
            return self._decode(body)
        except ArgumentError as exc:
            raise DriverError(f"its item: {exc}", context=self._request.context) from exc

    async def fetch(self) -> list[bytes]:
        """Return all items that have arrived, still encoded.

        For blocking code: one step through the portal costs as much as many items. A checkpoint if
        it must wait. If cancelled, it ends the generator; raises as `__anext__` does. Credit for
        these items is returned with the next call, since only then the caller has read them.
        """
        return await self._receive(self._take_all)

    async def _receive(self, take: Callable[[_GeneratorCall], Awaitable[Taken]]) -> Taken:
        self._check_not_busy()
        if self._state is _OVER:
            raise StopAsyncIteration
        self._busy = True
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            call = await self._start()
            self._give_back(call)
            while not call.items and not call.done and call.failure is None:
                await call.changed()
            if call.items:
                return await take(call)
            if call.failure is not None:
                raise call.failure
            self._state = _OVER
            self.value = call.result(self._channel.decode)
        except BaseException as exc:
            await self.end(exc)
            raise
        finally:
            self._busy = False
        raise StopAsyncIteration

    def _check_not_busy(self) -> None:
        if self._busy:
            raise trio.BusyResourceError("another task is iterating over this generator")

    async def _start(self) -> _GeneratorCall:
        if self._call is None:
            call = _GeneratorCall(self._channel, self._request)
            await self._channel.open(call)
            self._call = call
            if self._state is _NEW:
                self._state = _OPEN
            else:  # another task ended it while this one waited for a slot
                await call.cancel()
        return self._call

    async def _take(self, call: _GeneratorCall) -> bytes:
        self._taken += 1
        if self._taken % _ITEMS_PER_TURN == 0:
            await trio.lowlevel.checkpoint()
        item = call.items.popleft()
        if not call.done:
            self._channel.consumed(call, item.cost)
        return item.body

    async def _take_all(self, call: _GeneratorCall) -> list[bytes]:
        items = list(call.items)
        call.items.clear()
        self._fetched = sum(item.cost for item in items)
        return [item.body for item in items]

    def _give_back(self, call: _GeneratorCall) -> None:
        """Return the credit for the items that were fetched before."""
        cost, self._fetched = self._fetched, 0
        if cost and not call.done:
            self._channel.consumed(call, cost)

    async def end(self, exc: BaseException | None = None) -> None:
        """End the driver's generator, even while a task waits for an item.

        A checkpoint if there is anything to end.

        Args:
            exc: The exception that ends it. It gets a note if the driver's code runs on.
        """
        self._state = _OVER
        if self._call is not None:
            self._call.items.clear()
            await self._call.cancel(exc)

    async def aclose(self) -> None:
        """End the driver's generator if it has not ended; its `finally` has run when this returns.

        A checkpoint, shielded for at most `cancel_grace` seconds. Items not taken are lost.

        Raises:
            trio.BusyResourceError: Another task is waiting for an item: cancel that one.
        """
        self._check_not_busy()
        await self.end()
        await trio.lowlevel.checkpoint()

    def close_soon(self) -> None:
        """Schedule the generator's end without waiting. In any thread; for finalizers."""
        self._state = _OVER
        if self._call is not None and self.running:
            self._channel.ask_to_end_soon(self._call)

    async def __aenter__(self) -> Self:
        self._check_not_busy()
        self._busy = True
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            if self._state is not _OVER:
                await self._start()
        finally:
            self._busy = False
        return self

    async def __aexit__(self, _type: object, exc: BaseException | None, _tb: object) -> None:
        await self.end(exc)

    def __del__(self) -> None:
        self.close_soon()
