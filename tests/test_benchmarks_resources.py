"""Test that `benchmarks.resources` runs and prints every line; its figures are not checked."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from helpers import PATIENCE


def test_each_transfer_has_its_line() -> None:
    command = [sys.executable, "-m", "benchmarks.resources", "--mib", "4"]
    root = Path(__file__).parents[1]
    result = subprocess.run(
        command, cwd=root, capture_output=True, text=True, timeout=6 * PATIENCE, check=True
    )
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines] == [
        "4",
        "send_raw",
        "lend_to_read",
        "receive_raw",
        "lend_to_write",
    ]
    assert all(re.fullmatch(r"\w+ +\d+ +-?\d+\.\d +-?\d+\.\d", line) for line in lines[1:])
    assert result.stderr == ""
