"""Run the suite of one package, in a process, a directory and a network of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from . import loopback, records
from .identity import PREFIX
from .suites import arguments_of, limit_of

__all__ = ["Outcome", "Result", "outcomes_of", "run"]

Outcome = Literal["passed", "failed", "skipped"]
PATH: Final = [Path(__file__).parents[1]]  # where a suite finds the recorder
_NO_TESTS: Final = 5  # pytest's exit status, where a package has none
_OF_THE_USER: Final = ("JUMPSTARTER_", "JMP_", "PYTEST_", "COVERAGE_", "PYTHON")
RECORD: Final = "PUBLISHED_RECORD"  # names the file that the recorder writes
LISTED: Final = "PUBLISHED_UNAVAILABLE"  # names the list of tests that cannot run here
PACKAGE: Final = "PUBLISHED_PACKAGE"  # names the package to the recorder


@dataclass
class Result:
    """What became of one suite.

    Attributes:
        package: Its short name.
        outcomes: The outcome of each test that ran, by its id.
            A module that cannot be imported has failed.
        reasons: Why a test failed or was skipped, by its id.
        errors: What went wrong with the suite as a whole: a crash, or its limit.
        seconds: How long it took.
        output: What pytest printed.
    """

    package: str
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    seconds: float = 0.0
    output: str = ""


def outcomes_of(package: str, record: str) -> Result:
    """Read what the recorder has written."""
    result = Result(package)
    started = None
    for line in record.splitlines():
        entry = json.loads(line)
        test, event = entry["test"], entry["event"]
        if event == "start":
            started = test
        elif result.outcomes.get(test) != "failed":
            result.outcomes[test] = event
            result.reasons[test] = entry["why"]
    if started is not None and started not in result.outcomes:
        result.outcomes[started] = "failed"
        result.reasons[started] = "did not end"
    return result


def run(package: str, *, isolated: bool) -> Result:
    """Run the suite of a package as it was published.

    Args:
        package: Its short name.
        isolated: Whether to give it no network but loopback.
    """
    limit = limit_of(package)
    with tempfile.TemporaryDirectory(prefix=f"{package}-") as name:
        directory = Path(name)
        record = directory / "record"
        record.touch()
        command = [sys.executable, "-m", "pytest", "-p", "published.recorder", "--tb=short"]
        command += ["-p", "no:cacheprovider", "--pyargs", PREFIX + package]
        command += arguments_of(package)
        if isolated:
            command = loopback.command_in_namespace(command)
        started = time.monotonic()
        environment = _environment(directory, package, record)
        status, output = _finished(command, directory, environment, limit)
        result = outcomes_of(package, record.read_text(encoding="utf-8"))
    result.seconds = time.monotonic() - started
    result.output = output
    if status is None:
        result.errors.append(f"killed at its limit of {limit:g} s")
    elif status not in {0, _NO_TESTS} and "failed" not in result.outcomes.values():
        result.errors.append(f"pytest ended with {status}: {_last_line(output)}")
    return result


def _finished(
    command: Sequence[str], directory: Path, environment: dict[str, str], limit: float
) -> tuple[int | None, str]:
    """Run a process until its end or its limit, and return its status and output."""
    output = directory / "output"
    with (
        output.open("wb") as log,
        subprocess.Popen(
            command,
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as process,
    ):
        status: int | None = None
        with contextlib.suppress(subprocess.TimeoutExpired):
            status = process.wait(limit)
        # A suite may leave processes behind; none shall outlive it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return status, output.read_text(encoding="utf-8", errors="replace")


def _environment(directory: Path, package: str, record: Path) -> dict[str, str]:
    """Return an environment without settings of the user, in which the recorder is found."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_OF_THE_USER)}
    programs = str(Path(sys.executable).parent)
    return {
        **kept,
        "HOME": str(directory),
        "PATH": os.pathsep.join([programs, kept.get("PATH", os.defpath)]),
        "PYTHONPATH": os.pathsep.join(map(str, PATH)),
        RECORD: str(record),
        PACKAGE: package,
        LISTED: str(records.UNAVAILABLE),
    }


def _last_line(output: str) -> str:
    lines = output.strip().splitlines()
    return lines[-1] if lines else "it printed nothing"
