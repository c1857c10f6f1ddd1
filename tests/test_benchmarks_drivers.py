"""Test the comparison of cores: its worker on this core, without opendal, and its table."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.drivers import __main__ as command
from benchmarks.drivers import bench, worker

from jumpstarter.common.utils import serve


@pytest.mark.parametrize("driver", [bench.Bench, bench.AsyncioBench])
def test_the_workloads_run_in_both_lanes(driver: type[bench.Bench]) -> None:
    """The part of opendal, which is not in this environment, runs by `make bench-drivers`."""
    with serve(driver()) as client:
        figures = worker.of_bench(client, 0.01)
    assert len(figures) == 5
    assert min(figures.values()) > 0


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
