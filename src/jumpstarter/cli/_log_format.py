"""The forms of the log that the command line offers."""

from __future__ import annotations

from typing import Final

from .._util.log_lines import LOG_LINE, LineFormatter

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["LOG_FORMATS", "TEXT", "log_formatter"]

TEXT: Final = "text"
_JSON: Final = "json"
LOG_FORMATS: Final = (TEXT, _JSON)


def log_formatter(name: str) -> LineFormatter:
    """Make the formatter of a form."""
    if name == TEXT:
        return LineFormatter(LOG_LINE)
    from ..observe import JsonFormatter  # noqa: PLC0415 - for this form only

    return JsonFormatter()
