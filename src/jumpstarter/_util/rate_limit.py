"""How much of something is borne before it is too much: a token bucket.

What a well-behaved peer does now and then, and a hostile one without end, costs a token each time:
a ping, a late frame, a line in the log. It has no clock of its own; who asks says what time it is.
"""

from __future__ import annotations

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["TokenBucket"]


class TokenBucket:
    """Tokens that are taken one by one and come back with time.

    Args:
        burst: How many there are at first, and at most.
        rate: How many come back in a second.
    """

    __slots__ = ("_at", "_burst", "_left", "_rate")

    def __init__(self, burst: float, rate: float) -> None:
        self._burst = burst
        self._rate = rate
        self._left = burst
        self._at: float | None = None  # when `_left` was right

    def try_acquire(self, now: float, amount: float = 1) -> bool:
        """Take so many tokens, or none.

        Args:
            now: In seconds, of a clock that never goes back; always of the same one.
            amount: How many.

        Returns:
            False if there are fewer.
        """
        if self._at is not None:
            self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now
        if amount > self._left:
            return False
        self._left -= amount
        return True
