"""Represent one call of a driver: first the encoded request, and then the call in progress.

States of an `OutgoingCall`. The task or thread that makes the call owns it until it is sent, and
the loop of the connection from then on:

    state      meaning                                next states
    NEW        not sent                               SENT: it got a slot
    SENT       its CALL is queued or written          ENDED: an answer, or the connection's end
                                                      ENDED: taken back before it was written
                                                      ABANDONED: cancelled, and the grace passed
    ABANDONED  its slot stays busy; nobody waits      ENDED: an answer, or the connection's end
    ENDED      `failure` or `value` is final          none

This module knows neither clients nor the device tree.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol, TypeVar

import trio

from .._framing import HEADER_SIZE
from .._limits import Limits
from .._protocol import events as ev
from .._protocol.codec import call_prefix, decode_call, decode_error, encode_call, set_timeout
from .._protocol.error_codec import exception_from_wire
from .._protocol.frames import Kind
from .._util.checks import check_text
from .._util.reentrancy import CallOrigin, call_origin
from .._util.tracebacks import strip_tracebacks
from .._util.wakeup import Wakeup
from ..errors import (
    ArgumentError,
    CallOutcomeUnknown,
    CallRefused,
    Code,
    DriverError,
    DriverInvalidArgument,
)

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["CallState", "OutgoingCall", "Request"]

T = TypeVar("T")

_logger = logging.getLogger("jumpstarter.client")

_NOT_NESTED: Final = CallOrigin.NONE
_TIMEOUT_PARAMETER: Final = "unexpected keyword argument 'timeout'"  # in the exporter's error
_TIMEOUT_HINT: Final = (
    "; to limit how long the call may take, use `with client.timeout(seconds):` around it, or "
    "trio.fail_after(seconds) in Trio code"
)


class Request:
    """The encoded form of one call.

    The calling thread encodes it, so that an argument which cannot be sent fails before anything
    was sent.

    Args:
        target: Address of the driver.
        kind: How the method is called.
        method: Name of the exported method.
        args: Positional arguments.
        kwargs: Keyword arguments.
        driver: How messages name the driver.

    Raises:
        ArgumentTypeError: The method's name is not a str.
        DriverInvalidArgument: An argument cannot be encoded.
    """

    __slots__ = ("_driver", "buffer", "kind", "method", "nested")

    def __init__(
        self,
        target: int,
        kind: Kind,
        method: str,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        *,
        driver: str,
    ) -> None:
        self.kind: Kind = kind
        self.nested: bool = call_origin.get() is not _NOT_NESTED
        self.method: str = method
        self._driver = driver
        if type(method) is not str:
            check_text("method", method, f"the name of an exported method of {driver}, as a str")
        try:
            prefix = call_prefix(target, kind, method, keywords=bool(kwargs), nested=self.nested)
            self.buffer: bytearray = encode_call(prefix, (*args, kwargs) if kwargs else args)
        except ArgumentError as exc:
            text = f"an argument cannot be sent: {exc}"
            raise DriverInvalidArgument(text, context=self.context) from strip_tracebacks(exc)

    @property
    def context(self) -> str:
        """The method and its driver, as messages name them. Built only for a message."""
        return f"method {self.method!r} of {self._driver}"

    @property
    def target(self) -> int:
        """The address of the driver; 0 is the exporter itself. Decoded, since few need it."""
        head, _ = decode_call(bytes(self.buffer[HEADER_SIZE:]))
        return head.target

    def set_timeout(self, milliseconds: int) -> None:
        """Write how long the driver may take into the encoded call. Only before it is sent."""
        set_timeout(self.buffer, milliseconds)


class CallState(enum.Enum):
    """Where an `OutgoingCall` is; the module's docstring has the table."""

    NEW = enum.auto()
    SENT = enum.auto()
    ABANDONED = enum.auto()
    ENDED = enum.auto()


# Module constants: looking a member up in its enum costs as much as a small system call.
_NEW: Final = CallState.NEW
_SENT: Final = CallState.SENT
_ABANDONED: Final = CallState.ABANDONED
_ENDED: Final = CallState.ENDED


class _CallOwner(Protocol):
    """The interface of the channel that a call uses."""

    limits: Limits

    def ask_to_end(self, call: OutgoingCall, code: Code) -> bool:
        """Send CANCEL for the call. Returns False if there is no answer to wait for."""


