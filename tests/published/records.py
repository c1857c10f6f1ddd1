"""What is written down beside this module: the baseline, and the tests that cannot run here."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Final

__all__ = ["baseline", "replaced", "unavailable", "write_baseline"]

_HERE: Final = Path(__file__).parent
BASELINE: Final = _HERE / "baseline.txt"
UNAVAILABLE: Final = _HERE / "unavailable.txt"


def baseline() -> set[str]:
    """Return the ids of the tests that pass on the published core."""
    return set(BASELINE.read_text(encoding="utf-8").split("\n")) - {""}


def unavailable(path: Path | None = None) -> dict[str, str]:
    """Return why each test that cannot run here cannot, by its id."""
    lines = (path or UNAVAILABLE).read_text(encoding="utf-8").splitlines()
    parts = [line.partition("  # ") for line in lines if line and not line.startswith("#")]
    return {test.strip(): reason for test, _, reason in parts}


def replaced(old: Iterable[str], passed: Iterable[str], packages: Collection[str]) -> list[str]:
    """Return a baseline in which the tests of these packages are those that passed."""
    others = {test for test in old if test.partition("::")[0] not in packages}
    return sorted(others | set(passed))


def write_baseline(tests: Iterable[str]) -> None:
    """Write ids, one per line."""
    BASELINE.write_text("".join(f"{test}\n" for test in tests), encoding="utf-8")
