"""Limit how often something may happen, by a token bucket.

Events that a well-behaved peer causes now and then, and a hostile one without end, cost a token
each: a ping, a late frame, a line in the log. The bucket has no clock; the caller passes the time.
"""

from __future__ import annotations

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["TokenBucket"]


class TokenBucket:
    """A supply of tokens that refills over time.

    Args:
        burst: The tokens at first, and the most that it holds.
        rate: The tokens added each second.
    """

    __slots__ = ("_at", "_burst", "_left", "_rate")

    def __init__(self, burst: float, rate: float) -> None:
        self._burst = burst
        self._rate = rate
        self._left = burst
        self._at: float | None = None  # the time at which `_left` was computed

    def try_acquire(self, now: float, amount: float = 1) -> bool:
        """Take tokens, all or none.

        Args:
            now: The time in seconds, always of the same monotonic clock.
            amount: How many tokens.

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
