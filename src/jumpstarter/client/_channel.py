"""The calling side of one connection, for Trio code: calls, and what generators and streams share.

Each has a `Call` as the endpoint of its slot, and ends in one of three ways: answered, refused
(certainly never started) or unknown (sent, and the connection ended). Cancelling one tells the
exporter and waits, shielded, for its word that the driver's code has ended, at most `cancel_grace`
seconds. Nothing is ever sent twice. This file knows no clients and no device tree: targets are
numbers.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final, TypeVar

import trio

from .._io.transport import transport_for
from .._limits import DEFAULT_LIMITS, Limits
from .._protocol import events as ev
from .._protocol.client import ClientProtocol
from .._protocol.codec import call_prefix, decode_error, decode_value, encode_call, set_timeout
from .._protocol.error_codec import exception_from_wire
from .._protocol.frames import Hello, Kind
from .._protocol.values import check_type, convert
from .._util.reentrancy import CallOrigin, call_origin
from .._util.text import sanitize_text
from .._util.tracebacks import bare
from .._util.wakeup import LazyEvent, LazyParkingLot, Wakeup
from .._version import __version__
from ..errors import (
    ArgumentError,
    CallOutcomeUnknown,
    CallRefused,
    Code,
    DriverError,
    DriverInvalidArgument,
    DriverTimeoutError,
    HandshakeError,
)
from ._lead import LeadConnection

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["Channel", "OutgoingCall", "Request"]

T = TypeVar("T")

_logger = logging.getLogger("jumpstarter.client")

AGENT: Final = f"jumpstarter/{__version__}"
_MAX_TIMEOUT_MS: Final = 2**32 - 1
_QUICK: Final = 0.002  # seconds: by leading a call that takes longer, nobody gains anything
_NOT_NESTED: Final = CallOrigin.NONE


class Request:
    """What to call, of whom, with what: encoded once, when it is made, by whoever makes it.

    Args:
        target: Address of the driver.
        kind: How to call it.
        method: Name of the exported method.
        args: Positional arguments.
        kwargs: Keyword arguments.
        who: How messages name the driver.

    Raises:
        DriverInvalidArgument: An argument cannot be encoded; nothing was sent.
    """

    __slots__ = ("_method", "_who", "buffer", "kind", "nested")

    def __init__(
        self,
        target: int,
        kind: Kind,
        method: str,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        *,
        who: str,
    ) -> None:
        self.kind: Kind = kind
        self.nested: bool = call_origin.get() is not _NOT_NESTED
        self._method = method
        self._who = who
        try:
            prefix = call_prefix(target, kind, method, keywords=bool(kwargs), nested=self.nested)
            self.buffer: bytearray = encode_call(prefix, (*args, kwargs) if kwargs else args)
        except ArgumentError as exc:
            text = f"an argument cannot be sent: {exc}"
            raise DriverInvalidArgument(text, context=self.context) from bare(exc)

    @property
    def context(self) -> str:
        """What messages call it; put together only where there is one."""
        return f"method {self._method!r} of {self._who}"

    def set_timeout(self, milliseconds: int) -> None:
        """Say how long the driver may take. For a request that was not sent yet."""
        set_timeout(self.buffer, milliseconds)


class OutgoingCall:
    """A call under way: the endpoint of its slot, until its answer or the connection's end."""

    # What most calls never change is the class's: there are many calls, and most are short.
    slot: int = 0
    done: bool = False
    failure: DriverError | None = None
    value: bytes = b""
    _waiter: Wakeup | None = None  # for the task that has made the call, once it waits
    _ended: trio.Event | None = None  # for all others, once there is one
    _gave_up = False

    def __init__(self, channel: Channel, request: Request) -> None:
        self.channel: Channel = channel
        self.request: Request = request

    @property
    def context(self) -> str:
        """What messages call it."""
        return self.request.context

    def opened(self, slot: int) -> None:
        """It has a slot, and is about to be sent."""
        self.slot = slot

    def received(self, event: ev.SlotEvent) -> None:
        match event:
            case ev.ResultReceived():
                self.value = event.body
                self._end(None)
            case ev.ErrorReceived():
                code, body = decode_error(event.body, self.channel.limits)
                self._end(exception_from_wire(code, body, self.context))
            case ev.MessageDropped():
                self._end(DriverError(event.reason, context=self.context))

    def drained(self) -> None:
        pass

    def lost(self, reason: Exception) -> None:
        self._gave_up = False  # whether its driver has ended, nobody will tell
        self._end(CallOutcomeUnknown(f"sent, but not answered: {reason}", context=self.context))

    def _end(self, failure: DriverError | None) -> None:
        self.done = True
        self.failure = failure
        if self._gave_up:
            _logger.info("%s has ended on the exporter at last", self.context)
        if self._waiter is not None:
            self._waiter.set()
        if self._ended is not None:
            self._ended.set()

    def taken_back(self) -> None:
        """Nothing of it had been sent, and nothing will be."""
        self._end(CallRefused("taken back before it was sent", context=self.context))

    async def wait(self) -> None:
        """Wait until it is over, however it ends. For the task that has made the call."""
        while not self.done:
            await self._change()

    def _change(self) -> Awaitable[None]:
        """Wait for `_wake`. For the task that has made the call."""
        if self._waiter is None:
            self._waiter = Wakeup()
        return self._waiter.wait()

    def _wake(self) -> None:
        if self._waiter is not None:
            self._waiter.set()

    async def join(self) -> None:
        """The same for any number of tasks: whoever closes the client waits beside the caller."""
        if self.done:
            return
        if self._ended is None:
            self._ended = trio.Event()
        await self._ended.wait()

    async def cancel(self, exc: BaseException | None = None) -> None:
        """Ask the exporter to end it, and wait for the word that it has, within the grace.

        A shielded checkpoint if there is anything to wait for.

        Args:
            exc: What ends it here; gets a note if the grace passes.
        """
        if self.done or self._gave_up or not self.channel.ask_to_end(self, Code.CANCELLED):
            return  # whoever gave up has told, and waited, once
        grace = self.channel.limits.cancel_grace
        with trio.move_on_after(grace, shield=True):
            await self.join()
        if not self.done:
            text = f"{self.context}: cancelled, but its driver had not ended after {grace:g} s"
            if not self._gave_up:
                _logger.warning("%s; its slot stays busy until it has", text)
            self._gave_up = True
            if exc is not None:
                exc.add_note(text)

    def result(self, decode: Callable[[bytes], T]) -> T:
        """Give the answer, or raise the failure."""
        if self.failure is not None:
            raise self.failure
        try:
            return decode(self.value)
        except ArgumentError as exc:
            raise DriverError(f"its result: {exc}", context=self.context) from exc


