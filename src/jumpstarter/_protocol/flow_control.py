"""Count how much each side may still send on a stream or generator, and when to return credit.

Credit is counted per slot and direction. The connection has no window of its own: one that is tied
to what applications read would let streams deadlock each other. Three rules:

1. Credit is returned after the *application* has read half a window. That makes few CREDIT frames,
   and no sender can stall: once everything was read, either half a window has been returned, or
   the sender still has more than half of one. (A sender never waits for enough credit for a whole
   message: DATA is cut to the available credit, and an ITEM may exceed it.)
2. A window doubles whenever its reader keeps up, that is, has nothing left to read when credit is
   returned: a slow start without a clock. A reader that stops costs as much memory as its window
   has grown to.
3. All windows of a connection share one `Budget`. When it is used up, no window grows any more.

An ITEM costs its length plus `ITEM_COST`, so that a flood of empty items is bounded too.
"""

from __future__ import annotations

from typing import Final

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["GRANTS", "ITEM_COST", "MAX_CREDIT", "Budget", "ReceiveWindow", "SendWindow"]

ITEM_COST: Final = 64  # bytes: about the memory that a queued item takes beside its payload
GRANTS: Final = 10  # CREDIT frames accepted at first, and for each frame sent
MAX_CREDIT: Final = 2**31 - 1  # a larger sum is a breach


class Budget:
    """The bytes that all receive windows of one connection may have in sum."""

    __slots__ = ("left",)

    def __init__(self, total: int) -> None:
        self.left: int = total

    def reserve(self, amount: int) -> bool:
        """Reserve `amount` for the growth of a window. False, and no change, if less is left."""
        if amount > self.left:
            return False
        self.left -= amount
        return True


class SendWindow:
    """The credit that we may still spend.

    Attributes:
        available: Bytes; negative after an ITEM that exceeded it.
        grants: How many CREDIT frames are still accepted; negative after too many.
    """

    __slots__ = ("available", "grants")

    def __init__(self, initial: int) -> None:
        self.available: int = initial
        self.grants: int = GRANTS

    def spend(self, amount: int, frames: int) -> None:
        """Count bytes that are sent, and the number of frames that carry them."""
        self.available -= amount
        self.grants += GRANTS * frames

    def grant(self, delta: int) -> bool:
        """Add credit from the peer. False if the sum is larger than the protocol allows."""
        self.grants -= 1
        self.available += delta
        return self.available <= MAX_CREDIT


class ReceiveWindow:
    """The credit that the peer may still spend, and the credit that we owe it."""

    __slots__ = ("_budget", "_limit", "_returning", "_waiting", "available", "size")

    def __init__(self, initial: int, limit: int, budget: Budget) -> None:
        self.size: int = initial
        self.available: int = initial
        self._limit = limit
        self._budget = budget
        self._waiting = 0  # bytes received that the application has not read
        self._returning = 0  # bytes read whose credit was not returned
        # HELLO has promised the first window, so the budget may become negative.
        budget.left -= initial

    def receive(self, amount: int) -> None:
        """Count bytes received. The caller checks whether `available` has become negative."""
        self.available -= amount
        self._waiting += amount

    def consume(self, amount: int) -> int:
        """Count bytes that the application has read.

        Returns:
            The credit to return now, in bytes; 0 if it is too early.
        """
        self._waiting -= amount
        self._returning += amount
        if self._returning * 2 < self.size:
            return 0
        delta = self._returning + (self._grow() if self._waiting == 0 else 0)
        self._returning = 0
        self.available += delta
        return delta

    def _grow(self) -> int:
        step = min(self.size, self._limit - self.size)
        if not self._budget.reserve(step):
            return 0
        self.size += step
        return step

    def close(self) -> None:
        """Return the window's share of the budget. Call it once, when the slot ends."""
        self._budget.left += self.size
