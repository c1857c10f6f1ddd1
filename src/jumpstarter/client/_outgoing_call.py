"""Represent one call of a driver: first the encoded request, and then the call in progress.

States of an `OutgoingCall`. The task or thread that makes the call owns it until it is sent. From
then on its state is changed with the connection's lock only:

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
from collections.abc import Callable
from typing import Any, Final, Protocol

import trio

from .. import _nonblocking
from .._framing import HEADER_SIZE
from .._io.connection import Connection
from .._io.ownership import SharedWakeup, pass_baton
from .._limits import Limits
from .._protocol import events as ev
from .._protocol.codec import (
    call_prefix,
    decode_call,
    decode_error,
    decode_value,
    encode_request,
    set_timeout,
)
from .._protocol.error_codec import exception_from_wire
from .._protocol.frames import Kind
from .._protocol.large_message import Message, head_of
from .._protocol.receive_buffer import Body
from .._util.checks import check_text
from .._util.reentrancy import CallOrigin, call_origin
from .._util.tracebacks import strip_tracebacks
from ..errors import (
    ArgumentError,
    CallOutcomeUnknown,
    CallRefused,
    Code,
    DriverError,
    DriverInvalidArgument,
)

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["OutgoingCall", "OutgoingCallState", "Request"]

_logger = logging.getLogger("jumpstarter.client")

_LOOKS: Final = 3  # passes of the loop after the grace: the reader lets other tasks run in between
_NOT_NESTED: Final = CallOrigin.NONE
_TIMEOUT_PARAMETER: Final = "unexpected keyword argument 'timeout'"  # in the exporter's error
_WHERE: Final = "if it goes on, the exporter's log names the line where it is"
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
            # Positional arguments, as a C function takes them.
            prefix = call_prefix(target, kind, method, bool(kwargs), self.nested)
            self.buffer: Message = encode_request(prefix, (*args, kwargs) if kwargs else args)
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
        head, _ = decode_call(bytes(head_of(self.buffer)[HEADER_SIZE:]))
        return head.target

    def set_timeout(self, milliseconds: int) -> None:
        """Write how long the driver may take into the encoded call. Only before it is sent."""
        set_timeout(self.buffer, milliseconds)


class OutgoingCallState(enum.Enum):
    """Where an `OutgoingCall` is; the module's docstring has the table."""

    NEW = enum.auto()
    SENT = enum.auto()
    ABANDONED = enum.auto()
    ENDED = enum.auto()


# Module constants: looking a member up in its enum costs as much as a small system call.
_NEW: Final = OutgoingCallState.NEW
_SENT: Final = OutgoingCallState.SENT
_ABANDONED: Final = OutgoingCallState.ABANDONED
_ENDED: Final = OutgoingCallState.ENDED

_RESULT: Final = ev.ResultReceived


class _CallOwner(Protocol):
    """The interface of the channel that a call uses."""

    limits: Limits
    connection: Connection

    def ask_to_end(self, call: OutgoingCall, code: Code) -> bool:
        """Send CANCEL for the call. Returns False if there is no answer to wait for."""


