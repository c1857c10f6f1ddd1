"""One call being answered, as the connection sees it: the endpoint of its slot.

What comes in for it is handed on to whoever waits for that: its stream, the driver's code by way of
a cancel scope, or the task that sends its items. This file runs no driver's code.
"""

from __future__ import annotations

import trio

from .. import _events as ev
from .._connection import Connection
from .._messages import Kind
from .._signal import Signal
from .._streams import SlotStream
from ..errors import Code
from ._bridge import Bridge
from ._resources import Loan

__all__ = ["Call"]


class Call:
    """One call being answered: the endpoint of its slot."""

    __slots__ = ("_body", "bridge", "changed", "head", "late", "scope", "slot", "stream", "values")

    def __init__(self, event: ev.CallReceived, connection: Connection) -> None:
        self.slot = slot = event.slot
        self.head = head = event.head
        self._body = event.body
        self.scope = trio.CancelScope()
        self.changed = Signal()
        self.stream = SlotStream(connection, slot) if head.kind is Kind.STREAM else None
        self.bridge: Bridge | Loan | None = (
            None if self.stream is None else Bridge(self.stream, self.changed)
        )
        self.late = False  # its deadline has passed
        self.values = 0  # in its arguments, if they count
        if head.timeout_ms and head.kind is Kind.UNARY:
            self.scope.deadline = trio.current_time() + head.timeout_ms / 1000

    def take_body(self) -> bytes:
        """Give the encoded arguments, once: they may be large, and the call may last."""
        body, self._body = self._body, b""
        return body

    def received(self, event: ev.SlotEvent) -> None:
        match event:
            case ev.DataReceived():
                assert self.stream is not None
                self.stream.put(event)
                if self.bridge is not None:
                    self.bridge.arrived()
            case ev.CreditReceived():
                self.drained()
            case ev.CancelReceived(code=Code.CLOSE) if self.bridge is not None:
                self.bridge.client_closed()
            case _:
                self.scope.cancel(reason="the client cancelled the call")

    def drained(self) -> None:
        self.changed.set()
        if self.stream is not None:
            self.stream.wake_sender()

    def lost(self, reason: Exception) -> None:
        self.scope.cancel(reason=f"connection lost: {reason}")
        self.changed.set()
        if self.stream is not None:
            self.stream.finish(reason)
