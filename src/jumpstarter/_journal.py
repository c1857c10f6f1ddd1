"""How often something is written to the log: what a peer can bring about, it can bring about often.

A journal lets a few lines pass at once and then one a second; the next line that passes says how
many were left out. Each connection has one for what its calls raise, and each exporter one for the
connections that it refuses or loses. Whatever a log handler does, it does not reach who writes.
"""

from __future__ import annotations

import contextlib
import logging
from typing import Final

import trio

from ._patience import Bucket

__all__ = ["Journal"]

_BURST: Final = 10  # lines
_RATE: Final = 1.0  # lines a second: a day of them is less than 20 MB


class Journal:
    """Lines of a log, of which too many are left out.

    For tasks of one Trio loop.

    Args:
        burst: Lines that pass at once.
        rate: Lines that pass each second after that.
    """

    def __init__(self, burst: float = _BURST, rate: float = _RATE) -> None:
        self._bucket = Bucket(burst, rate)
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

        No checkpoint. Raises nothing, so that a log which is broken breaks nothing else.

        Args:
            logger: Where to.
            level: One of `logging`; a line that the logger does not take costs nothing.
            text: With `%` for the arguments, as `logging` takes it.
            args: The arguments; what a peer has sent among them was made printable by `_text`.
            exc: An exception whose traceback follows.
        """
        if self.takes(logger, level):
            self.write(logger, level, text, *args, exc=exc, stacklevel=3)

    def takes(self, logger: logging.Logger, level: int) -> bool:
        """Ask if a line would be written, before it is made: then it is to be given to `write`."""
        if not logger.isEnabledFor(level):
            return False
        if self._bucket.take(trio.current_time()):
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
        if self._left_out:
            text += " (and %d lines before this one were left out)"
            args = (*args, self._left_out)
            self._left_out = 0
        with contextlib.suppress(Exception):
            logger.log(level, text, *args, exc_info=exc, stacklevel=stacklevel)
