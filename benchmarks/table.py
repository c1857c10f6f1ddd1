"""Compute figures from measures, and format them as a table in Markdown.

The table shows a figure as the median over the rounds, with the extremes in brackets. The line of
each side also has the ratio of its figure to the floor's, and how many times better ours is.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from .harness import Result
from .model import FLOOR, OURS, Unit, Workload

__all__ = ["HEAD", "Spread", "figures", "gain", "lines", "ratio", "whole"]

_WIDTHS: Final = (33, 18, 17, 27, 21, 22, 13)


@dataclass(frozen=True)
class Spread:
    """The median and the extremes of one figure over the rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Summarize a sequence with one value for each round."""
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        return f"{_short(self.median)} ({_short(self.low)}-{_short(self.high)})"


def _short(value: float) -> str:
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 0.1 else 3
    return f"{value:,.{digits}f}"


def figures(result: Result, side: str, unit: Unit) -> list[float]:
    """Return the figure of a side for each round."""
    operations = result.operations[side]
    return [unit.figure(operations, measures[side]) for measures in result.rounds]


def ratio(result: Result, side: str, base: str, unit: Unit) -> Spread:
    """Compute the ratio of two sides' figures within each round."""
    pairs = zip(figures(result, side, unit), figures(result, base, unit), strict=True)
    return Spread.of([figure / standard for figure, standard in pairs])


def gain(result: Result, side: str, unit: Unit) -> Spread:
    """Return how many times better our side is than another one."""
    if unit.is_rate:
        return ratio(result, OURS, side, unit)
    return ratio(result, side, OURS, unit)


def _row(cells: Iterable[str]) -> str:
    aligned = zip(cells, _WIDTHS, strict=True)
    return f"| {' | '.join(cell.ljust(width) for cell, width in aligned)} |"


_TITLES: Final = (
    "workload: client -> driver",
    "unit",
    "side",
    "median (min-max)",
    "of the floor's",
    "ours better, times",
    "goal",
)
HEAD: Final = f"{_row(_TITLES)}\n|{'|'.join('-' * (width + 2) for width in _WIDTHS)}|"


def lines(result: Result) -> Iterator[str]:
    """Yield the lines of a workload in the table."""
    workload = result.workload
    name = workload.name
    for unit in workload.units:
        label = unit.name
        for side in workload.sides:
            if side in result.absent:
                cells = [result.absent[side], "", "", ""]
            else:
                cells = _cells(result, side, unit)
            yield _row([name, label, side, *cells])
            name = label = ""


def whole(results: Iterable[Result]) -> str:
    """Return the whole table."""
    return "\n".join([HEAD, *(line for result in results for line in lines(result))])


def _cells(result: Result, side: str, unit: Unit) -> list[str]:
    figure = str(Spread.of(figures(result, side, unit)))
    of_floor = "" if side == FLOOR else str(ratio(result, side, FLOOR, unit))
    better = "" if side == OURS else str(gain(result, side, unit))
    is_first = unit == result.workload.units[0]
    return [figure, of_floor, better, _goal(result.workload, side) if is_first else ""]


def _goal(workload: Workload, side: str) -> str:
    """Return the goal of our side in comparison with this side, or an empty string."""
    if side not in workload.goals:
        return ""
    goal = workload.goals[side]
    bound = ">=" if workload.units[0].is_rate else "<="
    if side == OURS:
        return f"{bound} {goal:g}"
    if side == FLOOR:
        return f"ours {bound} {goal:g} x"
    return f">= {goal:g}"
