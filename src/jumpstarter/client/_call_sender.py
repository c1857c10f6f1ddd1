"""Send calls: assign a slot to each, for tasks that may wait for one and threads that do not."""

from __future__ import annotations

import math
from typing import Final

import trio

from .._io.connection import Connection
from .._protocol.client import ClientProtocol
from .._util import trio_private
from .._util.text import sanitize_text
from ..errors import ArgumentError, CallRefused, DriverInvalidArgument
from ._outgoing_call import OutgoingCall, Request
from ._slot_queue import SlotQueue

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["CallSender", "seconds_left"]

_MAX_TIMEOUT_MS: Final = 2**32 - 1


class CallSender:
    """The part of a `Channel` that sends its calls.

    Attributes:
        name: How errors and logs name the exporter.
        connection: The connection, for the streams on it.
    """

    def __init__(self, name: str, rules: ClientProtocol, connection: Connection) -> None:
        self.name: str = name
        self.connection: Connection = connection
        self._rules = rules
        self._slots = SlotQueue(rules, connection)
        self._closing = False  # set with the lock; nothing is sent after that

    def start(self, call: OutgoingCall, seconds: float) -> bool:
        """Register a call, and queue its frame, if no task waits for a slot. With the lock.

        Returns:
            False if the loop must look at it: the caller would have to wait, or to learn why not.

        Raises:
            DriverError: It was not queued, and nothing has changed.
        """
        rules = self._rules
        # Tasks that wait for a slot are first; a thread does not wait for one here.
        if (
            self.connection.slot_waiters
            or self._closing
            or rules.going_away
            or not rules.free_slots
        ):
            return False
        self._queue(call, seconds)
        return True

    async def open(self, call: OutgoingCall) -> None:
        """Send a call, once it has a slot. A checkpoint if it must wait for one.

        Raises:
            DriverError: It was not sent, and nothing has changed.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        seconds = seconds_left()
        lock, slots = self.connection.lock, self._slots
        with lock:
            if slots.has_free_slot:
                self._check_open(call.request)
                self._queue(call, seconds)
                self.connection.writer.flush()
                return
            self._check_open(call.request)
            self._check_size(call.request)
            slots.register(call.request)
        await slots.wait()
        seconds = seconds_left()
        with lock:
            slots.redeem()
            self._check_open(call.request)
            self._queue(call, seconds)
            self.connection.writer.flush()

    def _queue(self, call: OutgoingCall, seconds: float) -> None:
        """Assign a slot to a call, and queue its frame. With the lock.

        Raises:
            DriverError: It was not queued, and nothing has changed.
        """
        request = call.request
        if seconds != math.inf:
            request.set_timeout(math.ceil(min(max(1, seconds * 1000), _MAX_TIMEOUT_MS)))
        try:
            call.opened(self._rules.call(request.kind, request.buffer))
        except ArgumentError as exc:
            raise DriverInvalidArgument(str(exc), context=request.context) from exc
        self.connection.handlers[call.slot] = call

    def _check_open(self, request: Request) -> None:
        connection = self.connection
        if (
            self._closing
            or self._rules.going_away
            or connection.ended is not None
            or connection.ownership.at_end  # the read task has yet to learn of it
        ):
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
        if self.connection.ownership.at_end and not self._rules.going_away:
            return f"{self.name} closed the connection"
        goaway = self.connection.goaway
        why = "" if goaway is None else f" ({sanitize_text(goaway.goaway.text)})"
        return f"{self.name} takes no more calls{why}"


def seconds_left() -> float:
    """Return the time until the deadline of the task's scopes; -inf if it is cancelled."""
    deadline = trio_private.effective_deadline()
    return deadline if math.isinf(deadline) else deadline - trio.current_time()
