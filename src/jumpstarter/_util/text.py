"""Make text from a peer safe to include in log lines and error messages.

Such text can have any length, and can contain line breaks, escape sequences for terminals, and
marks that reverse the reading direction. These functions escape every character that is not
printable, and truncate what is too long.
"""

from __future__ import annotations

import json
from typing import Final

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = [
    "Verbatim",
    "escape_json",
    "escape_lines",
    "escape_text",
    "indent_text",
    "sanitize_name",
    "sanitize_text",
]

_LENGTH: Final = 200  # characters of a name
_BLOCK: Final = 10_000  # characters of a traceback: about a hundred lines


def sanitize_text(text: str, length: int = _LENGTH) -> str:
    """Return a text in quotes on one line, as `repr` does, with a mark if it was truncated.

    Args:
        text: Any text from a peer.
        length: Characters to keep. Each may become up to ten when it is escaped.
    """
    if len(text) <= length:
        return repr(text)
    return f"{text[:length]!r}... [cut: {len(text)} characters in all]"


def sanitize_name(name: str) -> str:
    """Return the name of a class or driver, in quotes unless it is a (dotted) identifier."""
    if len(name) <= _LENGTH and all(part.isidentifier() for part in name.split(".")):
        return name
    return sanitize_text(name)


def indent_text(text: str, length: int = _BLOCK) -> str:
    """Return a text of several lines, none of which can be mistaken for a line of the log.

    All lines but the first begin with blanks and a bar. Characters that are not printable are
    escaped.

    Args:
        text: Any text from a peer, or an exception's text, which may repeat that.
        length: Characters to keep. Each may become up to ten when it is escaped.
    """
    kept = text[:length]
    rest = f"... [cut: {len(text)} characters in all]" if len(text) > length else ""
    return "\n    | ".join(map(escape_text, kept.rstrip("\n").split("\n"))) + rest


def escape_text(line: str) -> str:
    """Return a text on one line, with every character escaped that is not printable."""
    if line.isprintable():
        return line
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in line)


def escape_lines(text: str) -> str:
    """Return a text with its lines and tabs, and every other character escaped as above."""
    lines = text.replace("\r\n", "\n").split("\n")
    return "\n".join("\t".join(map(escape_text, line.split("\t"))) for line in lines)


def escape_json(text: str) -> str:
    """Return the same JSON, with every character of its strings escaped that is not printable."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else json.dumps(each)[1:-1] for each in text)


class Verbatim:
    """A text whose `repr` is the text itself: how a signature shows it without quotes.

    Args:
        text: The text.
    """

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text
