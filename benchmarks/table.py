"""Compute figures from measures, and format them as a table in Markdown.

The table shows a figure as the median over the rounds, with the extremes in brackets. The line of
each side also has the ratio of its figure to the floor's, and how many times better ours is. A
figure with two modes (see `modes`) is shown as two, and has a ratio only to a figure that changes
with it. The processor time of an operation is that of the client and of the server; it may have two
modes too.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from . import modes
from .harness import Result
from .model import FLOOR, OURS, Unit, Workload

__all__ = [
    "HEAD",
    "Spread",
    "figures",
    "gain",
    "goal_of",
    "lines",
    "processor_time",
    "processor_times",
    "processor_times_of_both",
    "ratio",
    "ratio_within",
    "row",
    "short",
    "shown",
    "shown_briefly",
    "whole",
]

_WIDTHS: Final = (52, 18, 18, 37, 21, 22, 15, 13)
_NO_RATIO: Final = "none: two modes"


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
        return f"{short(self.median)} ({short(self.low)}-{short(self.high)})"


def short(value: float) -> str:
    """Return a number with three digits or so."""
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 0.1 else 3
    return f"{value:,.{digits}f}"


def figures(result: Result, side: str, unit: Unit) -> list[float]:
    """Return the figure of a side for each round."""
    return [
        unit.figure(_operations(result, side, measures[side]), measures[side])
        for measures in result.rounds
    ]


def _operations(result: Result, side: str, measures: Mapping[str, float]) -> int:
    return int(measures.get("operations", result.operations[side]))


def processor_times(result: Result, side: str, role: str) -> list[float]:
    """Return a process's seconds of processor time for an operation in each round, if known."""
    return [
        measures[side][f"{role}_cpu"] / _operations(result, side, measures[side])
        for measures in result.rounds
        if f"{role}_cpu" in measures[side]
    ]


def processor_time(result: Result, side: str, role: str) -> float | None:
    """Return the median of a process's seconds of processor time for an operation, if known."""
    spent = processor_times(result, side, role)
    return statistics.median(spent) if spent else None


def processor_times_of_both(result: Result, side: str) -> list[float]:
    """Return the seconds for an operation at all ends of a side in each round, if known."""
    times = (processor_times(result, side, role) for role in ("client", "server"))
    return [sum(each) for each in zip(*filter(None, times), strict=True)]


def ratio(result: Result, side: str, base: str, unit: Unit) -> Spread | None:
    """Compute the ratio of two sides' figures within each round.

    Returns None if the two were measured in different modes: such a ratio depends on chance.
    """
    return ratio_within(figures(result, side, unit), figures(result, base, unit))


def ratio_within(ours: Sequence[float], theirs: Sequence[float]) -> Spread | None:
    """Compute the ratio of two figures within each round, unless their modes differ."""
    if not modes.are_comparable(ours, theirs):
        return None
    return Spread.of([figure / standard for figure, standard in zip(ours, theirs, strict=True)])


def gain(result: Result, side: str, unit: Unit) -> Spread | None:
    """Return how many times better our side is than another one, if they can be compared."""
    if unit.is_rate:
        return ratio(result, OURS, side, unit)
    return ratio(result, side, OURS, unit)


def row(cells: Iterable[str], widths: Sequence[int] = _WIDTHS) -> str:
    """Return a line of a table in Markdown."""
    aligned = zip(cells, widths, strict=True)
    return f"| {' | '.join(cell.ljust(width) for cell, width in aligned)} |"


_TITLES: Final = (
    "workload: client -> driver",
    "unit",
    "side",
    "median (min-max)",
    "of the floor's",
    "ours better, times",
    "CPU, µs each",
    "goal",
)
HEAD: Final = f"{row(_TITLES)}\n|{'|'.join('-' * (width + 2) for width in _WIDTHS)}|"


def lines(result: Result) -> Iterator[str]:
    """Yield the lines of a workload in the table."""
    workload = result.workload
    name = workload.name
    for unit in workload.units:
        label = unit.name
        for side in workload.sides:
            if side in result.absent:
                cells = [result.absent[side], "", "", "", ""]
            else:
                cells = _cells(result, side, unit)
            yield row([name, label, side, *cells])
            name = label = ""


def whole(results: Iterable[Result]) -> str:
    """Return the whole table."""
    return "\n".join([HEAD, *(line for result in results for line in lines(result))])


def _cells(result: Result, side: str, unit: Unit) -> list[str]:
    figure = shown(figures(result, side, unit))
    of_floor = "" if side == FLOOR else str(ratio(result, side, FLOOR, unit) or _NO_RATIO)
    better = "" if side == OURS else str(gain(result, side, unit) or _NO_RATIO)
    if unit != result.workload.units[0]:
        return [figure, of_floor, better, "", ""]
    return [figure, of_floor, better, _processor(result, side), goal_of(result.workload, side)]


def shown(values: Sequence[float]) -> str:
    """Show a figure; one that has two modes as the two, with the number of rounds of each."""
    each = _modes_of(values)
    if len(each) == 1:
        return str(Spread.of(values))
    return " or ".join(f"{short(statistics.median(mode))} ({len(mode)} rounds)" for mode in each)


def shown_briefly(values: Sequence[float]) -> str:
    """Show the median of a figure; if it has two modes, the two medians in brackets."""
    medians = [short(statistics.median(mode)) for mode in _modes_of(values)]
    return medians[0] if len(medians) == 1 else f"({' or '.join(medians)})"


def _modes_of(values: Sequence[float]) -> list[list[float]]:
    slow = modes.slow_rounds(values)
    lower = [value for number, value in enumerate(values) if number in slow]
    upper = [value for number, value in enumerate(values) if number not in slow]
    return [lower, upper] if lower else [upper]


def _processor(result: Result, side: str) -> str:
    """Show the processor time of an operation, in microseconds: the client's and the server's."""
    times = (processor_times(result, side, role) for role in ("client", "server"))
    return " + ".join(shown_briefly([1e6 * each for each in spent]) for spent in times if spent)


def goal_of(workload: Workload, side: str) -> str:
    """Return the goal of our side in comparison with this side, or an empty string."""
    if side not in workload.goals:
        return ""
    goal = workload.goals[side]
    bound = ">=" if workload.units[0].is_rate else "<="
    if side == OURS:
        return f"{bound} {goal:g}"
    if side == FLOOR or workload.sides[side].is_ours:
        return f"ours {bound} {goal:g} x"
    return f">= {goal:g}"
