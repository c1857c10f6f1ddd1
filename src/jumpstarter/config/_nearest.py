"""Name the known word that is nearest to an unknown one, for messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["did_you_mean"]

_NONE: Final[Mapping[str, str]] = MappingProxyType({})
_SIMILAR: Final = 0.6  # of 1.0; words with less in common are rarely what was meant


def did_you_mean(
    word: str, known: Iterable[str], otherwise: str = "", meant: Mapping[str, str] = _NONE
) -> str:
    """Return `"; did you mean X?"`, or a list of the known words if none is near.

    Args:
        word: The unknown word.
        known: The words that would be accepted.
        otherwise: The words before the list. Without them, and without known words, the result is
            empty if no word is near.
        meant: Words that users write for one of these, though they are not similar.
    """
    words = {each.lower(): each for each in known}
    near = meant.get(word)
    if near is None or near.lower() not in words:
        matches = difflib.get_close_matches(word.lower(), words, n=1, cutoff=_SIMILAR)
        near = words[matches[0]] if matches else None
    if near is not None:
        return f"; did you mean {near}?"
    return f"; {otherwise} {', '.join(words.values())}" if otherwise and words else ""