class OutgoingCall:
    """A call in progress. It handles the slot's events until the answer or the connection's end.

    One task or thread waits for it: a task with `wakeup`, a thread as `leading` describes. Once
    `adopt` was called, it is a task in any case.

    Attributes:
        state: See `OutgoingCallState`.
        slot: The slot that it has; 0 before it was sent.
        value: The encoded result, once it has ended.
        baton: On which a thread waits for it; None if none does.
        error: The encoded `failure`, if the exporter has sent one.
    """

    __slots__ = (
        "_ended",
        "_failure",
        "_waiter",
        "baton",
        "channel",
        "error",
        "request",
        "slot",
        "state",
        "value",
    )

    def __init__(self, channel: _CallOwner, request: Request) -> None:
        self.channel: _CallOwner = channel
        self.request: Request = request
        self.state: OutgoingCallState = _NEW
        self.slot: int = 0
        self.value: Body = b""
        self.baton: _nonblocking.Baton | None = None
        self._failure: DriverError | None = None
        self.error: bytes | None = None
        self._waiter: SharedWakeup | None = None  # of the task that makes the call
        self._ended: trio.Event | None = None  # for any other task that waits for the end

    @property
    def context(self) -> str:
        """The method and its driver, as messages name them."""
        return self.request.context

    @property
    def may_be_there(self) -> bool:
        """See `leading.Awaited`."""
        return False

    @property
    def done(self) -> bool:
        """True once the call has ended."""
        return self.state is _ENDED

    @property
    def failure(self) -> DriverError | None:
        """Why it failed, once it has ended; None if it did not.

        The exception is built by the code that asks first, in its own task or thread, rather than
        by the reader with the lock.
        """
        if self._failure is None and self.error is not None:
            code, body = decode_error(self.error, self.channel.limits)
            self._failure = _with_timeout_hint(exception_from_wire(code, body, self.context))
        return self._failure

    @property
    def has_failed(self) -> bool:
        """True if there is a `failure`."""
        return self._failure is not None or self.error is not None

    def opened(self, slot: int) -> None:
        """Store the slot; the call is about to be sent. With the lock."""
        self.slot = slot
        self.state = _SENT

    # ------------------------------------- events, from the connection's reader, with the lock

    def received(self, event: ev.SlotEvent) -> None:
        """Handle a frame that has arrived for this call."""
        if type(event) is _RESULT:  # a class pattern costs several times as much
            self.value = event.body
            self._end(None)
            return
        match event:
            case ev.ErrorReceived():
                self.error = event.body
                self._end(None)
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
            later = self.channel.connection.ownership.later
            later(_logger.info, "%s has ended on the exporter at last", self.context)
        self._failure = failure
        # The state before the wake-ups: what is woken looks at it. The failure before the state: a
        # thread may look at both without the lock.
        self.state = _ENDED
        self._wake()
        if self._ended is not None:
            self.channel.connection.ownership.defer(self._ended.set)

    def _wake(self) -> None:
        if self.baton is not None:
            pass_baton(self.channel.connection.ownership, self.baton)
        elif self._waiter is not None:
            self._waiter.set()

    # -------------------------------------------------------------------------------- waiting

    def collect(self) -> bool:
        """Return True once the thread that waits need wait no longer."""
        return self.state is _ENDED

    def adopt(self) -> None:
        """Let a task wait from now on, and no thread: after a timeout, Ctrl-C or a close."""
        with self.channel.connection.lock:
            self.baton = None

    def borrow(self, waiter: SharedWakeup) -> None:
        """Wait with this one. With the lock, before the call is sent."""
        self._waiter = waiter

    def give_back(self) -> SharedWakeup | None:
        """Return what the call has waited with, if anything. Once it has ended."""
        waiter, self._waiter = self._waiter, None
        return waiter

    def wakeup(self) -> SharedWakeup | None:
        """Return what the task that makes the call waits for next; None if the call has ended.

        The task waits in its own code: a coroutine for that would take 240 bytes of each call.
        """
        if self._waiter is None:
            with self.channel.connection.lock:
                if self.state is not _ENDED:
                    self.next_wakeup()
        # Without the lock, since the end is final, and a call that ends now uses the wake-up.
        return None if self.state is _ENDED else self._waiter

    def next_wakeup(self) -> SharedWakeup:
        """Return what the task that makes the call waits for next.

        With the lock, in which the task has found that it has to wait: what a thread changes after
        that finds the wake-up, and its letter is delivered when the task has begun to wait.
        """
        if self._waiter is None:
            self._waiter = SharedWakeup(self.channel.connection.ownership)
        return self._waiter

    async def join(self) -> None:
        """Wait until the call has ended. A checkpoint. For any number of tasks.

        The task that closes the client waits here, beside the one that makes the call.
        """
        with self.channel.connection.lock:
            if self._ended is None:
                self._ended = trio.Event()
                if self.state is _ENDED:
                    self._ended.set()
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
        # If this loop was busy for so long, the answer may be here, and the reader is about to run.
        for _ in range(_LOOKS):
            if not self.done:
                await trio.lowlevel.cancel_shielded_checkpoint()
        if not self.done:
            self._abandon(f"{self.context}: cancelled, but its driver had not ended after", exc)

    def _abandon(self, text: str, exc: BaseException | None) -> None:
        with self.channel.connection.lock:
            before = self.state
            if before is _ENDED:  # just now, by a thread that reads
                return
            self.state = _ABANDONED
        text = f"{text} {self.channel.limits.cancel_grace:g} s"
        if before is not _ABANDONED:  # by another task that has waited too
            _logger.warning("%s; its slot stays busy until it has; %s", text, _WHERE)
        if exc is not None:
            exc.add_note(f"{text}; {_WHERE}")

    def result(self, decode: Callable[[Body], Any] | None) -> Any:
        """Return the decoded result, or raise the failure.

        Args:
            decode: Decodes the result; None to decode it to plain types.

        Raises:
            DriverError: The call failed, or its result cannot be decoded.
        """
        if self.error is not None or self._failure is not None:
            failure = self.failure
            assert failure is not None
            raise failure
        try:
            if decode is None:
                return decode_value(self.value, self.channel.limits)
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
