"""Command line of the published suites: `make compat`, or `python -m published` in `tests`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from . import loopback, records, report, suites
from .runner import Result, run
from .verdict import Verdict, judge

LOGS: Final = Path(__file__).parents[2] / "build" / "compat"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the suites, and print a line for each as soon as it has ended."""
    options = _parser().parse_args(argv)
    names = suites.QUICK if options.quick else options.packages
    try:
        packages = suites.selected(names, suites.installed())
    except suites.UnknownPackage as exc:
        print(exc, file=sys.stderr)
        return 2
    refusal = loopback.why_not_allowed()
    network = "without a network" if refusal is None else f"WITH the network: {refusal}"
    print(f"jumpstarter {_version('jumpstarter')}, Python {sys.version.split()[0]}, {network}")
    print(report.HEAD, flush=True)
    verdicts = []
    for package in packages:
        result = run(package, isolated=refusal is None)
        _save(result, options.logs)
        verdicts.append(_judged(result, recording=options.record))
        print(report.line(verdicts[-1]), flush=True)
    if options.record:
        return _recorded(verdicts)
    print(report.details(verdicts), report.closing(verdicts), sep="\n")
    return 0 if all(verdict.good for verdict in verdicts) else 1


def _judged(result: Result, *, recording: bool) -> Verdict:
    known = set(result.outcomes) if recording else records.baseline()
    return judge(result, known, records.unavailable())


def _recorded(verdicts: Sequence[Verdict]) -> int:
    """Replace the baseline of these packages, unless a suite did not end."""
    results = [verdict.result for verdict in verdicts]
    errors = [error for result in results for error in result.errors]
    if errors:
        print("not recorded:", *errors, sep="\n")
        return 1
    passed = [
        test
        for result in results
        for test, outcome in result.outcomes.items()
        if outcome == "passed"
    ]
    packages = {result.package for result in results}
    records.write_baseline(records.replaced(records.baseline(), passed, packages))
    print(f"recorded {len(passed)} tests as the baseline of {len(packages)} packages")
    return 0


def _save(result: Result, logs: Path) -> None:
    logs.mkdir(parents=True, exist_ok=True)
    (logs / f"{result.package}.log").write_text(result.output, encoding="utf-8")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "is not installed"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m published", description=__doc__)
    parser.add_argument("packages", nargs="*", help="only these, as in: power opendal")
    parser.add_argument("--quick", action="store_true", help="only the short lane")
    parser.add_argument("--record", action="store_true", help="write the baseline")
    parser.add_argument("--logs", type=Path, default=LOGS, help="directory for pytest's output")
    return parser


if __name__ == "__main__":
    sys.exit(main())
