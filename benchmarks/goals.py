"""Judge a run by its goals: one line for each goal that a workload has.

A goal is met if the median of the rounds reaches it. If it lies between the best and the worst
round, the line says so: a run on a busy machine neither meets nor misses such a goal for certain. A
ratio of two figures that were measured in different modes is not judged.

If an earlier state of the library was a side, no operation may take over `MARGIN` more processor
time than it took there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from .harness import Result
from .model import BEFORE, FLOOR, OURS
from .modes import slow_rounds
from .table import (
    Spread,
    figures,
    gain,
    goal_of,
    processor_times_of_both,
    ratio,
    ratio_within,
    row,
    shown,
)

__all__ = ["HEAD", "MARGIN", "against_before", "lines", "whole"]

MARGIN: Final = 0.05

_WIDTHS: Final = (52, 22, 16, 30, 24)
_TITLES: Final = ("workload", "compared with", "goal", "measured", "met")
HEAD: Final = f"{row(_TITLES, _WIDTHS)}\n|{'|'.join('-' * (width + 2) for width in _WIDTHS)}|"
_NONE: Final = "The run had no workload with a goal."


def lines(result: Result) -> Iterator[str]:
    """Yield the line of each goal of a workload, except of a side that is absent."""
    workload = result.workload
    for side in workload.goals:
        if side not in result.absent:
            other = f"({workload.units[0].name})" if side == OURS else side
            goal = goal_of(workload, side).removeprefix("ours ")
            measured, met = _judge(result, side)
            yield row([workload.name, other, goal, measured, met], _WIDTHS)


def _judge(result: Result, side: str) -> tuple[str, str]:
    """Return what was measured for a goal, and whether that meets it."""
    workload = result.workload
    unit = workload.units[0]
    if side == OURS:
        values = figures(result, OURS, unit)
        if slow_rounds(values):
            return shown(values), "two modes"
        spread, at_least = Spread.of(values), unit.is_rate
    else:
        is_multiple = side == FLOOR or workload.sides[side].is_ours
        found = ratio(result, OURS, side, unit) if is_multiple else gain(result, side, unit)
        if found is None:
            return "", "two modes"
        spread, at_least = found, unit.is_rate or not is_multiple
    return str(spread), _verdict(spread, workload.goals[side], at_least=at_least)


def _verdict(spread: Spread, goal: float, *, at_least: bool) -> str:
    met = spread.median >= goal if at_least else spread.median <= goal
    certain = goal <= spread.low or goal >= spread.high
    return ("yes" if met else "no") + ("" if certain else ", by the median only")


def against_before(results: Iterable[Result]) -> str:
    """Say which workloads take more processor time than in the earlier state, if it was a side."""
    changes = {
        result.workload.name: ratio_within(*spent)
        for result in results
        if BEFORE in result.workload.sides and BEFORE not in result.absent
        if all(spent := [processor_times_of_both(result, side) for side in (OURS, BEFORE)])
    }
    if not changes:
        return ""
    more = [
        f"{name}, {change} times"
        for name, change in changes.items()
        if change is not None and change.median > 1 + MARGIN
    ]
    two = [name for name, change in changes.items() if change is None]
    said = f"Over {MARGIN:.0%} more processor time than before: {'; '.join(more) or 'none'}."
    return f"{said} Not compared, because of two modes: {'; '.join(two)}." if two else said


def whole(results: Sequence[Result]) -> str:
    """Return the whole table, or a sentence if the run has no workload with a goal."""
    found = [line for result in results for line in lines(result)]
    table = "\n".join([HEAD, *found]) if found else _NONE
    return "\n\n".join(filter(None, [table, against_before(results)]))
