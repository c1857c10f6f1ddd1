"""How often something is written to the log: what a peer can bring about, it can bring about often.

A journal lets a few lines pass at once and then some a second; before the next one that passes it
says how many were left out. Each connection has one for what its calls raise, and the exporter one
for all of them, so that nobody gains by connecting again; one more for the connections that it
refuses or loses. Whatever a log handler does, it does not reach who writes.
"""

from __future__ import annotations

import contextlib
import logging
from typing import Final

import trio

from .rate_limit import TokenBucket

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["RateLimitedLogger"]

_BURST: Final = 10  # lines
_RATE: Final = 1.0  # lines a second: a day of them is less than 20 MB


class RateLimitedLogger:
    """Lines of a log, of which too many are left out.

    For tasks of one Trio loop. Nothing here is a checkpoint or raises anything: a log that is
    broken breaks nothing else.

    Args:
        burst: Lines that pass at once.
        rate: Lines that pass each second after that.
        beyond: Another journal that has to let them pass too.

    Attributes:
        buckets: What a line has to pass.
    """

    def __init__(
        self, burst: float = _BURST, rate: float = _RATE, parent: RateLimitedLogger | None = None
    ) -> None:
        self.buckets: list[TokenBucket] = [
            TokenBucket(burst, rate),
            *(parent.buckets if parent else ()),
        ]
        self._left_out = 0

    def log(
        self,
        logger: logging.Logger,
        level: int,
        text: str,
        *args: object,
        exc: BaseException | None = None,
    ) -> None:
        """Write a line, or count it as left out.

        Args:
            logger: Where to.
            level: One of `logging`; a line that the logger does not take costs nothing.
            text: With `%` for the arguments, as `logging` takes it.
            args: The arguments; what a peer has sent among them was made printable by `_text`.
            exc: An exception whose traceback follows.
        """
        if self.allows(logger, level):
            self.write(logger, level, text, *args, exc=exc, stacklevel=3)

    def allows(self, logger: logging.Logger, level: int) -> bool:
        """Ask if a line would be written, before it is made: then it is to be given to `write`."""
        if not logger.isEnabledFor(level):
            return False
        now = trio.current_time()
        if all(bucket.try_acquire(now) for bucket in self.buckets):
            return True
        self._left_out += 1
        return False

    def write(
        self,
        logger: logging.Logger,
        level: int,
        text: str,
        *args: object,
        exc: BaseException | None = None,
        stacklevel: int = 2,
    ) -> None:
        """Write a line that `takes` has taken; it says where the caller is, or one further out."""
        # In the loop. Of a handler of the logging; most of what these raise, logging catches.
        with contextlib.suppress(Exception):
            if self._left_out:
                logger.log(level, "%d lines were left out here", self._left_out)
                self._left_out = 0
            logger.log(level, text, *args, exc_info=exc, stacklevel=stacklevel)

    def close(self, logger: logging.Logger, name: str) -> None:
        """Say how many lines were left out since the last one, and of whom, if any were."""
        if self._left_out:
            with contextlib.suppress(Exception):  # as in `write`
                logger.info("%d lines on %s were left out", self._left_out, name)
