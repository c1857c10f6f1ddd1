"""Tell whether a figure has one mode or two: pure functions.

Some figures take one of two values far apart, and little between. A bulk transfer between two cores
is one: if the reader keeps up, it sleeps and is woken for each piece; otherwise both ends work
without a pause, nine times as fast. Which it is can change with each start of the processes. The
median of such a figure depends on chance, and so does its ratio to another figure.

Two groups of rounds are modes if

- the step between them is at least `STEP`,
- the step is larger than the whole spread within either group, and
- each has at least `FEWEST` rounds: a single one is a disturbance, which the median ignores.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

__all__ = ["FEWEST", "STEP", "are_comparable", "slow_rounds"]

STEP: Final = 1.6  # times; rounds of bare sockets on a shared machine differ by up to a half
FEWEST: Final = 2


def slow_rounds(figures: Sequence[float]) -> frozenset[int]:
    """Return the rounds of the lower mode, by number; empty if there is one mode only.

    Args:
        figures: One positive figure for each round.
    """
    order = sorted(range(len(figures)), key=figures.__getitem__)
    ordered = [figures[number] for number in order]
    best, at = 1.0, 0
    for place in range(FEWEST, len(ordered) - FEWEST + 1):
        step = ordered[place] / ordered[place - 1]
        if step > best:
            best, at = step, place
    if best < STEP:
        return frozenset()
    within = max(ordered[at - 1] / ordered[0], ordered[-1] / ordered[at])
    return frozenset(order[:at]) if best > within else frozenset()


def are_comparable(figures: Sequence[float], others: Sequence[float]) -> bool:
    """Return True if a ratio of two figures, taken within each round, means something.

    It does if each has one mode, or if both change their modes in the same rounds: then the
    machine has changed, and not one of the sides.
    """
    lower, lower_of_others = slow_rounds(figures), slow_rounds(others)
    return lower == lower_of_others
