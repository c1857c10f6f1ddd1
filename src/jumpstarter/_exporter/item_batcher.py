"""Send the items of a plain generator from its worker thread while the client has credit.

Waiting for the loop after each item costs more than most items do. So the thread continues while
there is credit, and encodes the items. The loop sends the first one immediately, and the following
ones in batches, whenever it runs. The credit alone limits how far a generator runs ahead of its
client.

This module knows neither slots nor frames: the function that encodes an item returns its cost.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Final

import trio

from .._protocol.large_message import Message

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["ItemBatcher"]

_ITEMS_PER_TURN: Final = 32  # items that a thread makes before others have a turn at the GIL


class ItemBatcher:
    """Carry the items of one generator from its thread to the connection's send queue.

    Made in the loop. Trio runs a thread's requests in order, so when the thread has returned, all
    items that it emitted were passed to `put`. Another event loop sets `post`, which must keep the
    order too.

    Args:
        capacity: Returns how many bytes the client currently accepts. In the loop.
        pack: Encodes an item, and returns it with its cost in bytes. In the thread.
        put: Sends encoded items. In the loop.
    """

    def __init__(
        self,
        capacity: Callable[[], int],
        pack: Callable[[object], tuple[Message, int]],
        put: Callable[[deque[Message]], None],
    ) -> None:
        self.capacity = capacity
        self._pack = pack
        self._put = put
        self._packed: deque[Message] = deque()  # filled by the thread, emptied by the loop
        self._is_scheduled = False  # the loop will deliver
        self._emitted = 0
        self._failure: Exception | None = None
        # Runs a function in the loop, soon; the functions given to it run in order.
        self.post: Callable[[Callable[[], None]], object] = (
            trio.lowlevel.current_trio_token().run_sync_soon
        )

    def emit(self, item: object) -> int:
        """Send an item, and return its cost. In the thread.

        Raises:
            Exception: Raised by `pack`: the item cannot be sent.
            trio.Cancelled: The call was cancelled, so the generator must end.
        """
        trio.from_thread.check_cancelled()
        cost = self.add(item)
        self._emitted += 1
        if self._emitted % _ITEMS_PER_TURN == 0:
            time.sleep(0)
        return cost

    def add(self, item: object) -> int:
        """Send an item, and return its cost. In a thread of another event loop.

        Raises:
            Exception: Raised by `pack`: the item cannot be sent.
        """
        packed, cost = self._pack(item)
        self._packed.append(packed)
        if not self._is_scheduled:
            self._is_scheduled = True
            self.post(self._deliver)
        return cost

    def _deliver(self) -> None:
        # Before anything else: any item that the thread adds from now on must schedule a delivery.
        self._is_scheduled = False
        try:
            self._put(self._packed)
        except Exception as exc:  # noqa: BLE001 - here it would end the loop; `check` raises it
            self._failure = exc

    def check(self) -> None:
        """Raise the exception of a `put` that has failed, if one has. In the loop."""
        if self._failure is not None:
            raise self._failure
