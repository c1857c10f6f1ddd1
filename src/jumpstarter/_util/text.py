"""A peer's words, made fit for a line of ours.

What a peer has written may be of any length and hold line breaks, escape sequences of a terminal
or marks that turn the reading direction round. Where it becomes part of what *we* say, in the log
or in the words of an error, it passes through here: nothing that cannot be printed gets through as
it is, and of what is too long the rest is only counted. Knows nothing of the library.
"""

from __future__ import annotations

from typing import Final

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["indent_text", "sanitize_name", "sanitize_text"]

_LENGTH: Final = 200  # characters of a name: enough to know it by
_BLOCK: Final = 10_000  # characters of a traceback: some hundred lines


def sanitize_text(text: str, length: int = _LENGTH) -> str:
    """Give a text in quotes, on one line, as `repr` does, and with a mark where it was cut.

    Args:
        text: Whatever a peer has sent.
        length: Characters of it to keep; an escaped one takes up to ten in what is given.
    """
    if len(text) <= length:
        return repr(text)
    return f"{text[:length]!r}... [cut: {len(text)} characters in all]"


def sanitize_name(name: str) -> str:
    """Give the name of a class or a driver as it is, or quoted if it is no (dotted) identifier."""
    if len(name) <= _LENGTH and all(part.isidentifier() for part in name.split(".")):
        return name
    return sanitize_text(name)


def indent_text(text: str, length: int = _BLOCK) -> str:
    """Give a text of several lines, none of which can be taken for a line of the log itself.

    All but the first begin with blanks and a bar; in each, what cannot be printed is escaped.

    Args:
        text: Whatever a peer has sent, or an exception's text, which may repeat that.
        length: Characters of it to keep; an escaped one takes up to ten in what is given.
    """
    kept = text[:length]
    rest = f"... [cut: {len(text)} characters in all]" if len(text) > length else ""
    return "\n    | ".join(map(_printable, kept.rstrip("\n").split("\n"))) + rest


def _printable(line: str) -> str:
    if line.isprintable():
        return line
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in line)
