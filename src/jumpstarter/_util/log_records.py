"""What the two sides of a log stream know of log records."""

from __future__ import annotations

import logging
from typing import Final

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["STANDARD_FIELDS", "plain_text"]

# The attributes that logging gives to each record, and those that formatters add. All others are
# extra fields. `taskName` came with Python 3.12.
STANDARD_FIELDS: Final = frozenset(
    {*vars(logging.makeLogRecord({})), "asctime", "message", "taskName"}
)


def plain_text(text: str, length: int) -> str:
    """Return a text that can be sent: truncated, and without lone surrogates.

    Args:
        text: The text.
        length: Characters to keep.
    """
    if len(text) > length:
        text = f"{text[:length]}... [cut: {len(text)} characters in all]"
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()
