"""One call being answered, as the connection sees it: the endpoint of its slot.

What comes in for it is handed on to whoever waits for that: its stream, the driver's code by way of
a cancel scope, or the task that sends its items. The scope is that of the task which answers it: a
call has none of its own before it is begun. This file runs no driver's code.
"""

from __future__ import annotations

import math
from typing import Final

import trio

from .._io.byte_stream import SlotStream
from .._io.connection import Connection
from .._protocol import events as ev
from .._protocol.frames import Kind
from .._util.wakeup import Wakeup
from ..driver._resources import Loan
from ..errors import Code
from .stream_forwarder import StreamForwarder

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["IncomingCall", "cancel_status", "check_scopes"]

_LEFT_OPEN: Final = (
    "it has left a cancel scope or a nursery open, which ends with the call; "
    "open what is to last in an @exportstream method"
)


class IncomingCall:
    """One call being answered: the endpoint of its slot.

    Args:
        event: What has come.
        connection: What it came on.
        clock: Trio's: it may be made in a thread, which knows none.
    """

    __slots__ = (
        "_body",
        "_scope",
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
        self._body = event.body
        self.cancelled: bool = False  # it was, by whomever
        self.deadline: float = math.inf
        self._scope: trio.CancelScope | None = None
        self.status: object = None  # of the task's cancel scopes when it has begun
        self.changed: Wakeup = Wakeup()
        self.stream: SlotStream | None = (
            SlotStream(connection, slot) if head.kind is Kind.STREAM else None
        )
        self.in_thread: bool = False  # it is answered by one, for as long as it takes
        self.forwarder: StreamForwarder | Loan | None = (
            None if self.stream is None else StreamForwarder(self.stream, self.changed)
        )
        self.late: bool = False  # its deadline has passed
        self.values: int = 0  # in its arguments, if they count
        if head.timeout_ms and head.kind is Kind.UNARY:
            self.deadline = clock.current_time() + head.timeout_ms / 1000

    def enter(self, scope: trio.CancelScope) -> None:
        """Be answered in this task, within a scope that was entered last, and is the call's now."""
        self._scope = scope
        self.status = cancel_status()
        if self.deadline != math.inf:
            scope.deadline = self.deadline
        if self.cancelled:
            scope.cancel()

    def leave(self) -> bool:
        """Tell if the task may answer another call in the same scope, now that this one is over."""
        scope, self._scope = self._scope, None
        assert scope is not None
        if self.deadline != math.inf:
            scope.deadline = math.inf
            if scope.cancel_called:
                return False
        return cancel_status() is self.status

    def cancel(self, reason: str) -> None:
        """End the driver's code, or see that it is not begun."""
        self.cancelled = True
        if self._scope is not None:
            self._scope.cancel(reason=reason)

    @property
    def sent_by_client(self) -> int:
        """Pieces that have come into a raw stream, and were taken."""
        return self.forwarder.carried if isinstance(self.forwarder, StreamForwarder) else 0

    @property
    def is_sending(self) -> bool:
        """True for a raw stream for which more has come."""
        return isinstance(self.forwarder, StreamForwarder) and self.forwarder.waits_for_device

    @property
    def is_loan_in_use(self) -> bool:
        """True for one that lends what a driver reads or writes now."""
        return isinstance(self.forwarder, Loan) and self.forwarder.in_use

    def take_body(self) -> bytes:
        """Give the encoded arguments, once: they may be large, and the call may last."""
        body, self._body = self._body, b""
        return body

    def received(self, event: ev.SlotEvent) -> None:
        match event:
            case ev.DataReceived():
                assert self.stream is not None
                self.stream.put(event)
                if self.forwarder is not None:
                    self.forwarder.arrived()
            case ev.CreditReceived():
                self.drained()
            case ev.CancelReceived(code=Code.CLOSE) if self.forwarder is not None:
                self.forwarder.client_closed()
            case _:
                self.cancel("the client cancelled the call")

    def drained(self) -> None:
        self.changed.set()
        if self.stream is not None:
            self.stream.wake_sender()

    def lost(self, reason: Exception) -> None:
        self.cancel(f"connection lost: {reason}")
        self.changed.set()
        if self.stream is not None:
            self.stream.finish(reason)


def cancel_status() -> object:
    """Give what says which cancel scopes this task is in. Trio tells it nowhere else."""
    return trio.lowlevel.current_task()._cancel_status  # noqa: SLF001


def check_scopes(before: object) -> None:
    """See to it that a driver's code has left all cancel scopes that it has entered.

    Args:
        before: The `cancel_status` of the task when it began.

    Raises:
        RuntimeError: It has not. What it has left open ends with the task.
    """
    if cancel_status() is not before:
        raise RuntimeError(_LEFT_OPEN)
