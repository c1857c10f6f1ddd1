"""Compare the outcomes of a suite with the baseline of the published core."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from .runner import Result

__all__ = ["Verdict", "judge"]


@dataclass(frozen=True)
class Verdict:
    """What the suite of a package shows.

    Attributes:
        result: What became of it.
        expected: How many of its tests are in the baseline.
        passed: How many of those passed.
        failures: Why each other one did not pass, and why each test failed that is not in the
            baseline, by id.
        not_run: Why each test did not run that need not, by id.
    """

    result: Result
    expected: int
    passed: int
    failures: Mapping[str, str]
    not_run: Mapping[str, str]

    @property
    def good(self) -> bool:
        """Whether all tests passed that pass on the published core, and no other one failed."""
        return not self.failures and not self.result.errors


def judge(result: Result, baseline: Collection[str], unavailable: Mapping[str, str]) -> Verdict:
    """Compare the outcomes of a suite with the baseline.

    Args:
        result: What became of the suite.
        baseline: The ids of tests that pass on the published core, of all packages.
        unavailable: Why each test that cannot run here cannot, by id.
    """
    ours = f"{result.package}::"
    expected = {test for test in baseline if test.startswith(ours)}
    passed = {test for test, outcome in result.outcomes.items() if outcome == "passed"}
    broken = {test for test, outcome in result.outcomes.items() if outcome == "failed"}
    first = sorted(broken - unavailable.keys())  # before the tests that they kept from running
    failures = {test: _why(test, result) for test in [*first, *sorted(expected - passed)]}
    not_run = {test: why for test, why in unavailable.items() if test.startswith(ours)}
    for test, outcome in sorted(result.outcomes.items()):
        if outcome == "skipped" and test not in expected:
            not_run[test] = result.reasons[test]
    return Verdict(result, len(expected), len(expected & passed), failures, not_run)


def _why(test: str, result: Result) -> str:
    """Return why a test did not pass, also if its module has failed or the suite has ended."""
    if test in result.reasons:
        return f"{result.outcomes[test]}: {result.reasons[test]}"
    module = "::".join(test.split("::")[:2])
    parents = [module.rsplit(".", dots)[0] for dots in range(module.count(".") + 1)]
    for parent in parents:
        if parent in result.reasons:
            return f"its module cannot be imported: {result.reasons[parent]}"
    return "did not run"
