"""Represent one call that is being answered: the handler of its slot.

It passes each event to the part that waits for it: the raw stream, the driver's code through a
cancel scope, or the task that sends a generator's items. The scope belongs to the task that answers
the call; there is none before that. This module runs no code of drivers.

    state       next
    PENDING     RUNNING, by `enter`, in the task that answers it, or by `attach`; CANCELLED; LATE
    RUNNING     CANCELLED; LATE; ended, when the driver's code has returned
    CANCELLED   ended, when the driver's code has returned; cancelled before `enter`, it never runs
    LATE        the same; its deadline has passed, whether or not it was cancelled

The connection's reader cancels a call, a drain does, or the end of the connection. The session
queues its terminal frame, and removes it from the connection, when it has ended. A call that a
thread answers has the scope of the task that waits for the thread, which other calls have after it.
"""

from __future__ import annotations

import enum
import math
from typing import Any, Final

import trio

from .._io.byte_stream import SlotStream
from .._io.connection import Connection
from .._io.ownership import SharedWakeup
from .._protocol import events as ev
from .._protocol.frames import Kind
from .._protocol.receive_buffer import Body
from .._util.trio_private import CAN_SEE_SCOPES, cancel_status
from ..driver._export import Exported
from ..driver._loan import Loan
from ..errors import Code
from .cancellations import announce_cancellation
from .stream_forwarder import StreamForwarder

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["IncomingCall", "IncomingCallState", "check_scopes"]

_LEFT_OPEN: Final = (
    "it has left a cancel scope or a nursery open, which ends with the call; "
    "to keep one open, use an @exportstream method"
)
_INFINITE: Final = math.inf
_UNARY: Final = Kind.UNARY


class IncomingCallState(enum.Enum):
    """How far a call is; see the module's docstring."""

    PENDING = enum.auto()
    RUNNING = enum.auto()
    CANCELLED = enum.auto()
    LATE = enum.auto()


