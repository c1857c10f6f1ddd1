"""Command line of the fuzz tests: `python -m fuzz`, in the directory `tests`."""

from __future__ import annotations

import argparse
import random
import sys
import traceback
from contextlib import ExitStack
from typing import Final

import inherited

from . import framing, live, rules
from .campaign import Report, Target, failure, run

TARGETS: Final = (
    Target("decoder", "frames", framing.streams, framing.check_stream),
    Target("scan", "messages", framing.messages, framing.check_messages),
    Target("server", "frames", rules.to_server, rules.check_server),
    Target("client", "frames", rules.to_client, rules.check_client),
)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="for all targets together")
    parser.add_argument("--seed", default=str(random.randrange(10**9)))
    parser.add_argument("--target", choices=[*(t.name for t in TARGETS), "live"], help="only this")
    parser.add_argument("--case", help="check this case, as it was reported, and nothing else")
    return parser.parse_args()


def told(target: Target, report: Report, seed: str) -> bool:
    """Print the report on a target. Returns True if no case failed."""
    rate = report.units / report.seconds
    print(
        f"{target.name:8} {report.units:12,} {target.unit} in {report.cases:,} cases,"
        f" {report.seconds:.1f} s: {rate:,.0f} {target.unit}/s",
        flush=True,
    )
    if report.case is None or report.error is None:
        return True
    traceback.print_exception(report.error)
    case = ",".join(piece.hex() for piece in report.case)
    print(f"{target.name} fails, seed {seed}: python -m fuzz --target {target.name} --case {case}")
    return False


def main() -> int:
    options = arguments()
    inherited.restore()
    with ExitStack() as stack:
        exporter = stack.enter_context(live.ServerContext())
        targets = [*TARGETS, Target("live", "connections", live.batches, exporter.check)]
        targets = [target for target in targets if options.target in (None, target.name)]
        if options.case is not None:
            case = list(map(bytes.fromhex, options.case.split(",")))
            errors = [error for target in targets if (error := failure(case, target))]
            for error in errors:
                traceback.print_exception(error)
            return bool(errors)
        print(f"seed {options.seed}", flush=True)
        seconds = options.seconds / len(targets)
        well = [told(t, run(t, options.seed, seconds), options.seed) for t in targets]
    return not all(well)


if __name__ == "__main__":
    sys.exit(main())
