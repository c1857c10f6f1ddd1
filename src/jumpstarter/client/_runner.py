"""How blocking code has its requests run, and for how long.

The deadline of a `timeout` block is a context variable: it holds for what a client class calls in
turn, and for no other thread.
"""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import CancelledError
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from contextvars import ContextVar
from typing import Any, Final, TypeVar

import trio

from .._io.portal import BlockingPortal
from ..errors import CallRefused, Code, DriverTimeoutError
from ._channel import Channel, OutgoingCall, Request
from ._streams import BlockingRunner

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["Runner", "deadline", "timed"]

T = TypeVar("T")

_TOO_LONG: Final = "it took longer than the surrounding timeout() allows"

# When blocking calls of this context time out, in `time.monotonic` seconds.
deadline: ContextVar[float] = ContextVar("jumpstarter_deadline", default=math.inf)


class Runner(BlockingRunner):
    """Runs coroutines for one request of blocking code, within that code's timeouts."""

    def __init__(self, portal: BlockingPortal, request: Request, channel: Channel) -> None:
        self._portal = portal
        self._request = request
        self._channel = channel

    def __call__(self, function: Callable[..., Any], *args: Any) -> Any:
        if self._channel.closed:
            raise CallRefused("not sent: the client was closed", context=self._request.context)
        if self._channel.connection.led_from_here():
            text = "a blocking call by a finalizer that runs in the midst of another one"
            raise RuntimeError(f"{text} would wait for it for ever: {self._request.context}")
        return self._in_time(function, *args)

    def _in_time(self, function: Callable[..., Any], *args: Any) -> Any:
        seconds = _seconds_left()
        if seconds == math.inf:
            return self._portal.call(function, *args)
        return self._portal.call(_within, seconds, self._request.context, function, args)

    def permits(self) -> bool:
        return not self._channel.closed and _seconds_left() > 0

    def call(self) -> Any:
        """Make a plain call: from this thread if it can lead, else in the loop."""
        channel = self._channel
        seconds = _seconds_left()
        if self._portal.closed or seconds <= 0:
            return self(channel.call, self._request)
        call = OutgoingCall(channel, self._request)
        try:
            if not channel.lead(call, seconds):
                return self(channel.call, self._request)
            if not call.done or isinstance(call.failure, DriverTimeoutError):
                return self._go_on(call)
        except BaseException as exc:
            self._abandon(call, exc)
            raise
        return call.result(channel.decode)

    def _go_on(self, call: OutgoingCall) -> Any:
        """Wait in the loop for a call that was sent; who closes the client ends it as others."""
        try:
            return self._in_time(self._channel.go_on, call)
        except RuntimeError:
            if not (self._portal.closed and call.done):
                raise
        return call.result(self._channel.decode)

    def _abandon(self, call: OutgoingCall, exc: BaseException) -> None:
        """Cancel a call that a signal has interrupted, and wait for its end within the grace."""
        if call.slot and not call.done:
            # One of a second signal's handler is lost here; `exc` of the first one is raised.
            with suppress(RuntimeError, TimeoutError, CancelledError):
                future = self._portal.start_task_soon(self._channel.cancel, call, exc)
                future.result(self._portal.grace)


def _seconds_left() -> float:
    """Give the time until blocking calls of this context are to end."""
    until = deadline.get()
    return math.inf if until == math.inf else until - time.monotonic()


def timed(manager: AbstractAsyncContextManager[T], context: str) -> AbstractAsyncContextManager[T]:
    """Bound the entering and leaving of a block by the timeout that it is in; not what is in it."""
    until = deadline.get()
    return manager if until == math.inf else _hurried(manager, until, context)


@asynccontextmanager
async def _hurried(
    manager: AbstractAsyncContextManager[T], until: float, context: str
) -> AsyncIterator[T]:
    with trio.CancelScope(deadline=trio.current_time() + until - time.monotonic()) as scope:
        async with manager as value:
            scope.deadline = math.inf
            try:
                yield value
            finally:
                scope.deadline = trio.current_time() + until - time.monotonic()
    if scope.cancelled_caught:
        raise DriverTimeoutError(_TOO_LONG, code=Code.DEADLINE_EXCEEDED, context=context)


async def _within(
    seconds: float, context: str, function: Callable[..., Any], args: tuple[Any, ...]
) -> Any:
    notes: list[str] = []
    with trio.move_on_after(max(0, seconds)):
        try:
            return await function(*args)
        except trio.Cancelled as exc:  # which says if the driver's code is still at it
            notes = getattr(exc, "__notes__", [])
            raise
    error = DriverTimeoutError(_TOO_LONG, code=Code.DEADLINE_EXCEEDED, context=context)
    for note in notes:
        error.add_note(note)
    raise error