class IncomingCall:
    """One call that is being answered: the handler of its slot.

    Args:
        event: The CALL.
        connection: The connection that it arrived on.
        clock: Trio's clock, since the call may be made in a thread, outside of Trio.

    Attributes:
        slot: The call's slot.
        head: What is called, and how.
        arguments: The decoded arguments, positional and by keyword, once they were decoded. Kept
            to explain a TypeError, until they are known to fit.
        cancelled: True once it was cancelled, for whatever reason.
        deadline: When it is cancelled; infinite if the client set no timeout.
        status: The task's cancel status when the call was entered.
        changed: Wakes the task that waits for credit, or for sent data to leave. A call of a
            method has none.
        stream: The client's end of a raw stream.
        in_thread: True while a thread answers it.
        forwarder: Takes what the client sends into a raw stream.
        late: True once its deadline has passed, though its task has no deadline.
        values: The number of values in its arguments, if they are counted.
    """

    __slots__ = (
        "_body",
        "_scope",
        "arguments",
        "cancelled",
        "changed",
        "deadline",
        "forwarder",
        "head",
        "in_thread",
        "late",
        "slot",
        "status",
        "stream",
        "values",
    )

    def __init__(
        self, event: ev.CallReceived, connection: Connection, clock: trio.abc.Clock
    ) -> None:
        self.slot = slot = event.slot
        self.head = head = event.head
        self._body: Body = event.body
        self.arguments: tuple[list[Any], dict[str, Any]] | None = None
        self.cancelled: bool = False  # it was cancelled, for whatever reason
        self.deadline: float = _INFINITE
        self._scope: trio.CancelScope | None = None
        self.status: object = None
        self.changed: SharedWakeup
        self.stream: SlotStream | None = None
        self.in_thread: bool = False  # a thread answers it
        self.forwarder: StreamForwarder | Loan | None = None
        self.late: bool = False  # its deadline has passed
        self.values: int = 0  # in its arguments, if they count
        if head.kind is _UNARY:
            if head.timeout_ms:
                self.deadline = clock.current_time() + head.timeout_ms / 1000
            return
        if head.kind is not Kind.STREAM:
            self.changed = SharedWakeup(connection.ownership)
        else:
            self.stream = SlotStream(connection, slot)
            self.changed = self.stream.may_send  # it is the call's task that sends
            self.forwarder = StreamForwarder(self.stream, self.changed)

    @property
    def state(self) -> IncomingCallState:
        """The state, derived from the other attributes. In the loop."""
        if self.late or trio.current_time() >= self.deadline:
            return IncomingCallState.LATE
        if self.cancelled:
            return IncomingCallState.CANCELLED
        return IncomingCallState.PENDING if self._scope is None else IncomingCallState.RUNNING

    def enter(self, scope: trio.CancelScope, task: trio.lowlevel.Task) -> None:
        """Assign the call to this task, whose innermost cancel scope now belongs to the call."""
        self._scope = scope
        self.status = cancel_status(task)
        if self.deadline != _INFINITE:
            scope.deadline = self.deadline
        if self.cancelled:
            scope.cancel()

    def attach(self, scope: trio.CancelScope) -> None:
        """Assign the call to a thread, whose task has this scope. With the lock, in any thread."""
        self._scope = scope
        if self.cancelled:  # before it was begun, in the loop
            scope.cancel()

    def leave(self, task: trio.lowlevel.Task) -> bool:
        """Release the scope. Return True if this task may answer another call in the same scope."""
        scope, self._scope = self._scope, None
        assert scope is not None
        if self.deadline != _INFINITE:
            scope.deadline = _INFINITE
            if scope.cancel_called:
                return False
        return cancel_status(task) is self.status

    def cancel(self, reason: str) -> None:
        """Cancel the driver's code, or make sure that it does not begin.

        In the loop, with the lock: a thread may be about to use the scope for another call.
        """
        self.cancelled = True
        if self._scope is not None:
            self._scope.cancel(reason=reason)
        announce_cancellation()

    @property
    def body_size(self) -> int:
        """The number of bytes of the encoded arguments."""
        return len(self._body)

    @property
    def sent_by_client(self) -> int:
        """The number of chunks of a raw stream that the device has taken from the client."""
        return self.forwarder.carried if isinstance(self.forwarder, StreamForwarder) else 0

    @property
    def is_sending(self) -> bool:
        """True for a raw stream if the device has not taken all that the client has sent."""
        return isinstance(self.forwarder, StreamForwarder) and self.forwarder.waits_for_device

    @property
    def is_loan_in_use(self) -> bool:
        """True for a loan that a driver reads or writes now."""
        return isinstance(self.forwarder, Loan) and self.forwarder.in_use

    def take_body(self) -> Body:
        """Return the encoded arguments, and drop them: they may be large, and the call long."""
        body, self._body = self._body, b""
        return body

    def forget_arguments(self, exported: Exported) -> None:
        """Drop the arguments, with which the method was called, if they are known to fit.

        The call may be long, and the arguments large.
        """
        if not exported.is_wrapper:
            self.arguments = None

    def received(self, event: ev.SlotEvent) -> None:
        """Pass an event on; see `StreamHandler`. In the thread that reads, with the lock."""
        match event:
            case ev.DataReceived():
                assert self.stream is not None
                self.stream.on_data(event)
                if self.forwarder is not None:
                    self.forwarder.arrived()
            case ev.CreditReceived():
                self.drained()
            case ev.CancelReceived(code=Code.CLOSE) if self.forwarder is not None:
                self.forwarder.client_closed()
            case _:
                self.cancel("the client cancelled the call")

    def drained(self) -> None:
        """Wake whatever waits to send more. With the lock."""
        self.changed.set()

    def lost(self, reason: Exception) -> None:
        """Cancel the call, since its connection has ended. In the loop, with the lock."""
        self.cancel(f"connection lost: {reason}")
        if self.head.kind is not _UNARY:
            self.changed.set()
        if self.stream is not None:
            self.stream.finish(reason)


def check_scopes(before: object, task: trio.lowlevel.Task) -> None:
    """Check that a driver's code has left all cancel scopes that it has entered.

    Args:
        before: The `cancel_status` of the task before the driver's code ran.
        task: That task, which is this one.

    Raises:
        RuntimeError: It has left one open. That one ends with the task.
    """
    if CAN_SEE_SCOPES and cancel_status(task) is not before:
        raise RuntimeError(_LEFT_OPEN)
