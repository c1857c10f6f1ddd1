"""From seconds to figures, and from figures to a table.

A figure is shown as the median over the rounds, with the extremes in brackets.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from .harness import Result
from .workloads import FLOOR, OURS, Workload

__all__ = ["HEAD", "Spread", "figures", "line", "ratio"]

_WIDTHS: Final = (30, 9, 26, 26, 20, 6)


@dataclass(frozen=True)
class Spread:
    """What the rounds of one figure came to."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Sum up one value of each round."""
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        return f"{_short(self.median)} ({_short(self.low)}-{_short(self.high)})"


def _short(value: float) -> str:
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f}"


def figures(result: Result, side: str) -> list[float]:
    """Give a side's figure of each round, in the workload's unit."""
    operations = result.operations[side]
    unit = result.workload.unit
    return [unit.figure(operations, seconds[side]) for seconds in result.rounds]


def ratio(result: Result, side: str, base: str) -> Spread:
    """Compare two sides within each round."""
    pairs = zip(figures(result, side), figures(result, base), strict=True)
    return Spread.of([ours / theirs for ours, theirs in pairs])


def _row(cells: Iterable[str]) -> str:
    aligned = zip(cells, _WIDTHS, strict=True)
    return "  ".join(cell.ljust(width) for cell, width in aligned).rstrip()


HEAD: Final = _row(("workload: client -> driver", "unit", OURS, FLOOR, "ratio", "goal"))


def line(result: Result) -> str:
    """Give a workload's line of the table."""
    workload = result.workload
    return _row(
        (
            workload.name,
            workload.unit.name,
            str(Spread.of(figures(result, OURS))),
            str(Spread.of(figures(result, FLOOR))),
            str(ratio(result, OURS, FLOOR)),
            _goal(workload),
        )
    )


def _goal(workload: Workload) -> str:
    if workload.goal is None:
        return ""
    return f"{'>=' if workload.unit.is_rate else '<='} {workload.goal:g}"
