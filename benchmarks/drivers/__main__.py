"""Command line: `python -m benchmarks.drivers`, or `make bench-drivers`."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

ROOT: Final = Path(__file__).parents[2]
WORKER: Final = "benchmarks.drivers.worker"
_STARTS: Final = 240.0  # seconds for what is not measured


@dataclass(frozen=True)
class Side:
    """A core with a lane, in the environment that has it."""

    name: str
    environment: str
    lane: str


PUBLISHED: Final = Side("published core", ".venv-published", "published")
OURS: Final = (
    Side("Trio", ".venv-compat", "trio"),
    Side("asyncio lane", ".venv-compat", "asyncio"),
)
Figures = dict[str, float]


def measured(python: Path, side: Side, seconds: float) -> Figures:
    """Run all workloads of a side once.

    Raises:
        subprocess.SubprocessError: The worker failed, or did not end.
    """
    done = subprocess.run(
        [str(python), "-m", WORKER, side.lane, str(seconds)],
        cwd=ROOT,
        env={**os.environ, "TERM": "dumb"},  # turns progress bars off, of both cores
        stdout=subprocess.PIPE,
        text=True,
        timeout=_STARTS + 20 * seconds,
        check=True,
    )
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    return figures


def table(rounds: Sequence[dict[str, Figures]]) -> str:
    """Return the medians of all rounds, and the medians of the ratios to the published core."""
    names = [PUBLISHED.name, *(side.name for side in OURS)]
    lines = [f"| | {' | '.join(names)} |", "|---|--:|--:|--:|"]
    for workload in rounds[0][PUBLISHED.name]:
        base = [figures[PUBLISHED.name][workload] for figures in rounds]
        cells = [f"{median(base):,.0f}"]
        for side in OURS:
            own = [figures[side.name].get(workload) for figures in rounds]
            found = [figure for figure in own if figure is not None]
            ratios = [ours / theirs for ours, theirs in zip(found, base, strict=False)]
            cells.append(f"{median(found):,.0f} ({median(ratios):.1f}x)" if found else "")
        lines.append(f"| {workload} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the rounds, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.drivers", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="for each workload")
    parser.add_argument("--environments", type=Path, default=ROOT, help="where .venv-compat is")
    options = parser.parse_args(argv)
    rounds = []
    for number in range(options.rounds):
        figures = {}
        for side in (PUBLISHED, *OURS):
            python = options.environments / side.environment / "bin" / "python"
            print(f"round {number + 1}: {side.name}", file=sys.stderr, flush=True)
            figures[side.name] = measured(python, side, options.seconds)
        rounds.append(figures)
    print(table(rounds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