class OutgoingCall:
    """A call in progress. It handles the slot's events until the answer or the connection's end.

    Attributes:
        state: See `CallState`.
        slot: The slot that it has; 0 before it was sent.
        failure: Why it failed, once it has ended; None if it did not.
        value: The encoded result, once it has ended.
    """

    __slots__ = ("_ended", "_waiter", "channel", "failure", "request", "slot", "state", "value")

    def __init__(self, channel: _CallOwner, request: Request) -> None:
        self.channel: _CallOwner = channel
        self.request: Request = request
        self.state: CallState = _NEW
        self.slot: int = 0
        self.failure: DriverError | None = None
        self.value: bytes = b""
        self._waiter: Wakeup | None = None  # of the task that makes the call
        self._ended: trio.Event | None = None  # for any other task that waits for the end

    @property
    def context(self) -> str:
        """The method and its driver, as messages name them."""
        return self.request.context

    @property
    def done(self) -> bool:
        """True once the call has ended."""
        return self.state is _ENDED

    def opened(self, slot: int) -> None:
        """Store the slot; the call is about to be sent."""
        self.slot = slot
        self.state = _SENT

    # ---------------------------------------------------- events, from the connection's reader

    def received(self, event: ev.SlotEvent) -> None:
        """Handle a frame that has arrived for this call."""
        match event:
            case ev.ResultReceived():
                self.value = event.body
                self._end(None)
            case ev.ErrorReceived():
                code, body = decode_error(event.body, self.channel.limits)
                failure = exception_from_wire(code, body, self.context)
                self._end(_with_timeout_hint(failure))
            case ev.MessageDropped():
                self._end(DriverError(event.reason, context=self.context))

    def drained(self) -> None:
        """Do nothing: only streams wait until their bytes have left the send queue."""

    def lost(self, reason: Exception) -> None:
        """End it because the connection ended."""
        if self.state is _ABANDONED:
            self.state = _SENT  # so that `_end` does not log that the driver's code has ended
        self._end(CallOutcomeUnknown(f"sent, but not answered: {reason}", context=self.context))

    def taken_back(self) -> None:
        """End it because its CALL was removed from the send queue before any of it was written."""
        self._end(CallRefused("taken back before it was sent", context=self.context))

    def _end(self, failure: DriverError | None) -> None:
        if self.state is _ABANDONED:
            _logger.info("%s has ended on the exporter at last", self.context)
        # The state first: the tasks that are woken below look at it.
        self.state = _ENDED
        self.failure = failure
        if self._waiter is not None:
            self._waiter.set()
        if self._ended is not None:
            self._ended.set()

    # -------------------------------------------------------------------------------- waiting

    async def wait(self) -> None:
        """Wait until the call has ended. Only for the task that makes the call."""
        while self.state is not _ENDED:
            await self._change()

    def _change(self) -> Awaitable[None]:
        """Wait for the next `_wake`. Only for the task that makes the call."""
        if self._waiter is None:
            self._waiter = Wakeup()
        return self._waiter.wait()

    def _wake(self) -> None:
        if self._waiter is not None:
            self._waiter.set()

    async def join(self) -> None:
        """Wait until the call has ended. For any number of tasks.

        The task that closes the client waits here, beside the one that makes the call.
        """
        if self.state is _ENDED:
            return
        if self._ended is None:
            self._ended = trio.Event()
        await self._ended.wait()

    async def cancel(self, exc: BaseException | None = None) -> None:
        """Cancel the driver's code, and wait up to `cancel_grace` until it has ended.

        A shielded checkpoint if there is anything to wait for.

        Args:
            exc: The exception that ends the call here. It gets a note if the grace passes.
        """
        if self.state is not _SENT:
            return  # nothing was sent, the call has ended, or an earlier cancel has waited already
        if not self.channel.ask_to_end(self, Code.CANCELLED):
            return
        with trio.move_on_after(self.channel.limits.cancel_grace, shield=True):
            await self.join()
        if not self.done:
            self._abandon(f"{self.context}: cancelled, but its driver had not ended after", exc)

    def _abandon(self, text: str, exc: BaseException | None) -> None:
        text = f"{text} {self.channel.limits.cancel_grace:g} s"
        if self.state is not _ABANDONED:  # by another task that has waited too
            _logger.warning("%s; its slot stays busy until it has", text)
        self.state = _ABANDONED
        if exc is not None:
            exc.add_note(text)

    def result(self, decode: Callable[[bytes], T]) -> T:
        """Return the decoded result, or raise the failure.

        Raises:
            DriverError: The call failed, or its result cannot be decoded.
        """
        if self.failure is not None:
            raise self.failure
        try:
            return decode(self.value)
        except ArgumentError as exc:
            raise DriverError(f"its result: {exc}", context=self.context) from exc


def _with_timeout_hint(failure: DriverError) -> DriverError:
    """Point a caller that passed `timeout=` to a method without such a parameter to `timeout()`."""
    is_refusal = type(failure) is DriverInvalidArgument and not failure.remote_type
    if is_refusal and _TIMEOUT_PARAMETER in failure.message:
        failure.message += _TIMEOUT_HINT
        failure.args = (failure.message,)
    return failure
