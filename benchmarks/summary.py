"""Summarize a run by what users notice: what an everyday situation costs them.

One line for each workload of `situations`, with the medians: the figure, how many times ours
otherwise that is, the same for the processor time of both ends, and how many times better ours is
than each peer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from .harness import Result
from .model import FLOOR, OURS, Workload
from .table import figures, gain, goal_of, processor_time_of_both, ratio, row, short, shown

__all__ = ["HEAD", "is_everyday", "line", "whole"]

_WIDTHS: Final = (42, 28, 26, 8, 16, 50)
_TITLES: Final = (
    "situation",
    "ours",
    "times ours otherwise",
    "goal",
    "CPU, µs",
    "times better than a peer",
)
HEAD: Final = f"{row(_TITLES, _WIDTHS)}\n|{'|'.join('-' * (width + 2) for width in _WIDTHS)}|"
_NONE: Final = "The last run had none of these workloads."


def is_everyday(workload: Workload) -> bool:
    """Return True if a workload compares ours with ours otherwise, or has a link."""
    return any(side.is_ours or side.delay for side in workload.sides.values())


def line(result: Result) -> str:
    """Return the line of a workload."""
    workload = result.workload
    unit = workload.units[0]
    cells = [
        workload.name,
        f"{shown(figures(result, OURS, unit))} {unit.name}",
        ", ".join(_otherwise(result)),
        ", ".join(_goals(workload)),
        _processor(result),
        ", ".join(_peers(result)),
    ]
    return row(cells, _WIDTHS)


def _otherwise_of(workload: Workload) -> list[str]:
    return [name for name, side in workload.sides.items() if side.is_ours]


def _goals(workload: Workload) -> Iterator[str]:
    for side in _otherwise_of(workload):
        yield goal_of(workload, side).removeprefix("ours ")


def _otherwise(result: Result) -> Iterator[str]:
    unit = result.workload.units[0]
    for side in _otherwise_of(result.workload):
        cost = ratio(result, OURS, side, unit)
        yield "two modes" if cost is None else f"{short(cost.median)} x {side}"


def _processor(result: Result) -> str:
    """Show the processor time of an operation, and how many times ours otherwise that is."""
    ours = processor_time_of_both(result, OURS)
    if ours is None:
        return ""
    others = (processor_time_of_both(result, side) for side in _otherwise_of(result.workload))
    ratios = [f"{short(ours / other)} x" for other in others if other]
    return f"{short(ours * 1e6)} ({', '.join(ratios)})" if ratios else short(ours * 1e6)


def _peers(result: Result) -> Iterator[str]:
    workload = result.workload
    for side in workload.sides:
        if side in {OURS, FLOOR} or workload.sides[side].is_ours or side in result.absent:
            continue
        better = gain(result, side, workload.units[0])
        yield f"{side}: " + ("two modes" if better is None else short(better.median))


def whole(results: Iterable[Result]) -> str:
    """Return the whole table, or a sentence if the run has no such workload."""
    lines = [line(result) for result in results if is_everyday(result.workload)]
    return "\n".join([HEAD, *lines]) if lines else _NONE
