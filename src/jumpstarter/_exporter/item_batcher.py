"""Sends a plain generator's items from its worker thread, for as long as the client has credit.

A step through the loop for each item costs more than most items do. So the thread goes on while
there is room, encodes what it makes, and the loop sends all that has come whenever it has its turn:
the first item at once, the others together. How far ahead of its client a generator runs is what
the credit allows, with this or without.

This file knows no slots and no frames: what an item weighs is told by who packs it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Final

import trio

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["ItemBatcher"]

_ITEMS_PER_TURN: Final = 32  # items that a thread makes before others have a turn at the GIL


class ItemBatcher:
    """The way of one generator's items from its thread to the send_queue.

    Made in the loop. Whoever waits there for the thread finds that everything emitted was put:
    Trio runs what a thread asks of it in order.

    Args:
        room: Says how many bytes the client takes now. In the loop.
        pack: Encodes an item, and says what it takes of the room. In the thread.
        put: Sends packed items. In the loop.
    """

    def __init__(
        self,
        capacity: Callable[[], int],
        pack: Callable[[object], tuple[bytearray, int]],
        put: Callable[[deque[bytearray]], None],
    ) -> None:
        self.capacity = capacity
        self._pack = pack
        self._put = put
        self._packed: deque[bytearray] = deque()  # filled by the thread, emptied by the loop
        self._told = False  # the loop will look
        self._emitted = 0
        self._failure: Exception | None = None
        self._token = trio.lowlevel.current_trio_token()

    def emit(self, item: object) -> int:
        """Send an item, and give what it takes of the room. In the thread.

        Raises:
            Exception: What `pack` raised: the item cannot be sent.
            trio.Cancelled: The call was cancelled, and the generator is to go no further.
        """
        trio.from_thread.check_cancelled()
        packed, cost = self._pack(item)
        self._packed.append(packed)
        if not self._told:
            self._told = True
            self._token.run_sync_soon(self._deliver)
        self._emitted += 1
        if self._emitted % _ITEMS_PER_TURN == 0:
            time.sleep(0)
        return cost

    def _deliver(self) -> None:
        self._told = False  # first: what comes from now on is told again
        try:
            self._put(self._packed)
        except Exception as exc:  # noqa: BLE001 - it would end the loop; `check` raises it
            self._failure = exc

    def check(self) -> None:
        """Raise what has kept an emitted item from being sent. In the loop."""
        if self._failure is not None:
            raise self._failure
