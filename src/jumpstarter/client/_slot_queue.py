"""The tasks that wait for a free slot of a connection, in order."""

from __future__ import annotations

import trio

from .._io.connection import Connection
from .._protocol.client import ClientProtocol
from .._util.wakeup import LazyParkingLot
from ..errors import CallRefused
from ._outgoing_call import Request

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["SlotQueue"]


class SlotQueue:
    """Assigns free slots to waiting tasks, in the order in which they began to wait.

    Only tasks wait here: a thread that finds no free slot makes its call through the portal. A task
    waits in three steps. It registers with the lock; it waits; it redeems the slot that it was
    promised, in the locked section in which it uses it. `Connection.slot_waiters` counts those that
    wait, or are about to.

    Ctrl-C in the task is raised at its checkpoint here, or after the slot was redeemed: otherwise
    these numbers would never be right again, and a slot might be lost.
    """

    def __init__(self, rules: ClientProtocol, connection: Connection) -> None:
        self._rules = rules
        self._connection = connection
        self._waiting = LazyParkingLot()
        self._promised = 0  # free slots that belong to tasks which were woken and have yet to run

    @property
    def has_free_slot(self) -> bool:
        """True if there is a slot that belongs to no waiting task. With the lock."""
        return self._rules.free_slots > self._promised

    @trio.lowlevel.enable_ki_protection
    def register(self, request: Request) -> None:
        """Announce a `wait`. With the lock, in which no free slot was found.

        Raises:
            CallRefused: The request is a driver's own call: waiting could deadlock.
        """
        if request.nested:
            text = "not sent: no slot is free, and a driver's own call may not wait for one"
            raise CallRefused(text, context=request.context)
        self._connection.slot_waiters += 1

    @trio.lowlevel.enable_ki_protection
    async def wait(self) -> None:
        """Wait for a slot. A checkpoint. If it is cancelled, the slot goes to the next task."""
        try:
            await self._waiting.park()
        except BaseException:
            with self._connection.lock:
                self._connection.slot_waiters -= 1
            raise
        try:
            await trio.lowlevel.checkpoint_if_cancelled()  # as it may have been since it was woken
        except BaseException:
            with self._connection.lock:
                # The order matters: `wake_next` promises the same slot to the next task.
                self.redeem()
                self.wake_next()
            raise

    @trio.lowlevel.enable_ki_protection
    def redeem(self) -> None:
        """Use the slot that `wait` was promised. With the lock."""
        self._connection.slot_waiters -= 1
        self._promised -= 1

    def freed(self) -> None:
        """Note that a slot may be free, or that none will be again. With the lock."""
        if self._connection.ownership.holder:
            self._connection.ownership.later(self._wake_next_soon)
        else:
            self.wake_next()

    def _wake_next_soon(self) -> None:
        with self._connection.lock:
            if self.has_free_slot or self._connection.ended is not None or self._rules.going_away:
                self.wake_next()

    def wake_next(self) -> None:
        """Promise a free slot to the longest-waiting task; if none will be free again, wake all.

        With the lock, in the loop.
        """
        if self._connection.ended is not None or self._rules.going_away:
            self._promised += len(self._waiting)
            self._waiting.unpark_all()
        elif self._waiting:
            self._promised += 1
            self._waiting.unpark()
