"""How blocking code runs what its client does in the Trio loop, and for how long.

`timeout` sets a context variable, so its deadline also holds for the calls that methods of client
classes make, and for no other thread.
"""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import (
    AbstractAsyncContextManager,
    asynccontextmanager,
    contextmanager,
    suppress,
)
from contextvars import ContextVar
from typing import Any, Final, NamedTuple, Protocol, TypeVar

import trio

from .. import _stepping
from .._io import leading, passive_wait
from .._io.portal import BlockingPortal, in_trio_thread
from .._io.portal_job import stay_at_exit
from .._protocol.receive_buffer import Body
from ..errors import CallRefused, Code, DriverTimeoutError
from ._channel import Channel
from ._outgoing_call import OutgoingCall, OutgoingCallState, Request
from ._remote import DriverRef

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["BlockingRunner", "limited", "portal_for", "runner_for", "time_limit"]

T = TypeVar("T")

_ENDED: Final = OutgoingCallState.ENDED
_INFINITE: Final = math.inf


class _TimeLimit(NamedTuple):
    """The timeout of the surrounding `timeout` blocks that ends first.

    Attributes:
        until: When it ends, in `time.monotonic` seconds.
        seconds: The argument of its block.
    """

    until: float
    seconds: float

    def left(self) -> float:
        """Return the seconds that are left."""
        return self.until if self.until == math.inf else self.until - time.monotonic()

    def error(self, step: str, context: str) -> DriverTimeoutError:
        """Make the error that names the step that timed out."""
        text = f"the surrounding timeout() of {self.seconds:g} s ran out during {step}"
        return DriverTimeoutError(text, code=Code.DEADLINE_EXCEEDED, context=context)


_NO_LIMIT: Final = _TimeLimit(math.inf, math.inf)
_limit: ContextVar[_TimeLimit] = ContextVar("jumpstarter_time_limit", default=_NO_LIMIT)


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Limit the blocking calls of this context, within the block. Never extends an outer limit."""
    mine = _TimeLimit(time.monotonic() + seconds, seconds)
    token = _limit.set(min(_limit.get(), mine))
    try:
        yield
    finally:
        _limit.reset(token)


class BlockingRunner:
    """Runs the steps of one request in the client's loop, for blocking code.

    Each step ends when the calling code's `timeout` does. May be used from any thread that runs no
    Trio loop.
    """

    __slots__ = ("_channel", "_portal", "_request")

    def __init__(self, portal: BlockingPortal, request: Request, channel: Channel) -> None:
        self._portal = portal
        self._request = request
        self._channel = channel

    def run(self, step: str, function: Callable[..., Any], *args: Any) -> Any:
        """Run `await function(*args)` in the loop, and block until it has ended.

        Args:
            step: The step's name in the error of a timeout, such as `"the call"`.
            function: An async function.
            args: Its arguments.

        Raises:
            CallRefused: The client was closed.
            DriverTimeoutError: The time ran out.
            RuntimeError: This thread is in the middle of another call, or the portal is closed.
        """
        if self._channel.closed:
            raise CallRefused("not sent: the client was closed", context=self._request.context)
        if self._channel.connection.ownership.held_here():
            text = "a finalizer made a blocking call while its thread was in the middle of another"
            raise RuntimeError(f"{text}, which would deadlock: {self._request.context}")
        return self._run_in_time(step, function, *args)

    def _run_in_time(self, step: str, function: Callable[..., Any], *args: Any) -> Any:
        limit = _limit.get()
        if limit.until == math.inf:
            return self._portal.call_in_trio(function, *args)
        return self._portal.call_in_trio(
            _within, limit, step, self._request.context, function, args
        )

    def on_stream(self, step: str) -> str:
        """Name a step that is done on the request's stream."""
        return f"{step} on stream {self._request.method!r}"

    def permits(self) -> bool:
        """Return True if `run` would start a step: the client is open, and time is left."""
        return not self._channel.closed and _limit.get().left() > 0

    @property
    def may_lead(self) -> bool:
        """True if this thread may do a step itself: it `permits`, and the portal is open.

        In a forked child the portal is closed, and the lock may be held by a thread of the parent.
        A thread that runs a Trio loop does no step: `run` refuses it. In the portal's own loop a
        finalizer would otherwise wait for the lock that this loop holds, or for its own reading.
        """
        if self._portal.closed or (_stepping.has_async_hooks() and in_trio_thread()):
            return False
        return self.permits()

    @property
    def refuses(self) -> bool:
        """True if `run` raises RuntimeError here, before it starts a step."""
        in_a_call = self._channel.connection.ownership.held_here()
        return self._portal.closed or in_a_call or in_trio_thread()

    def left(self) -> float:
        """Return the seconds that are left of the surrounding `timeout`."""
        return _limit.get().left()

    def call(self, decode: Callable[[Body], Any] | None = None) -> Any:
        """Make a plain call, and return its result, decoded as by `OutgoingCall.result`.

        The calling thread makes it itself if it can; otherwise the call is made in the loop.
        """
        channel = self._channel
        limit = _limit.get()
        seconds = _INFINITE if limit is _NO_LIMIT else limit.left()
        if self._portal.closed or seconds <= 0:
            return self._call_in_loop(decode)
        call = OutgoingCall(channel, self._request)
        try:
            if not leading.begin(channel.connection, call, channel.start, seconds):
                return self._call_in_loop(decode)
            if call.baton is not None:
                passive_wait.wait(call, seconds)
                if self._portal.exiting:
                    stay_at_exit()
            if call.state is not _ENDED or (seconds != _INFINITE and _is_timeout(call)):
                return self._go_on(call, decode)
        except BaseException as exc:
            if call.slot and not call.done:
                self.abandon(channel.cancel, call, exc)
            raise
        return call.result(decode)

    def _call_in_loop(self, decode: Callable[[Body], Any] | None) -> Any:
        return self.run("the call", self._channel.call_as, self._request, decode)

    def _go_on(self, call: OutgoingCall, decode: Callable[[Body], Any] | None) -> Any:
        """Wait in the loop for a call that was sent; closing the client ends the wait."""
        try:
            return self._run_in_time("the call", self._channel.go_on, call, decode)
        except RuntimeError:
            if not (self._portal.closed and call.done):
                raise
            return call.result(decode)

    def abandon(self, function: Callable[..., Any], *args: Any) -> None:
        """Let the loop clean up after an exception of a signal handler; wait within the grace.

        Args:
            function: An async function.
            args: Its arguments.
        """
        # A second signal's exception is lost here, since the caller raises the first one.
        with suppress(RuntimeError, TimeoutError, CancelledError):
            future = self._portal.start_task_soon(function, *args)
            future.result(self._portal.grace)


