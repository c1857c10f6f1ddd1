"""Pass the events of a connection on to the handlers of their slots.

This is the part of a `Connection` that the answer of each call passes through, in whichever thread
reads it. It is compiled. The rest of the connection is not: Trio looks into the coroutine of each
task, and one that was compiled lacks what it looks for.
"""

from __future__ import annotations

from typing import Final, TypeAlias

from .._protocol import events as ev
from .._protocol.base import BaseProtocol
from .handlers import ConnectionHandler, StreamHandler
from .ownership import Ownership
from .rate_limits import RateLimits
from .reader import ConnectionReader
from .writer import Writer

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["ConnectionEvent", "EventRouter"]

# Constants: to look a name up in a module takes as long as to make an event.
_CALL: Final = ev.CallReceived
_DROPPED: Final = ev.MessageDropped
_RESULT: Final = ev.ResultReceived
_ERROR: Final = ev.ErrorReceived
ConnectionEvent: TypeAlias = (
    ev.HelloReceived | ev.GoawayReceived | ev.GoawayAcked | ev.ConnectionFailed | ev.PongReceived
)
_FOR_CONNECTION: Final = (
    ev.HelloReceived,
    ev.GoawayReceived,
    ev.GoawayAcked,
    ev.ConnectionFailed,
    ev.PongReceived,
)


class EventRouter:
    """The base class of `Connection`, which documents the attributes."""

    def __init__(
        self, rules: BaseProtocol, owner: ConnectionHandler, name: str, ownership: Ownership
    ) -> None:
        self.rules: BaseProtocol = rules
        self.name: str = name
        self.handlers: dict[int, StreamHandler] = {}
        self.slot_waiters: int = 0
        self.ended: Exception | None = None
        self.ownership: Ownership = ownership
        self.writer: Writer  # the connection makes these two, which need it
        self.reader: ConnectionReader
        self._owner = owner
        self._rate_limits = RateLimits(rules.limits)

    def act_on(self, events: list[ev.Event]) -> None:
        """Handle events that the rules have returned, and write what that has queued.

        With the lock, in the task or thread that is the reader.
        """
        # Not by patterns of classes, nor by `isinstance`: both ask the classes' metaclass.
        for event in events:
            if (
                type(event) is _RESULT
                or type(event) is _ERROR
                or (type(event) is _DROPPED and event.terminal)
            ):
                handler = self.handlers.pop(event.slot, None)
                if handler is not None:
                    handler.received(event)
                if self.slot_waiters:
                    self._owner.on_slot_free()
            elif isinstance(event, _CALL):
                self._owner.on_call(event)
            elif isinstance(event, _FOR_CONNECTION):
                self._act_on_own(event)
            elif (handler := self.handlers.get(event.slot)) is not None:
                handler.received(event)
        rules = self.rules
        total = rules.late_frames + rules.no_op_frames + rules.control_frames
        if total != self._rate_limits.total and rules.failure is None:
            self._charge()
        if rules.send_queue:
            if self.ownership.holder:
                self.writer.flush_now()
            else:
                self.writer.flush()

    def _act_on_own(self, event: ConnectionEvent) -> None:
        """Handle an event that belongs to no slot. With the lock."""
        raise NotImplementedError

    def _charge(self) -> None:
        """Charge the peer for frames that cost attention and bring nothing. With the lock."""
        raise NotImplementedError
