"""Test the comparison of cores: a round of its worker here, and its table."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.drivers import __main__ as command

STAND_IN = """
import sys, types
opendal = types.ModuleType("jumpstarter_driver_opendal.driver")
opendal.Opendal = None
sys.modules["jumpstarter_driver_opendal.driver"] = opendal
import runpy
worker = runpy.run_path({worker!r})
for driver in (worker["Bench"](), worker["AsyncioBench"]()):
    figures = worker["of_bench"](driver, 0.01)
    assert len(figures) == 5 and min(figures.values()) > 0, figures
print("ok")
"""


def test_the_worker_runs_in_both_lanes() -> None:
    """The part of opendal, which is not in this environment, runs by `make bench-drivers`."""
    done = subprocess.run(
        [sys.executable, "-c", STAND_IN.format(worker=str(command.WORKER))],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout == "ok\n", done.stderr


def test_the_table_has_medians_and_ratios_within_each_round(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for side, lines in {
        command.PUBLISHED: 'echo \'{"calls/s": 10, "opendal": 10}\'',
        command.OURS[0]: """
            [ $3 = trio ] && echo '{"calls/s": 80}' || echo '{"calls/s": 40, "opendal": 40}'
        """,
    }.items():
        python = tmp_path / side.environment / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(f"#!/bin/sh\n{lines}\n")
        python.chmod(0o755)
    assert command.main(["--rounds", "2", "--environments", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[2:] == [
        "| calls/s | 10 | 80 (8.0x) | 40 (4.0x) |",
        "| opendal | 10 |  | 40 (4.0x) |",
    ]
    assert printed.err.count("round") == 6