class Channel:
    """One connection to an exporter, as its client.

    For the Trio loop that runs it only, but for `lead` and `decode`. Any number of tasks may call
    at once; more than the exporter's `max_calls` wait for a slot, in order.

    Attributes:
        limits: What we accept of the exporter.
        name: What the exporter is called in errors and logs.
        connection: What it runs on, for the streams on it.
        token: Of the loop that runs it.
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
        self._for_slot = LazyParkingLot()
        self._promised = 0  # free slots that belong to tasks which were woken and have yet to run
        self.token: trio.lowlevel.TrioToken = trio.lowlevel.current_trio_token()

    # -------------------------------------------------------------------------------- life

    async def begin(self, nursery: trio.Nursery) -> None:
        """Have the connection run in a nursery; returns once both HELLOs were exchanged.

        A checkpoint. The task that runs the connection raises nothing.

        Raises:
            HandshakeError: The peer is no jumpstarter, refused us, said nothing, or has gone.
        """
        nursery.start_soon(self.connection.run)
        self.connection.flush()
        await self._greeted.wait()
        failure = self.connection.ended
        if isinstance(failure, HandshakeError):
            raise failure
        if failure is not None:
            raise HandshakeError(str(failure)) from failure

    async def aclose(self) -> None:
        """Cancel what is still under way, wait for its end within the grace, and disconnect.

        A checkpoint that is not cancelled. Calls made from now on are refused.
        """
        self._closing = True
        with trio.CancelScope(shield=True):
            await self.connection.reclaim()
            if self.connection.endpoints:
                await self._cancel_all()
            self.connection.end(ConnectionError("the client was closed"))
            await self.connection.finished.wait()

    async def _cancel_all(self) -> None:
        async with trio.open_nursery() as nursery:
            for endpoint in list(self.connection.endpoints.values()):
                if isinstance(endpoint, OutgoingCall):
                    nursery.start_soon(endpoint.cancel)

    @property
    def ended(self) -> Exception | None:
        """Why the connection is over, None while it is not."""
        return self.connection.ended

    @property
    def closed(self) -> bool:
        """True once it was closed by us: nothing is sent any more."""
        return self._closing

    def check_loop(self, asked: str) -> None:
        """Refuse a Trio call from another loop than ours.

        Raises:
            RuntimeError: It is another one.
        """
        if trio.lowlevel.current_trio_token() is not self.token:
            text = f"{asked}: this client belongs to another Trio loop"
            raise RuntimeError(f"{text}; use its blocking methods from here, in a worker thread")

    # ----------------------------------------------------------------- for the connection

    def on_hello(self, hello: Hello) -> None:
        """Both HELLOs were exchanged."""
        del hello
        self._greeted.set()

    def on_call(self, event: ev.CallReceived) -> None:
        """Cannot come: the rules let no server call."""
        raise AssertionError(event)

    def on_slot_free(self) -> None:
        """A slot may be free, or the connection has ended."""
        if self.connection.ended is not None or self._rules.going_away:
            self._greeted.set()
            self._promised += len(self._for_slot)
            self._for_slot.unpark_all()
        elif self._for_slot:
            self._promised += 1
            self._for_slot.unpark()

    # ------------------------------------------------------------------------------ calls

    def call(self, request: Request) -> Awaitable[Any]:
        """Make a call and give its result, decoded.

        A checkpoint. Cancelled before it was sent, nothing is; cancelled later, the driver's code
        has ended when this returns, or `cancel_grace` has passed.

        Raises:
            DriverError: See its subclasses.
        """
        return self.call_as(request, self.decode)

    async def call_as(self, request: Request, decode: Callable[[bytes], T]) -> T:
        """The same, with a decoder of one's own, which raises ArgumentError."""
        call = OutgoingCall(self, request)
        if self.connection.endpoints:
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
        """Wait for a call that was sent, and give its result."""
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
        await trio.lowlevel.checkpoint_if_cancelled()  # Ctrl-C that waits to be raised, too
        seconds = self._seconds_left()
        try:
            return await self.connection.lead_here(call, self._start, seconds)
        except BaseException as exc:
            if call.slot:
                await call.cancel(exc)
            raise

    def lead(self, call: OutgoingCall, seconds: float) -> bool:
        """Make a call from the thread that waits for it. See `LeadConnection.lead`.

        Args:
            call: Not opened yet.
            seconds: How long the driver may take.
        """
        return self.connection.lead(call, self._start, seconds)

    async def go_on(self, call: OutgoingCall) -> Any:
        """Wait for a call that a thread has led, and give its result."""
        await self._take_over()
        return await self.answer(call, self.decode)

    async def cancel(self, call: OutgoingCall, exc: BaseException) -> None:
        """Cancel a call that a thread has led. See `Call.cancel`."""
        await self._take_over()
        await call.cancel(exc)

    async def _take_over(self) -> None:
        with trio.CancelScope(shield=True):  # not for long: it is on its way back
            await self.connection.reclaim()

    async def _let_deadline_pass(self, failure: DriverTimeoutError) -> None:
        """Let our own scope end a call whose deadline the exporter has seen a moment before us."""
        if failure.code is Code.DEADLINE_EXCEEDED:
            await trio.sleep_until(min(trio.current_effective_deadline(), trio.current_time() + 1))

    def decode(self, body: bytes) -> Any:
        """Decode a value that the exporter has sent."""
        return decode_value(body, self.limits)

    def decoder(self, type_: Any, name: str) -> Callable[[bytes], Any]:
        """Give what decodes a value as a type. In any thread.

        Args:
            type_: What the caller has asked for.
            name: What a path into the value begins with, in messages.

        Raises:
            ArgumentError: No value that crosses the wire can be of this type.
        """
        check_type(type_)

        def decode(body: bytes) -> Any:
            value = self.decode(body)
            try:
                return convert(value, type_, name)
            except ArgumentError as exc:
                raise ArgumentError(f"it {exc}") from exc

        return decode

    async def open(self, call: OutgoingCall) -> None:
        """Send a CALL, once there is a slot. A checkpoint if there is none."""
        if self.connection.is_leased:
            await self.connection.reclaim()
        await trio.lowlevel.checkpoint_if_cancelled()
        seconds = self._seconds_left()
        if self._rules.free <= self._promised:
            self._check_open(call.request)
            self._check_size(call.request)
            await self._wait_for_slot(call.request)
            seconds = self._seconds_left()
        self._start(call, seconds)
        self.connection.flush()

    @staticmethod
    def _seconds_left() -> float:
        """Give the time until the deadline of the task's scopes; -inf if it is cancelled."""
        deadline = trio.current_effective_deadline()
        return deadline if math.isinf(deadline) else deadline - trio.current_time()

    def _start(self, call: OutgoingCall, seconds: float) -> None:
        """Give a call its slot, and queue it.

        Raises:
            DriverError: Nothing has changed.
        """
        request = call.request
        self._check_open(request)
        if seconds != math.inf:
            request.set_timeout(math.ceil(min(max(1, seconds * 1000), _MAX_TIMEOUT_MS)))
        try:
            call.opened(self._rules.call(request.kind, request.buffer))
        except ArgumentError as exc:
            raise DriverInvalidArgument(str(exc), context=request.context) from exc
        self.connection.endpoints[call.slot] = call

    async def _wait_for_slot(self, request: Request) -> None:
        """Wait in order: a slot that gets free is promised to whoever has waited longest."""
        if request.nested:
            text = "not sent: no slot is free, and a driver's own call may not wait for one"
            raise CallRefused(text, context=request.context)
        await self._for_slot.park()
        try:
            if self.connection.is_leased:  # it was quiet for a moment, between two who waited
                await self.connection.reclaim()
            await trio.lowlevel.checkpoint_if_cancelled()  # as it may have been since it was woken
        except BaseException:
            self._promised -= 1
            self.on_slot_free()
            raise
        self._promised -= 1

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

    def ask_to_end(self, call: OutgoingCall, code: Code) -> bool:
        """Send CANCEL. False if there is nothing to wait for: nothing had been sent."""
        if self.connection.ended is not None:
            return False
        asked = self._rules.cancel(call.slot, code)
        if not asked:
            del self.connection.endpoints[call.slot]
            call.taken_back()
            self.on_slot_free()
        self.connection.flush()
        return asked

    def consumed(self, call: OutgoingCall, cost: int) -> None:
        """Give credit back for an item that was taken."""
        if self._rules.consume(call.slot, cost):
            self.connection.flush()

    def ask_to_end_soon(self, call: OutgoingCall) -> None:
        """The same from any thread, without waiting: for finalizers."""

        def ask() -> None:
            if not call.done:
                self.ask_to_end(call, Code.CANCELLED)

        with suppress(trio.RunFinishedError):  # the loop is gone, and the connection with it
            self.token.run_sync_soon(ask)
