"""A driver's generator, as an async iterator for Trio code.

Its items wait in the slot's handler until they are requested. Credit is returned as they are taken,
so the window bounds how many wait. However an iteration ends, the driver's generator is ended too.

States of a `RemoteGenerator`. The task or thread that iterates owns it; `end` and `close_soon` may
come from another task, or from a finalizer in any thread:

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
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, Self

import trio

from .._io import leading, passive_wait
from .._protocol import events as ev
from .._protocol.receive_buffer import Body
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

_STEPS_PER_TURN: Final = 32  # of those that need not wait, one lets other tasks have their turn


class _GeneratorState(enum.Enum):
    """Where a `RemoteGenerator` is; the module's docstring has the table."""

    NEW = enum.auto()
    OPEN = enum.auto()
    OVER = enum.auto()


_NEW: Final = _GeneratorState.NEW
_OPEN: Final = _GeneratorState.OPEN
_OVER: Final = _GeneratorState.OVER


class _GeneratorCall(OutgoingCall):
    """The call of a generator. Its items wait here until they are requested.

    Attributes:
        items: What has arrived and was not taken.
        fetched: Bytes of items that blocking code has taken, whose credit is to be returned.
        sink: Where a thread collects items, encoded; None if a task takes them.
    """

    __slots__ = ("fetched", "items", "sink")

    def __init__(self, channel: Channel, request: Request) -> None:
        super().__init__(channel, request)
        self.items: deque[ev.ItemReceived] = deque()
        self.fetched: int = 0
        self.sink: deque[Body] | None = None

    @property
    def may_be_there(self) -> bool:
        """See `leading.Awaited`."""
        return True

    def collect(self) -> bool:
        """Move all items to the sink, if there is one; True if there are, or will be none."""
        if self.sink is not None:
            for item in self.items:
                self.fetched += item.cost
                self.sink.append(item.body)
            self.items.clear()
        return bool(self.sink) or self.done or self.has_failed

    def received(self, event: ev.SlotEvent) -> None:
        """Keep an item, or end the generator. With the lock."""
        if isinstance(event, ev.ItemReceived):  # a class pattern costs several times as much
            if not self.has_failed:  # after a dropped item, no other may be returned
                self.items.append(event)
                self._wake()
        elif isinstance(event, ev.MessageDropped) and not event.terminal:
            self._failure = DriverError(event.reason, context=self.context)
            self._wake()
        else:
            super().received(event)

    def _end(self, failure: DriverError | None) -> None:
        if self._failure is not None:  # an item was dropped before
            failure, self.error = self._failure, None
        super()._end(failure)

    async def wait_ready(self) -> None:
        """Wait for an item, or the end."""
        lock = self.channel.connection.lock
        while True:
            with lock:
                if self.items or self.done or self.has_failed:
                    return
                waiter = self.next_wakeup()
            await waiter.wait()


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

    # From the moment when its CALL is sent. A signal handler may raise before `__init__` has begun,
    # and `__del__` needs it even then.
    _call: _GeneratorCall | None = None

    def __init__(
        self,
        channel: Channel,
        request: Request,
        decode: Callable[[Body], T] | None = None,
    ) -> None:
        self._channel = channel
        self._request = request
        self._decode = channel.decode if decode is None else decode
        self._state = _NEW
        self._busy = False
        self._steps = 0
        self.value: Any = None

    @property
    def running(self) -> bool:
        """True while the driver's generator may run: it was started and has not ended."""
        return self._call is not None and not self._call.done

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        """Return the next item. If cancelled, it ends the generator.

        A checkpoint for the first item, if it must wait, and for one in 32 of the items that have
        arrived already.

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

    def decode(self, body: Body) -> T:
        """Decode an item. In any thread.

        Raises:
            DriverError: It cannot be decoded, and the caller is to end the generator.
        """
        try:
            return self._decode(body)
        except ArgumentError as exc:
            raise DriverError(f"its item: {exc}", context=self._request.context) from exc

    async def fetch(self) -> list[Body]:
        """Return all items that have arrived, still encoded.

        For blocking code: one step through the portal costs as much as many items. A checkpoint if
        it must wait. If cancelled, it ends the generator; raises as `__anext__` does. Credit for
        these items is returned with the next call, since only then the caller has read them.
        """
        return await self._receive(self._take_all)

    async def _receive(self, take: Callable[[_GeneratorCall], Taken]) -> Taken:
        with self._channel.connection.lock:  # a thread may be about to iterate
            self._check_not_busy()
            is_over = self._state is _OVER
            self._busy = not is_over
        if is_over:
            await trio.lowlevel.checkpoint()
            raise StopAsyncIteration
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            call = await self._start()
            if call.fetched:
                self._give_back(call)
            self._steps += 1
            if call.items and self._steps % _STEPS_PER_TURN == 0:
                await trio.lowlevel.checkpoint()
            if not call.items:  # or another task has just ended it, and discarded them
                await call.wait_ready()
            if call.items:
                return take(call)
            self._finish(call)
        except BaseException as exc:
            await self.end(exc)
            raise
        finally:
            self._busy = False
        raise StopAsyncIteration

    def _finish(self, call: _GeneratorCall) -> None:
        """End the iteration: raise the failure, or store what the generator returned."""
        failure = call.failure
        if failure is not None:
            raise failure
        self._state = _OVER
        self.value = call.result(self._channel.decode)

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
            if call.items or call.done or call.has_failed:  # which a thread has read since then
                await trio.lowlevel.cancel_shielded_checkpoint()
        return self._call

    def _take(self, call: _GeneratorCall) -> Body:
        item = call.items.popleft()
        self._channel.consumed(call, item.cost)
        return item.body

    def _take_all(self, call: _GeneratorCall) -> list[Body]:
        sink = call.sink = deque()
        with self._channel.connection.lock:
            call.collect()
        call.sink = None
        return list(sink)

    def _give_back(self, call: _GeneratorCall) -> None:
        """Return the credit for the items that were fetched before."""
        cost, call.fetched = call.fetched, 0
        self._channel.consumed(call, cost)

    def fetch_in_thread(self, sink: deque[Body], seconds: float) -> bool:
        """Append all items that have arrived to `sink`; wait for one if there are none.

        For a thread that runs no loop.

        Args:
            sink: Where the items go, still encoded.
            seconds: How long to wait.

        Returns:
            True if there are items. False if `fetch` must go on: after a timeout, too.

        Raises:
            StopAsyncIteration: The driver's generator has ended.
            trio.BusyResourceError: Another thread or task is iterating.
            DriverError: The call could not be sent, or has failed.
            BaseException: Raised by a signal handler; the caller then ends the generator.
        """
        if self._state is _OVER:
            raise StopAsyncIteration
        call = self._call or _GeneratorCall(self._channel, self._request)
        connection = self._channel.connection
        turn: list[bool] = []  # not empty once this thread is the one that iterates
        try:
            start = partial(self._start_fetch, sink, turn)
            if leading.begin(connection, call, start, seconds):
                if call.baton is not None:
                    passive_wait.wait(call, seconds)
                    leading.collect(connection, call)
            elif not (turn and call.done):  # else it had ended, and nothing was left to take
                return False
        finally:
            if turn:
                call.sink = None
                self._busy = False
        if not sink and call.done:
            self._state = _OVER
            self._finish(call)
            raise StopAsyncIteration
        return bool(sink)

    def _start_fetch(
        self, sink: deque[Body], turn: list[bool], call: _GeneratorCall, seconds: float
    ) -> bool:
        """Send the CALL, or the credit for the items fetched before. With the lock, in a thread."""
        self._check_not_busy()
        self._busy = True
        turn.append(True)
        call.sink = sink
        channel = self._channel
        if self._call is None:
            if self._state is not _NEW or not channel.start(call, seconds):
                return False
            self._call = call
            self._state = _OPEN
        elif self._call is not call or (not call.items and (call.done or call.has_failed)):
            return False  # another thread has sent it meanwhile, or it is over
        elif not call.done:
            cost, call.fetched = call.fetched, 0
            if cost:
                channel.give_credit(call, cost)
        return True

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
        with self._channel.connection.lock:
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
