"""Limit how many lines a peer can cause in the log.

A `RateLimitedLogger` lets a burst of lines pass, and then a few each second. Before the next line
that passes, it logs how many were omitted. Each connection has one for the errors of its calls. Its
parent is the exporter's, so that a peer gains nothing by connecting again. Another one is for
connections that are refused or lost. Exceptions of log handlers never reach the caller.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from typing import Final

import trio

from .rate_limit import TokenBucket

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["RateLimitedLogger"]

_BURST: Final = 10  # lines
_RATE: Final = 1.0  # lines a second: a day of them is less than 20 MB


class RateLimitedLogger:
    """Write to a logger, and omit the lines that exceed a rate.

    For tasks of one Trio loop. No method is a checkpoint or raises: a broken log handler breaks
    nothing else.

    Args:
        burst: Lines that pass without delay.
        rate: Lines that pass each second after that.
        parent: Another logger whose limit counts these lines too.

    """

    __slots__ = ("_bucket", "_burst", "_omitted", "_parent", "_rate")

    def __init__(
        self, burst: float = _BURST, rate: float = _RATE, parent: RateLimitedLogger | None = None
    ) -> None:
        self._burst = burst
        self._rate = rate
        self._parent = parent
        self._bucket: TokenBucket | None = None  # once it is needed: most connections log nothing
        self._omitted = 0

    def log(
        self,
        logger: logging.Logger,
        level: int,
        text: str,
        *args: object,
        exc: BaseException | None = None,
    ) -> None:
        """Write a line, or count it as omitted.

        Args:
            logger: The logger to write to.
            level: A level of `logging`. A line below the logger's level costs nothing.
            text: The message, with `%` for the arguments.
            args: The arguments. Text from a peer must have passed `sanitize_text`.
            exc: An exception whose traceback is logged too.
        """
        if self.allows(logger, level):
            self.write(logger, level, text, *args, exc=exc, stacklevel=3)

    def allows(self, logger: logging.Logger, level: int) -> bool:
        """Take a token for a line that is not made yet. If True, pass the line to `write`."""
        if not logger.isEnabledFor(level):
            return False
        if self._try_acquire(trio.current_time()):
            return True
        self._omitted += 1
        return False

    def _try_acquire(self, now: float) -> bool:
        """Take a token of this logger, and one of each logger above it."""
        if self._bucket is None:
            self._bucket = TokenBucket(self._burst, self._rate)
        is_allowed = self._bucket.try_acquire(now)
        return is_allowed and (self._parent is None or self._parent._try_acquire(now))  # noqa: SLF001 - of this class

    def write(
        self,
        logger: logging.Logger,
        level: int,
        text: str,
        *args: object,
        exc: BaseException | None = None,
        extra: Mapping[str, object] | None = None,
        stacklevel: int = 2,
    ) -> None:
        """Write a line for which `allows` has returned True; `extra` has fields of the record."""
        # A log handler may raise; logging itself catches most of it.
        with contextlib.suppress(Exception):
            if self._omitted:
                logger.log(level, "%s omitted here", _lines_were(self._omitted))
                self._omitted = 0
            logger.log(level, text, *args, exc_info=exc, extra=extra, stacklevel=stacklevel)

    def close(self, logger: logging.Logger, name: str) -> None:
        """Log how many lines were omitted since the last one, if any were."""
        if self._omitted:
            with contextlib.suppress(Exception):  # raised by a log handler
                logger.info("%s omitted, on %s", _lines_were(self._omitted), name)


def _lines_were(count: int) -> str:
    return "1 line was" if count == 1 else f"{count} lines were"
