"""Run a target for a given time, and minimize a failing case."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple, TypeVar

from .mutation import Mutator

Case = list[bytes]
Check = Callable[[Case], int]
Whole = TypeVar("Whole", bytes, Case)


class Target(NamedTuple):
    """A part of the code that reads bytes, with its cases and its check.

    Attributes:
        name: The target's name on the command line.
        unit: The plural noun for the units that `check` counts.
        cases: Generates cases from a mutator.
        check: Checks a case. Returns the number of units in it, or raises if the check fails.
    """

    name: str
    unit: str
    cases: Callable[[Mutator], Iterator[Case]]
    check: Check


class Report(NamedTuple):
    """The result of running a target: counts, and the failing case and its error, if any."""

    cases: int
    units: int
    seconds: float
    case: Case | None = None
    error: Exception | None = None


def run(target: Target, seed: str, seconds: float, cases: int | None = None) -> Report:
    """Check cases until the time is over, `cases` of them have passed, or one fails."""
    start = time.monotonic()
    done = units = 0
    for case in target.cases(Mutator(f"{target.name} {seed}")):
        try:
            units += target.check(case)
        except Exception as exc:  # noqa: BLE001 - any exception is a finding
            small = smallest(case, target.check, time.monotonic() + 60)
            return Report(
                done, units, time.monotonic() - start, small, failure(small, target) or exc
            )
        done += 1
        if time.monotonic() - start > seconds or done == cases:
            break
    return Report(done, units, time.monotonic() - start)


def failure(case: Case, target: Target) -> Exception | None:
    """Return the exception that a target raises for a case, or None."""
    try:
        target.check(case)
    except Exception as exc:  # noqa: BLE001
        return exc
    return None


def smallest(case: Case, check: Check, deadline: float) -> Case:
    """Minimize a failing case: remove pieces, then bytes of each piece, while it still fails."""

    def fails(smaller: Case) -> bool:
        if time.monotonic() > deadline:
            return False
        try:
            check(smaller)
        except Exception:  # noqa: BLE001
            return True
        return False

    case = _without(case, fails)
    for index in range(len(case)):
        around = partial(_around, case[:index], case[index + 1 :])
        case = around(_without(case[index], lambda piece: fails(around(piece))))  # noqa: B023
    return case


def _around(before: Case, after: Case, piece: bytes) -> Case:
    return [*before, piece, *after]


def _without(whole: Whole, fails: Callable[[Whole], bool]) -> Whole:
    """Remove halves, quarters and so on, as long as the rest still fails."""
    size = len(whole) // 2
    while size:
        at = 0
        while at < len(whole):
            smaller = whole[:at] + whole[at + size :]
            if fails(smaller):
                whole = smaller
            else:
                at += size
        size //= 2
    return whole
