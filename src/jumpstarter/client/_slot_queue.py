"""The tasks that wait for a free slot of a connection, in order."""

from __future__ import annotations

import trio

from .._protocol.client import ClientProtocol
from .._util.wakeup import LazyParkingLot
from ..errors import CallRefused
from ._lead import LeadConnection
from ._outgoing_call import Request

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["SlotQueue"]


class SlotQueue:
    """Assigns free slots to waiting tasks, in the order in which they began to wait."""

    def __init__(self, rules: ClientProtocol, connection: LeadConnection) -> None:
        self._rules = rules
        self._connection = connection
        self._waiting = LazyParkingLot()
        self._promised = 0  # free slots that belong to tasks which were woken and have yet to run

    @property
    def has_free_slot(self) -> bool:
        """True if there is a slot that belongs to no waiting task."""
        return self._rules.free_slots > self._promised

    async def wait(self, request: Request) -> None:
        """Wait for a slot. A checkpoint. If it is cancelled, the slot goes to the next task.

        Raises:
            CallRefused: The request is a driver's own call: waiting could deadlock.
        """
        if request.nested:
            text = "not sent: no slot is free, and a driver's own call may not wait for one"
            raise CallRefused(text, context=request.context)
        await self._waiting.park()
        try:
            if self._connection.is_leased:  # it was idle for a moment, between two waiting tasks
                await self._connection.reclaim()
            await trio.lowlevel.checkpoint_if_cancelled()  # as it may have been since it was woken
        except BaseException:
            # The order matters: `wake_next` promises the same slot to the next task.
            self._promised -= 1
            self.wake_next()
            raise
        self._promised -= 1

    def wake_next(self) -> None:
        """Promise a free slot to the longest-waiting task; if none will be free again, wake all."""
        if self._connection.ended is not None or self._rules.going_away:
            self._promised += len(self._waiting)
            self._waiting.unpark_all()
        elif self._waiting:
            self._promised += 1
            self._waiting.unpark()
