"""The command line: `python -m benchmarks`, or `make bench`."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from . import table
from .harness import Plan, Result, measure
from .workloads import WORKLOADS

FULL: Final = Plan(rounds=13, seconds=0.3)
QUICK: Final = Plan(rounds=5, seconds=0.1)


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is asked for and print the table, a line as soon as it is known."""
    options = _parser().parse_args(argv)
    plan = _plan(options)
    workloads = [w for w in WORKLOADS if all(text in w.name for text in options.only)]
    if not workloads:
        names = "\n  ".join(workload.name for workload in WORKLOADS)
        print(f"no workload has {' and '.join(options.only)} in its name; there are\n  {names}")
        return 2
    print(_setting(plan))
    print(table.HEAD, flush=True)
    results = []
    for workload in workloads:
        results.append(measure(workload, plan))
        print(table.line(results[-1]), flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps(_raw(plan, results), indent=1))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("only", nargs="*", help="run the workloads with all these in their names")
    parser.add_argument(
        "--quick",
        action="store_true",
        default=os.environ.get("QUICK", "0") not in {"", "0"},
        help="less than a minute, and rougher; QUICK=1 in the environment does the same",
    )
    parser.add_argument("--rounds", type=int, help="turns of each side")
    parser.add_argument("--seconds", type=float, help="of one turn, about")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the raw figures there")
    pin = parser.add_mutually_exclusive_group()
    pin.add_argument("--core", type=int, help="pin all ends to this one (by default the last)")
    pin.add_argument("--unpinned", action="store_true", help="let the system place the ends")
    return parser


def _plan(options: argparse.Namespace) -> Plan:
    base = QUICK if options.quick else FULL
    rounds = base.rounds if options.rounds is None else options.rounds
    seconds = base.seconds if options.seconds is None else options.seconds
    return Plan(rounds, seconds, None if options.unpinned else _core(options.core))


def _core(asked: int | None) -> int | None:
    """Choose a core: by default the last, since the first has most of the system's own work."""
    if not hasattr(os, "sched_setaffinity"):
        return None  # not on this system; the table's head says so
    return max(os.sched_getaffinity(0)) if asked is None else asked


def _setting(plan: Plan) -> str:
    where = "unpinned" if plan.core is None else f"pinned to core {plan.core}"
    what = f"Python {platform.python_version()}, Trio {version('trio')}, {platform.system()}"
    turns = f"{plan.rounds} rounds of {plan.seconds:g} s"
    load = f"load {os.getloadavg()[0]:.2f} at the start"
    return f"{what}; {where}; {turns}; median (min-max); {load}"


def _raw(plan: Plan, results: Sequence[Result]) -> dict[str, Any]:
    return {
        "setting": _setting(plan),
        "workloads": [
            {
                "name": result.workload.name,
                "unit": result.workload.unit.name,
                "operations": result.operations,
                "seconds": result.rounds,
            }
            for result in results
        ],
    }


if __name__ == "__main__":
    sys.exit(main())
