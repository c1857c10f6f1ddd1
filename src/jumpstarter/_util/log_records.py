"""Read log records: the functions that all their readers share."""

from __future__ import annotations

import itertools
import logging
from typing import Final

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["FACTS", "STANDARD_FIELDS", "extra_fields", "plain_text"]

# The field in which the exporter puts what it knows of a call: a dict with keys of the JSON log.
FACTS: Final = "jumpstarter_facts"
# The attributes that logging gives to each record, those that formatters add, and the exporter's.
# All others are extra fields. `taskName` came with Python 3.12.
STANDARD_FIELDS: Final = frozenset(
    {*vars(logging.makeLogRecord({})), "asctime", "message", "taskName", FACTS}
)
_MAX_FIELD: Final = 1000  # characters of an extra field
_MAX_FIELDS: Final = 32  # extra fields of a record


def extra_fields(
    record: logging.LogRecord, length: int = _MAX_FIELD
) -> dict[str, str | int | float | None]:
    """Return the extra fields of a record, the first 32 of them, as plain values.

    Args:
        record: The record.
        length: Characters to keep of each name and text.
    """
    fields = (item for item in vars(record).items() if item[0] not in STANDARD_FIELDS)
    some = itertools.islice(fields, _MAX_FIELDS)
    return {plain_text(name, length): _plain(value, length) for name, value in some}


def _plain(value: object, length: int) -> str | int | float | None:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, float):
        return float(value)  # not one of numpy's, which is a subclass
    if isinstance(value, int) and -(1 << 63) <= value < 1 << 63:
        return int(value)
    return plain_text(str(value), length)


def plain_text(text: str, length: int) -> str:
    """Return a text that can be sent: truncated, and without lone surrogates.

    Args:
        text: The text.
        length: Characters to keep.
    """
    if len(text) > length:
        text = f"{text[:length]}... [cut: {len(text)} characters in all]"
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()
