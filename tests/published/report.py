"""Print the table of packages, and what failed or did not run."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from .verdict import Verdict

__all__ = ["HEAD", "closing", "details", "line"]

_WIDTH: Final = 110  # characters of a reason in the table
_LONG: Final = 500  # and in the details
_FORMAT: Final = "{:16} {:>6} {:>6} {:>7} {:>7}  {}"
HEAD: Final = _FORMAT.format("package", "passed", "failed", "skipped", "seconds", "why")


def line(verdict: Verdict) -> str:
    """Return the line of a package: its counts, and its first error or what tests lack to run."""
    result = verdict.result
    passed = sum(outcome == "passed" for outcome in result.outcomes.values())
    numbers = (passed, len(verdict.failures), len(verdict.not_run), f"{result.seconds:.1f}")
    return _FORMAT.format(result.package, *numbers, _summary(verdict)).rstrip()


def _summary(verdict: Verdict) -> str:
    problems = [*verdict.result.errors, *verdict.failures.values()]
    if problems:
        return _short(problems[0])
    reasons = Counter(verdict.not_run.values()).most_common()
    return _short("; ".join(f"{count}: {_one_line(reason)}" for reason, count in reasons))


def details(verdicts: Iterable[Verdict]) -> str:
    """Return what failed or did not run: each reason, and the ids of its tests."""
    failed, not_run = [], []
    for verdict in verdicts:
        package = verdict.result.package
        failed += [f"FAILED: {package}: {_one_line(each)}" for each in verdict.result.errors]
        failed += _grouped(f"FAILED: {package}", verdict.failures)
        not_run += _grouped(f"not run: {package}", verdict.not_run)
    return "\n".join(failed + not_run)


def _grouped(title: str, reasons: Mapping[str, str]) -> list[str]:
    tests = defaultdict(list)
    for test, why in reasons.items():
        tests[_one_line(why)[:_LONG]].append(f"    {test}")
    return [line for why, names in tests.items() for line in (f"{title}: {why}", *names)]


def closing(verdicts: Sequence[Verdict]) -> str:
    """Return the last line: how many of the tests passed that pass on the published core."""
    passed = sum(verdict.passed for verdict in verdicts)
    expected = sum(verdict.expected for verdict in verdicts)
    bad = [verdict.result.package for verdict in verdicts if not verdict.good]
    verdict = f"; packages that fail: {', '.join(bad)}" if bad else ""
    return f"{passed} passed of {expected}{verdict}"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _short(text: str) -> str:
    text = _one_line(text)
    return text if len(text) <= _WIDTH else text[: _WIDTH - 3] + "..."
