"""The calling side of one connection, for Trio code.

Each call, generator and raw stream has an `OutgoingCall` as the handler of its slot. It ends in one
of three ways: answered, refused (it certainly never started) or unknown (it was sent, and the
connection ended). Cancelling one tells the exporter, and waits, shielded, until the exporter says
that the driver's code has ended, for at most `cancel_grace` seconds. Nothing is ever sent twice.

Only the loop that runs the connection may use it, except while a blocking call leads it from its
own thread (`_lead`). Each method here that uses the connection's rules takes the connection back
first, with `reclaim()`.

This module knows neither clients nor the device tree: targets are numbers.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any, Final, Protocol, TypeVar

import trio

from .._io.current_lane import Lane
from .._io.transport import transport_for
from .._limits import DEFAULT_LIMITS, Limits
from .._protocol import events as ev
from .._protocol.client import ClientProtocol
from .._protocol.codec import decode_value
from .._protocol.frames import Hello
from .._util.text import sanitize_text
from .._util.wakeup import LazyEvent
from .._version import __version__
from ..errors import (
    ArgumentError,
    CallRefused,
    Code,
    DriverInvalidArgument,
    DriverTimeoutError,
    HandshakeError,
)
from ._lead import LeadConnection
from ._loop import lane_of_loop
from ._outgoing_call import OutgoingCall, Request
from ._slot_queue import SlotQueue

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["Channel", "StreamWatcher"]

T = TypeVar("T")

AGENT: Final = f"jumpstarter/{__version__}"
_MAX_TIMEOUT_MS: Final = 2**32 - 1
_QUICK: Final = 0.002  # seconds: leading the connection gains nothing for a call that takes longer


class StreamWatcher(Protocol):
    """Is shown the bytes of a raw stream, in the loop of the connection. It must not wait."""

    def received(self, data: bytes) -> None:
        """Take bytes that the driver has sent."""
        ...

    def sent(self, data: bytes) -> None:
        """Take bytes that this side has sent."""
        ...


class Channel:
    """One connection to an exporter, as its client.

    Only for the Trio loop that runs it, except `lead`, `decode` and `ask_to_end_soon`.
    Any number of tasks may call concurrently; those beyond the exporter's `max_calls` wait for a
    slot, in order.

    Attributes:
        limits: What this side accepts of the exporter.
        name: How errors and logs name the exporter.
        connection: The connection, for the streams on it.
        token: The token of the Trio loop that runs the connection.
        reopen: Opens another connection to the exporter, for the length of a block; None if this
            one was made of a stream.
        watch: Returns a watcher, or None, for a raw stream that is about to be opened; or None.
        session: The key of the session at an exporter in exclusive use, if there is one.
    """

    def __init__(
        self,
        stream: trio.abc.Stream,
        name: str,
        *,
        limits: Limits = DEFAULT_LIMITS,
        token: str = "",
        own_name: str = "",
    ) -> None:
        self.limits: Limits = limits
        self.name: str = name
        hello = Hello.of(limits, agent=AGENT, token=token, name=own_name)
        self._rules = ClientProtocol(limits, hello)
        self.connection: LeadConnection = LeadConnection(
            transport_for(stream), self._rules, self, name
        )
        self._greeted = LazyEvent()
        self._closing = False
        self._slots = SlotQueue(self._rules, self.connection)
        self.token: trio.lowlevel.TrioToken = trio.lowlevel.current_trio_token()
        self.reopen: Callable[[], AbstractAsyncContextManager[Channel]] | None = None
        self.watch: Callable[[Request], StreamWatcher | None] | None = None
        self.session: str | None = None

    # -------------------------------------------------------------------------------- life

    async def begin(self, nursery: trio.Nursery) -> None:
        """Run the connection in a nursery; return once both HELLOs were exchanged.

        A checkpoint. The task that runs the connection raises nothing.

        Raises:
            HandshakeError: The peer is not a jumpstarter exporter, refused us, or disconnected.
        """
        nursery.start_soon(self.connection.run)
        self.connection.writer.flush()
        await self._greeted.wait()
        failure = self.connection.ended
        if isinstance(failure, HandshakeError):
            raise failure
        if failure is not None:
            raise HandshakeError(str(failure)) from failure

    async def aclose(self) -> None:
        """Cancel the calls under way, wait for their end within the grace, and disconnect.

        A checkpoint that is not cancelled. Later calls are refused.
        """
        self._closing = True
        with trio.CancelScope(shield=True):
            await self.connection.reclaim()
            if self.connection.handlers:
                await self._cancel_all()
            self.connection.end(ConnectionError("the client was closed"))
            await self.connection.finished.wait()

    async def _cancel_all(self) -> None:
        async with trio.open_nursery() as nursery:
            for handler in list(self.connection.handlers.values()):
                if isinstance(handler, OutgoingCall):
                    nursery.start_soon(handler.cancel)

    @property
    def ended(self) -> Exception | None:
        """Why the connection has ended; None while it has not."""
        return self.connection.ended

    @property
    def closed(self) -> bool:
        """True once this side has closed it, and sends nothing more."""
        return self._closing

    def check_loop(self, client: str, method: str) -> Lane | None:
        """Raise an error unless the current thread runs the Trio loop of this connection.

        Args:
            client: Name of the client's class.
            method: Name of the method that was called.

        Returns:
            The asyncio lane that runs the calling code, if it belongs to that loop; otherwise None.

        Raises:
            RuntimeError: No Trio loop runs here, or another one does.
        """
        return lane_of_loop(self.token, client, method)

    # ----------------------------------------------------------------- for the connection

    def on_hello(self, hello: Hello) -> None:
        """Let `begin` return: both HELLOs were exchanged."""
        del hello
        self._greeted.set()

    def on_call(self, event: ev.CallReceived) -> None:
        """Fail: the protocol's rules refuse a CALL from a server before it gets here."""
        raise AssertionError(event)

    def on_slot_free(self) -> None:
        """Wake the task that waits longest for a slot; all of them if the connection has ended."""
        if self.connection.ended is not None or self._rules.going_away:
            self._greeted.set()
        self._slots.wake_next()

    # ------------------------------------------------------------------------------ calls

    def call(self, request: Request) -> Awaitable[Any]:
        """Make a call and return its decoded result.

        A checkpoint. If it is cancelled before the call was sent, nothing is sent. If it is
        cancelled later, it waits until the driver's code has ended, for at most `cancel_grace`
        seconds.

        Raises:
            DriverError: The call failed; see its subclasses.
        """
        return self.call_as(request, self.decode)

    async def call_as(self, request: Request, decode: Callable[[bytes], T]) -> T:
        """Make a call and return its result, decoded by `decode`, which may raise ArgumentError.

        Otherwise as `call`.
        """
        call = OutgoingCall(self, request)
        if self.connection.handlers:
            await self.open(call)
            return await self.answer(call, decode)
        if self.connection.is_leased and await self._lead_here(call):
            if call.done and call.failure is None:
                return call.result(decode)
            return await self.answer(call, decode)
        began = trio.current_time()
        await self.open(call)
        value = await self.answer(call, decode)
        if trio.current_time() < began + _QUICK:
            await self.connection.offer()
        return value

    async def answer(self, call: OutgoingCall, decode: Callable[[bytes], T]) -> T:
        """Wait for a call that was sent, and return its result."""
        try:
            await call.wait()
            if isinstance(call.failure, DriverTimeoutError):
                await self._let_deadline_pass(call.failure)
        except BaseException as exc:
            await call.cancel(exc)
            raise
        return call.result(decode)

    async def _lead_here(self, call: OutgoingCall) -> bool:
        """Make a call from the task that waits for it. See `LeadConnection.lead_here`."""
        await trio.lowlevel.checkpoint_if_cancelled()  # this also raises a pending Ctrl-C
        seconds = _seconds_left()
        try:
            return await self.connection.lead_here(call, self._start, seconds)
        except BaseException as exc:
            await call.cancel(exc)
            raise

    def lead(self, call: OutgoingCall, seconds: float) -> bool:
        """Make a call from the thread that waits for it. See `LeadConnection.lead`.

        Args:
            call: The call, not sent yet.
            seconds: How long the driver may take.
        """
        return self.connection.lead(call, self._start, seconds)

    async def go_on(self, call: OutgoingCall, decode: Callable[[bytes], T]) -> T:
        """Wait for a call that a thread has led, and return its result."""
        await self._take_over()
        return await self.answer(call, decode)

    async def cancel(self, call: OutgoingCall, exc: BaseException) -> None:
        """Cancel a call that a thread has led. See `OutgoingCall.cancel`."""
        await self._take_over()
        await call.cancel(exc)

    async def _take_over(self) -> None:
        # Shielded: the thread is giving the connection back already, so this is short.
        with trio.CancelScope(shield=True):
            await self.connection.reclaim()

    async def _let_deadline_pass(self, failure: DriverTimeoutError) -> None:
        """Wait for our own deadline, after the exporter has reached it slightly earlier.

        So the caller gets the exception of its own cancel scope, no matter which side was faster.
        """
        if failure.code is Code.DEADLINE_EXCEEDED:
            await trio.sleep_until(min(trio.current_effective_deadline(), trio.current_time() + 1))

    # ------------------------------------------------------------------------------ values

    def decode(self, body: bytes) -> Any:
        """Decode a value that the exporter has sent. In any thread."""
        return decode_value(body, self.limits)

    # ----------------------------------------------------------------------- sending calls

    async def open(self, call: OutgoingCall) -> None:
        """Send a call, once it has a slot. A checkpoint if it must wait for one.

        Raises:
            DriverError: It was not sent, and nothing has changed.
        """
        if self.connection.is_leased:
            await self.connection.reclaim()
        await trio.lowlevel.checkpoint_if_cancelled()
        seconds = _seconds_left()
        while not self._slots.has_free_slot:  # again, if a thread that leads was faster
            self._check_open(call.request)
            self._check_size(call.request)
            await self._slots.wait(call.request)
            seconds = _seconds_left()
        self._start(call, seconds)
        self.connection.writer.flush()

    def _start(self, call: OutgoingCall, seconds: float) -> None:
        """Assign a slot to a call, and queue its frame.

        Raises:
            DriverError: It was not queued, and nothing has changed.
        """
        request = call.request
        self._check_open(request)
        if seconds != math.inf:
            request.set_timeout(math.ceil(min(max(1, seconds * 1000), _MAX_TIMEOUT_MS)))
        try:
            call.opened(self._rules.call(request.kind, request.buffer))
        except ArgumentError as exc:
            raise DriverInvalidArgument(str(exc), context=request.context) from exc
        self.connection.handlers[call.slot] = call

    def _check_open(self, request: Request) -> None:
        if self._closing or self._rules.going_away or self.connection.ended is not None:
            raise CallRefused(f"not sent: {self._why_not()}", context=request.context)

    def _check_size(self, request: Request) -> None:
        try:
            self._rules.check_size(request.buffer)
        except ArgumentError as exc:
            raise DriverInvalidArgument(str(exc), context=request.context) from exc

    def _why_not(self) -> str:
        if self._closing:
            return "the client was closed"
        if self.connection.ended is not None:
            return str(self.connection.ended)
        goaway = self.connection.goaway
        why = "" if goaway is None else f" ({sanitize_text(goaway.goaway.text)})"
        return f"{self.name} takes no more calls{why}"

    # ------------------------------------------------------------------ for calls under way

    def ask_to_end(self, call: OutgoingCall, code: Code) -> bool:
        """Send CANCEL. Return False if the call was not sent yet, so that no answer will come."""
        if self.connection.ended is not None:
            return False
        asked = self._rules.cancel(call.slot, code)
        if not asked:
            # The rules have removed the unsent CALL, so the slot is free now. The handler goes
            # first: the task that gets the slot next registers its own.
            del self.connection.handlers[call.slot]
            call.taken_back()
            self.on_slot_free()
        self.connection.writer.flush()
        return asked

    def consumed(self, call: OutgoingCall, cost: int) -> None:
        """Give credit back for an item that was taken."""
        if self._rules.consume(call.slot, cost):
            self.connection.writer.flush()

    def ask_to_end_soon(self, call: OutgoingCall) -> None:
        """Schedule a CANCEL without waiting. In any thread; for finalizers."""

        def ask() -> None:
            if not call.done:
                self.ask_to_end(call, Code.CANCELLED)

        with suppress(trio.RunFinishedError):  # the loop is gone, and the connection with it
            self.token.run_sync_soon(ask)


def _seconds_left() -> float:
    """Return the time until the deadline of the task's scopes; -inf if it is cancelled."""
    deadline = trio.current_effective_deadline()
    return deadline if math.isinf(deadline) else deadline - trio.current_time()
