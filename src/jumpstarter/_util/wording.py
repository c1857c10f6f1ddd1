"""Give advice in the words of the interface in use: Python, the command line, or pytest.

The library's errors tell what to do in Python. A user of the command line has never written
`ssl_context=`. So the interface sets a table with its own words for those phrases, as translations
are kept. The tables belong to the interfaces, and this module knows none of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Final

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["using_words", "worded"]

_PYTHON: Final[Mapping[str, str]] = MappingProxyType({})

_words: Mapping[str, str] = _PYTHON  # of the interface in use; errors arise in any thread


def worded(phrase: str) -> str:
    """Return a phrase about Python's arguments in the words of the interface in use.

    Args:
        phrase: A literal, so that a test can compare the tables with the sources.
    """
    return _words.get(phrase, phrase)


@contextmanager
def using_words(table: Mapping[str, str]) -> Iterator[None]:
    """Use the words of another interface, for the length of a block, in the whole process.

    Args:
        table: Its words by the phrases for Python.
    """
    global _words  # noqa: PLW0603 - a process has one interface, and threads of several loops
    before, _words = _words, table
    try:
        yield
    finally:
        _words = before
