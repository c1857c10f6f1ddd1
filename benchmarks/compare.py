"""Compare our side of two recorded runs: `python -m benchmarks.compare BEFORE AFTER`.

To compare two states of the library, `python -m benchmarks --before` is better: it lets both take
turns.

One line for each workload that both runs have, with the medians of the first figure and of the
processor time, and what changed. Compare processor time, or ratios to the floor, rather than times:
two runs see two different machines. The command fails if an operation takes more processor time
than before by more than the margin. A processor time with two modes is not compared, since which
one its median is depends on chance.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from .harness import Result
from .model import OURS
from .modes import slow_rounds
from .record import Record, read
from .table import Spread, figures, processor_times_of_both, row, shown_briefly

__all__ = ["MARGIN", "change_of", "lines", "main", "pairs", "spent", "worse"]

MARGIN: Final = 0.05
_WIDTHS: Final = (52, 12, 12, 12, 12, 12, 9)
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


def spent(result: Result) -> list[float]:
    """Return the seconds of processor time of our side for an operation in each round."""
    return processor_times_of_both(result, OURS)


def change_of(pair: Pair) -> float | None:
    """Return by how much the processor time has changed: 0.1 for 10 % more.

    Returns None if it is unknown, or has two modes in one of the runs.
    """
    before, after = map(spent, pair)
    if not before or not after or slow_rounds(before) or slow_rounds(after):
        return None
    return Spread.of(after).median / Spread.of(before).median - 1


def worse(pair: Pair) -> bool:
    """Return True if an operation takes more processor time than the margin permits."""
    change = change_of(pair)
    return change is not None and change > MARGIN


def lines(compared: Sequence[Pair]) -> Iterator[str]:
    """Yield the lines of the table."""
    for pair in compared:
        unit = pair[1].workload.units[0]
        change = change_of(pair)
        yield row(
            [
                pair[1].workload.name,
                unit.name,
                *(shown_briefly(figures(result, OURS, unit)) for result in pair),
                *map(_shown_spent, pair),
                "" if change is None else f"{change:+.0%}{' !' if worse(pair) else ''}",
            ],
            _WIDTHS,
        )


def _shown_spent(result: Result) -> str:
    seconds = spent(result)
    return shown_briefly([1e6 * each for each in seconds]) if seconds else ""


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
