"""How much a peer may still send on one stream or generator, and when to give credit back.

Credit is counted per slot and direction; there is no window of the connection, because one that is
tied to application reads lets streams deadlock each other. Three rules:

1. Credit goes back when the *application* has read, half a window at a time. Fewer, larger CREDIT
   frames follow, and no sender can stall: once everything was read, either half a window has gone
   back, or the sender has more than half of one left. (A sender never waits for a whole message's
   worth: DATA is cut to what credit there is, and an ITEM may overshoot by one message.)
2. A window doubles each time its reader is found to keep up, that is, with nothing left to read at
   the moment when credit goes back: a slow start without a clock. A reader that stops costs what
   its window had grown to.
3. All windows of a connection draw on one `Budget`; when it is used up, none grows any more.

An ITEM is charged its length and `ITEM_COST`, so that a flood of empty items is bounded too.
This file knows no frames and no slots.
"""

from __future__ import annotations

from typing import Final

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["GRANTS", "ITEM_COST", "MAX_CREDIT", "Budget", "ReceiveWindow", "SendWindow"]

ITEM_COST: Final = 64  # bytes: about what a queued item costs in memory beside its payload
GRANTS: Final = 10  # CREDIT frames that may come at first, and for each frame that was sent
MAX_CREDIT: Final = 2**31 - 1  # a sum beyond it is the peer's error


class Budget:
    """What the windows of one connection may sum up to, in bytes."""

    __slots__ = ("left",)

    def __init__(self, total: int) -> None:
        self.left: int = total

    def reserve(self, amount: int) -> bool:
        """Reserve `amount` for growth if there is so much."""
        if amount > self.left:
            return False
        self.left -= amount
        return True


class SendWindow:
    """What we may still send.

    Attributes:
        available: Bytes; negative after an ITEM that overshot.
        grants: How often the peer may still add to it; negative once it has done so too often.
    """

    __slots__ = ("available", "grants")

    def __init__(self, initial: int) -> None:
        self.available: int = initial
        self.grants: int = GRANTS

    def spend(self, amount: int, frames: int) -> None:
        """Count what is sent, and in how many frames."""
        self.available -= amount
        self.grants += GRANTS * frames

    def grant(self, delta: int) -> bool:
        """Add the peer's credit. False if the sum is beyond what the wire allows."""
        self.grants -= 1
        self.available += delta
        return self.available <= MAX_CREDIT


class ReceiveWindow:
    """What the peer may still send, what waits for the application, and what goes back when."""

    __slots__ = ("_budget", "_limit", "_returning", "_waiting", "available", "size")

    def __init__(self, initial: int, limit: int, budget: Budget) -> None:
        self.size: int = initial
        self.available: int = initial
        self._limit = limit
        self._budget = budget
        self._waiting = 0  # received, not yet read by the application
        self._returning = 0  # read, not yet given back
        # The first window is promised in HELLO and cannot be refused: the budget may go below zero.
        budget.left -= initial

    def receive(self, amount: int) -> None:
        """Count what has arrived. `available` below zero is an overshoot: the caller judges it."""
        self.available -= amount
        self._waiting += amount

    def consume(self, amount: int) -> int:
        """Count what the application has read.

        Returns:
            The credit to send now, in bytes; 0 for none yet.
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
        """Hand the window's share of the budget back. Call once, when the slot ends."""
        self._budget.left += self.size
