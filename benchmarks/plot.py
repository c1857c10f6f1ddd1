"""Draw a recorded run: `python -m benchmarks.plot FILE` makes `docs/performance.{svg,png}`.

The left part shows how many times worse than the floor each side of a workload is, by the
workload's first figure: a dot for the median, and a line from the minimum to the maximum. It shows
nothing if the two were measured in different modes. The right part shows how figures grow with
size. The module needs matplotlib, from the extra `bench`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Final

from .harness import Result
from .model import FLOOR, OURS
from .record import Record, read
from .table import Spread, figures, ratio

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw", "main"]

DOCS: Final = Path(__file__).parents[1] / "docs"
_ROW: Final = 0.2  # inches
_COLOURS: Final = (
    *("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#8c564b", "#7f7f7f"),
    *("#bcbd22", "#9467bd", "#000000", "#ff9896", "#17becf", "#2c3e80", "#98df8a", "#a52a2a"),
)

Colours = dict[str, str]


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the run that a file contains."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plot", description=__doc__)
    parser.add_argument("file", type=Path, help="what `python -m benchmarks --json` wrote")
    parser.add_argument("--into", type=Path, default=DOCS, help="another directory than docs")
    options = parser.parse_args(argv)
    try:
        made = draw(read(options.file), options.into)
    except ModuleNotFoundError as error:
        print(f"{error}: install it with pip install -e '.[bench]'", file=sys.stderr)
        return 2
    print(*made, sep="\n")
    return 0


def draw(record: Record, into: Path) -> list[Path]:
    """Draw a run. Returns the paths of the new files.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    import matplotlib as mpl  # noqa: PLC0415 - optional dependency
    from matplotlib.figure import Figure  # noqa: PLC0415

    series = _series(record.results)
    colours = _colours(record.results)
    # A fixed salt makes the SVG reproducible: the same figures produce the same file.
    with mpl.rc_context({"svg.hashsalt": "jumpstarter", "svg.fonttype": "none", "font.size": 8}):
        height = max(5, _ROW * len(record.results) + 2)
        figure = Figure((14 if series else 9, height), layout="constrained")
        left, *right = figure.subfigures(1, 2 if series else 1, squeeze=False)[0]
        _draw_costs(left.subplots(), record.results, colours)
        if right:
            all_axes = right[0].subplots(len(series), squeeze=False)[:, 0]
            for axes, name in zip(all_axes, series, strict=True):
                _draw_growth(axes, name, series[name], colours)
        figure.suptitle(str(record.setting), fontsize=7)
        made = [into / "performance.svg", into / "performance.png"]
        figure.savefig(made[0], metadata={"Date": None})
        figure.savefig(made[1], dpi=110)
    return made


def _series(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Return the series with at least two points, by name."""
    found: dict[str, list[Result]] = {}
    for result in results:
        found.setdefault(result.workload.series, []).append(result)
    return {name: points for name, points in found.items() if name and len(points) > 1}


def _colours(results: Sequence[Result]) -> Colours:
    sides = dict.fromkeys([OURS, FLOOR])
    for result in results:
        sides |= dict.fromkeys(result.workload.sides)
    return dict(zip(sides, cycle(_COLOURS), strict=False))


def _draw_costs(axes: Axes, results: Sequence[Result], colours: Colours) -> None:
    named = set()
    for row, result in enumerate(results):
        unit = result.workload.units[0]
        for side in result.operations:
            worse_over_better = (FLOOR, side) if unit.is_rate else (side, FLOOR)
            spread = ratio(result, *worse_over_better, unit)
            if side != FLOOR and spread is not None:
                label = None if side in named else side
                named.add(side)
                colour, size = colours[side], 5 if side == OURS else 3
                axes.plot([spread.low, spread.high], [row, row], "-", color=colour, linewidth=1)
                axes.plot([spread.median], [row], "o", color=colour, markersize=size, label=label)
    axes.axvline(1, color=colours[FLOOR], linewidth=1)
    axes.set_xscale("log")
    axes.set_yticks(range(len(results)), [_title(result) for result in results])
    axes.set_ylim(len(results) - 0.5, -0.5)
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel("times worse than the floor: the further left the better")
    axes.legend(loc="best", fontsize=7)


def _title(result: Result) -> str:
    return f"{result.workload.name} [{result.workload.units[0].name}]"


def _draw_growth(axes: Axes, name: str, results: Sequence[Result], colours: Colours) -> None:
    unit = results[0].workload.units[0]
    for side in results[0].workload.sides:
        points = [
            (result.workload.size, Spread.of(figures(result, side, unit)).median)
            for result in results
            if side in result.operations
        ]
        if points:
            axes.plot(*zip(*points, strict=True), "o-", color=colours[side], label=side, ms=3)
    axes.set_xscale("symlog", linthresh=16)
    axes.set_yscale("log")
    axes.set_xlabel(name)
    axes.set_ylabel(unit.name)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=6)


if __name__ == "__main__":
    sys.exit(main())
