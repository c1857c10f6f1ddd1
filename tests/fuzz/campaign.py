"""Runs a target for a time, and makes what fails small."""

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
    """Something that reads bytes.

    Attributes:
        name: For the command line.
        unit: What it counts.
        cases: Makes cases from a source of chance.
        check: Raises if it is wrong about a case, else gives how many units there were in it.
    """

    name: str
    unit: str
    cases: Callable[[Mutator], Iterator[Case]]
    check: Check


class Report(NamedTuple):
    """What became of a target: how much it was given, and what it was wrong about, if it was."""

    cases: int
    units: int
    seconds: float
    case: Case | None = None
    error: Exception | None = None


def run(target: Target, seed: str, seconds: float, cases: int | None = None) -> Report:
    """Check cases until the time is over, there were so many, or one fails."""
    start = time.monotonic()
    done = units = 0
    for case in target.cases(Mutator(f"{target.name} {seed}")):
        try:
            units += target.check(case)
        except Exception as exc:  # noqa: BLE001 - whatever it is, it is what we look for
            small = smallest(case, target.check, time.monotonic() + 60)
            return Report(
                done, units, time.monotonic() - start, small, failure(small, target) or exc
            )
        done += 1
        if time.monotonic() - start > seconds or done == cases:
            break
    return Report(done, units, time.monotonic() - start)


def failure(case: Case, target: Target) -> Exception | None:
    """Give what a case makes a target raise."""
    try:
        target.check(case)
    except Exception as exc:  # noqa: BLE001
        return exc
    return None


def smallest(case: Case, check: Check, deadline: float) -> Case:
    """Leave away all that the failure does not need: pieces of the case, then bytes of each."""

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
    """Leave away halves, quarters and so on, as long as it fails without them."""
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
