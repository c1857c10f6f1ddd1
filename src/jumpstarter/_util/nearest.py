"""Find the known names that are nearest to an unknown one, for messages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["nearest_names"]

_SIMILAR: Final = 0.6  # of 1.0; names with less in common are rarely what was meant


def nearest_names(name: str, known: Iterable[str], most: int = 1) -> list[str]:
    """Return the known names that look like a name, the most similar one first.

    Args:
        name: The unknown name. Its case does not count.
        known: The names that would be accepted.
        most: How many to return, at most.
    """
    from difflib import get_close_matches  # noqa: PLC0415 - slow, and for an error only

    names = {each.lower(): each for each in known}
    near = get_close_matches(name.lower(), names, n=most, cutoff=_SIMILAR)
    return [names[each] for each in near]
