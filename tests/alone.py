"""Run a test alone in a fresh process, where what it measures has no history.

A process that has run thousands of tests has holes in its heap, thresholds in its allocator that
earlier blocks have moved, idle threads, and garbage. A test that measures memory there measures
these too, and its result depends on the tests before it.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

__all__ = ["alone"]

ROOT: Final = Path(__file__).parent.parent
PATIENCE: Final = 200.0  # seconds for a test that takes one or two; pytest-timeout allows 240
_MARK: Final = "TEST_ALONE"  # in the environment of the fresh process


def alone(test: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a test so that pytest runs it, with its fixtures, in a process of its own.

    The test fails with the output of that process.
    """
    if _MARK in os.environ:
        return test

    @functools.wraps(test)
    def run(**_fixtures: Any) -> None:
        _, _, case = os.environ["PYTEST_CURRENT_TEST"].rpartition(" (")[0].partition("::")
        name = f"{sys.modules[test.__module__].__file__}::{case}"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", name]
        result = subprocess.run(
            command,
            cwd=ROOT,
            env=os.environ | {_MARK: "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        if not result.returncode and "1 skipped" in result.stdout:
            pytest.skip("it was skipped where it ran alone")
        if result.returncode or "1 passed" not in result.stdout:
            pytest.fail(f"alone, {name} has failed:\n{result.stdout}", pytrace=False)

    return run
