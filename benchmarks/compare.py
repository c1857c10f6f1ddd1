"""Compare our side of two recorded runs: `python -m benchmarks.compare BEFORE AFTER`.

One line for each workload that both runs have, with the medians of the first figure and of the
processor time, and what changed. Compare processor time, or ratios to the floor, rather than times:
two runs see two different machines. The command fails if an operation takes more processor time
than before by more than the margin.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from .harness import Result
from .model import OURS
from .record import Record, read
from .table import Spread, figures, processor_time_of_both, row, short

__all__ = ["MARGIN", "change_of", "lines", "main", "pairs", "spent", "worse"]

MARGIN: Final = 0.05
_WIDTHS: Final = (42, 12, 12, 12, 12, 12, 9)
_TITLES: Final = ("workload, ours", "unit", "before", "after", "CPU before", "CPU after", "change")
_HEAD: Final = f"{row(_TITLES, _WIDTHS)}\n|{'|'.join('-' * (width + 2) for width in _WIDTHS)}|"

Pair = tuple[Result, Result]


def pairs(before: Record, after: Record) -> list[Pair]:
    """Return the results of each workload that both runs have."""
    known = {result.workload.name: result for result in before.results}
    return [
        (known[result.workload.name], result)
        for result in after.results
        if result.workload.name in known
    ]


def spent(result: Result) -> float | None:
    """Return the seconds of processor time that our side takes for an operation, at both ends."""
    return processor_time_of_both(result, OURS)


def change_of(pair: Pair) -> float | None:
    """Return by how much the processor time has changed: 0.1 for 10 % more. None if unknown."""
    before, after = map(spent, pair)
    return None if not before or after is None else after / before - 1


def worse(pair: Pair) -> bool:
    """Return True if an operation takes more processor time than the margin permits."""
    change = change_of(pair)
    return change is not None and change > MARGIN


def lines(compared: Sequence[Pair]) -> Iterator[str]:
    """Yield the lines of the table."""
    for pair in compared:
        unit = pair[1].workload.units[0]
        medians = [Spread.of(figures(result, OURS, unit)).median for result in pair]
        change = change_of(pair)
        yield row(
            [
                pair[1].workload.name,
                unit.name,
                *map(short, medians),
                *("" if seconds is None else short(seconds * 1e6) for seconds in map(spent, pair)),
                "" if change is None else f"{change:+.0%}{' !' if worse(pair) else ''}",
            ],
            _WIDTHS,
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Print the comparison of two runs."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__)
    parser.add_argument("before", type=Path, help="what `python -m benchmarks --json` wrote")
    parser.add_argument("after", type=Path, help="the same, later")
    options = parser.parse_args(argv)
    compared = pairs(read(options.before), read(options.after))
    print(_HEAD, *lines(compared), sep="\n")
    slower = [pair[1].workload.name for pair in compared if worse(pair)]
    if slower:
        print(f"more processor time than before, by over {MARGIN:.0%}: {', '.join(slower)}")
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