def _is_timeout(call: OutgoingCall) -> bool:
    return isinstance(call.failure, DriverTimeoutError)


def limited(
    manager: AbstractAsyncContextManager[T], step: str, context: str = ""
) -> AbstractAsyncContextManager[T]:
    """Limit entering and leaving a block by the surrounding `timeout`, but not the block's body."""
    limit = _limit.get()
    return manager if limit.until == math.inf else _limited(manager, limit, step, context)


@asynccontextmanager
async def _limited(
    manager: AbstractAsyncContextManager[T], limit: _TimeLimit, step: str, context: str
) -> AsyncIterator[T]:
    with trio.CancelScope(deadline=trio.current_time() + limit.left()) as scope:
        async with manager as value:
            scope.deadline = math.inf
            try:
                yield value
            finally:
                scope.deadline = trio.current_time() + limit.left()
    if scope.cancelled_caught:
        raise limit.error(step, context)


async def _within(
    limit: _TimeLimit,
    step: str,
    context: str,
    function: Callable[..., Any],
    args: tuple[Any, ...],
) -> Any:
    notes: list[str] = []
    with trio.move_on_after(max(0, limit.left())):
        try:
            return await function(*args)
        except trio.Cancelled as exc:
            # A note says that the driver's code had not ended within the grace.
            notes = getattr(exc, "__notes__", [])
            raise
    error = limit.error(step, context)
    for note in notes:
        error.add_note(note)
    raise error


# ------------------------------------------------------------------ what a client can run on


class _Client(Protocol):
    """The part of a client that these functions use."""

    channel: DriverRef
    portal: BlockingPortal | None


def runner_for(client: _Client, method: str, request: Request, twin: str = "") -> BlockingRunner:
    """Return the runner of a request's steps, for blocking code.

    Args:
        client: The client.
        method: Name of the client's method, for the error.
        request: The request.
        twin: Name of the Trio variant of the method, if it is not the name with `_async`.

    Raises:
        RuntimeError: The client is for Trio code, or this thread runs a Trio loop.
    """
    portal = client.portal
    # `in_trio_thread` looks for the hooks, too: here that saves each call a Python frame.
    if portal is None or (_stepping.has_async_hooks() and in_trio_thread()):
        portal = portal_for(client, f"{type(client).__name__}.{method}", twin or f"{method}_async")
    return BlockingRunner(portal, request, client.channel.channel)


def portal_for(client: _Client, what: str, twin: str) -> BlockingPortal:
    """Return the client's portal, for blocking functions.

    Raises:
        RuntimeError: The client is for Trio code, or this thread runs a Trio loop.
    """
    portal = client.portal
    if portal is None:
        text = f"{what} blocks, and this client was connected for Trio code"
        raise RuntimeError(f"{text}; use {twin} instead")
    if in_trio_thread():
        text = f"{what} blocks, and would block the Trio loop that runs in this thread"
        raise RuntimeError(
            f"{text}; use {twin} of a client for Trio code, which connect_async() or, in tests, "
            "client_for_async() gives; or call this in a worker thread"
        )
    return portal
