"""A pytest plugin for the suites: `pytest -p published.recorder`.

It writes each outcome to a file as it happens. A suite that hangs and is killed has recorded all
tests before, and the name of the test that hung; pytest's own reports are written at the end only.
It also deselects the tests that cannot run here, by id.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from .identity import identity
from .records import unavailable
from .runner import LISTED, PACKAGE, RECORD


def _write(event: str, node: str, why: str = "") -> None:
    test = identity(os.environ[PACKAGE], node)
    with Path(os.environ[RECORD]).open("a", encoding="utf-8") as record:
        record.write(json.dumps({"event": event, "test": test, "why": why}) + "\n")


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Return the error of a failure, or the reason for which a test was skipped."""
    if isinstance(report.longrepr, tuple):
        return report.longrepr[2].removeprefix("Skipped: ")
    crash = getattr(report.longrepr, "reprcrash", None)
    if crash is not None:
        return str(crash.message)
    # The traceback of a module that cannot be imported: pytest marks its errors by a leading E.
    lines = report.longreprtext.splitlines()
    errors = [line.removeprefix("E").strip() for line in lines if line.startswith("E ")]
    return (errors or lines or [""])[0]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    listed = unavailable(Path(os.environ[LISTED]))
    out = [item for item in items if identity(os.environ[PACKAGE], item.nodeid) in listed]
    if out:
        config.hook.pytest_deselected(items=out)
        items[:] = [item for item in items if item not in out]


def pytest_runtest_logstart(nodeid: str) -> None:
    _write("start", nodeid)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    # A test has three reports: setup, call and teardown. The worst one decides.
    if report.when == "call" or report.outcome != "passed":
        _write(report.outcome, report.nodeid, "" if report.passed else _reason(report))


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.failed:
        _write("failed", report.nodeid, _reason(report))
