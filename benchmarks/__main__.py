"""Run the benchmarks from the command line: `python -m benchmarks`, or `make bench`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from . import peers, table
from .harness import Plan, measure
from .record import Record, read, setting, write
from .workloads import WORKLOADS

FULL: Final = Plan(rounds=9, seconds=0.3, starts=3)
QUICK: Final = Plan(rounds=4, seconds=0.15, starts=2)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the selected workloads and print the table, each workload as soon as it has finished."""
    arguments = sys.argv[1:] if argv is None else argv
    options = _parser().parse_args(arguments)
    if options.show is not None:
        return _show(options.show)
    if options.quick and "--quick" not in arguments:
        arguments = ["--quick", *arguments]  # so that the record includes the flag
    plan = _plan(options)
    workloads = [w for w in WORKLOADS if all(text in w.name for text in options.only)]
    if options.quick and not options.only:
        workloads = [workload for workload in workloads if workload.quick]
    if not workloads:
        names = "\n  ".join(workload.name for workload in WORKLOADS)
        print(f"no workload has {' and '.join(options.only)} in its name; there are\n  {names}")
        return 2
    record = Record(setting(plan, arguments), [])
    print(f"{record.setting}\n\n{table.HEAD}", flush=True)
    for workload in workloads:
        record.results.append(measure(workload, plan))
        print(*table.lines(record.results[-1]), sep="\n", flush=True)
    if options.json is not None:
        write(record, options.json)
    return 0


def _show(path: Path) -> int:
    record = read(path)
    print(f"{record.setting}\n\n{table.whole(record.results)}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("only", nargs="*", help="run the workloads with all these in their names")
    parser.add_argument(
        "--quick",
        action="store_true",
        default=os.environ.get("QUICK", "0") not in {"", "0"},
        help="ten minutes: fewer workloads, and rougher; QUICK=1 in the environment does the same",
    )
    parser.add_argument("--rounds", type=int, help="turns of each side")
    parser.add_argument("--seconds", type=float, help="of one turn, about")
    parser.add_argument("--operations", type=int, default=0, help="of one turn, exactly")
    parser.add_argument("--no-peers", action="store_true", help="only ours and the floors")
    parser.add_argument(
        "--before",
        default="",
        metavar="PYTHON",
        help="the interpreter of an environment with an earlier state, which becomes a side",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the raw figures there")
    parser.add_argument("--show", type=Path, metavar="FILE", help="print such a file's table again")
    pin = parser.add_mutually_exclusive_group()
    pin.add_argument(
        "--cores", type=_numbers, metavar="N,N", help="pin ends to these (by default the last two)"
    )
    pin.add_argument("--unpinned", action="store_true", help="let the system place the ends")
    return parser


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


def _plan(options: argparse.Namespace) -> Plan:
    base = QUICK if options.quick else FULL
    return Plan(
        rounds=base.rounds if options.rounds is None else options.rounds,
        seconds=base.seconds if options.seconds is None else options.seconds,
        starts=base.starts,
        cores=() if options.unpinned else options.cores or _last_cores(),
        installed={} if options.no_peers else peers.installed(),
        operations=options.operations,
        before=options.before and str(Path(options.before).absolute()),
    )


def _last_cores() -> tuple[int, ...]:
    """Choose the last two cores, because the system's own work runs mostly on the first."""
    if not hasattr(os, "sched_setaffinity"):
        return ()  # this system cannot pin processes; the head of the table then says "unpinned"
    return tuple(sorted(os.sched_getaffinity(0))[-2:])


if __name__ == "__main__":
    sys.exit(main())
