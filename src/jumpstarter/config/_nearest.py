"""Name the known word that is nearest to an unknown one, for messages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

from .._util.nearest import nearest_names

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["did_you_mean", "nearest_word"]

_NONE: Final[Mapping[str, str]] = MappingProxyType({})


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
    words = list(known)
    if near := nearest_word(word, words, meant):
        return f"; did you mean {near}?"
    return f"; {otherwise} {', '.join(words)}" if otherwise and words else ""


def nearest_word(word: str, known: Iterable[str], meant: Mapping[str, str] = _NONE) -> str | None:
    """Return the known word that an unknown one is likely to stand for, or None.

    Args:
        word: The unknown word.
        known: The words that would be accepted.
        meant: Words that users write for one of these, though they are not similar.
    """
    words = list(known)
    synonym = meant.get(word)
    if synonym in words:
        return synonym
    return next(iter(nearest_names(word, words)), None)
