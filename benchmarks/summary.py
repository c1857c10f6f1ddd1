"""Summarize a run by what users notice: what an everyday situation costs them.

One line for each workload of `situations`, with the medians: the figure before, if an earlier state
was a side, the figure now, how many times better that is, how many times ours without the situation
it is, the processor time of both ends with the same ratio, and how many times better ours is than
each peer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from .harness import Result
from .model import BEFORE, FLOOR, OURS, Workload
from .table import (
    Spread,
    figures,
    gain,
    processor_times_of_both,
    ratio,
    ratio_within,
    row,
    short,
    shown,
    shown_briefly,
)

__all__ = ["HEAD", "is_everyday", "line", "whole"]

_WIDTHS: Final = (52, 24, 28, 12, 26, 18, 50)
_TITLES: Final = (
    "situation",
    "before",
    "now",
    "times better",
    "times ours otherwise",
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
    has_before = BEFORE in workload.sides and BEFORE not in result.absent
    cells = [
        workload.name,
        f"{shown_briefly(figures(result, BEFORE, unit))} {unit.name}" if has_before else "",
        f"{shown(figures(result, OURS, unit))} {unit.name}",
        _or_two_modes(gain(result, BEFORE, unit)) if has_before else "",
        ", ".join(_otherwise(result)),
        _processor(result),
        ", ".join(_peers(result)),
    ]
    return row(cells, _WIDTHS)


def _otherwise_of(workload: Workload) -> list[str]:
    return [name for name, side in workload.sides.items() if side.is_ours]


def _or_two_modes(spread: Spread | None) -> str:
    return "two modes" if spread is None else short(spread.median)


def _otherwise(result: Result) -> Iterator[str]:
    unit = result.workload.units[0]
    for side in _otherwise_of(result.workload):
        cost = ratio(result, OURS, side, unit)
        yield f"two modes {side}" if cost is None else f"{short(cost.median)} x {side}"


def _processor(result: Result) -> str:
    """Show the processor time of an operation, and how many times ours otherwise that is."""
    ours = processor_times_of_both(result, OURS)
    if not ours:
        return ""
    others = (processor_times_of_both(result, side) for side in _otherwise_of(result.workload))
    costs = [ratio_within(ours, other) for other in others if other]
    ratios = ["two modes" if cost is None else f"{short(cost.median)} x" for cost in costs]
    spent = shown_briefly([1e6 * each for each in ours])
    return f"{spent} ({', '.join(ratios)})" if ratios else spent


def _peers(result: Result) -> Iterator[str]:
    workload = result.workload
    for side in workload.sides:
        if side in {OURS, FLOOR, BEFORE} or workload.sides[side].is_ours or side in result.absent:
            continue
        yield f"{side}: {_or_two_modes(gain(result, side, workload.units[0]))}"


def whole(results: Iterable[Result]) -> str:
    """Return the whole table, or a sentence if the run has no such workload."""
    lines = [line(result) for result in results if is_everyday(result.workload)]
    return "\n".join([HEAD, *lines]) if lines else _NONE
