"""Format the lines of a log so that no text in it can pass for another line.

Text that devices, clients and exceptions contribute can contain escape sequences for terminals, and
line breaks. All control characters are escaped, and the further lines of a record begin with
blanks.
"""

from __future__ import annotations

import logging
from typing import Final

from .text import escape_text

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["LOG_LINE", "LineFormatter"]

LOG_LINE: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_INDENT: Final = "    | "


class LineFormatter(logging.Formatter):
    """Format records as text, with control characters escaped.

    A record with line breaks, as of a traceback, is several lines, and all but the first begin with
    a blank.

    Attributes:
        wraps_output: True if output of drivers must be wrapped by `note`, as all other lines.
    """

    wraps_output: bool = False

    def format(self, record: logging.LogRecord) -> str:
        """Return the lines of a record, without a line break at the end."""
        first, *others = super().format(record).split("\n")
        lines = [_escaped(first)]
        lines += [line if line[:1] == " " else _INDENT + line for line in map(_escaped, others)]
        return "\n".join(lines)

    def note(self, text: str, logger: str, level: int = logging.INFO) -> str:
        """Return a line that is not of a record.

        Args:
            text: The line.
            logger: The name of the logger that a structured format shows.
            level: The level that it shows.
        """
        del logger, level
        return text


def _escaped(line: str) -> str:
    """Escape what is not printable, except tabs, which source lines in tracebacks have."""
    return line if line.isprintable() else "\t".join(map(escape_text, line.split("\t")))
