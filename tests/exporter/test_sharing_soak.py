"""Test the soak of exclusive use in a short form, and that it finds what it looks for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from processes import PATIENCE
from soak_sharing import check

SCRIPT = Path(__file__).parents[1] / "soak_sharing.py"
ROUNDS = 20


def test_holders_never_overlap_while_clients_are_killed_stopped_and_kicked() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(ROUNDS)],
        capture_output=True,
        text=True,
        timeout=4 * PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no two overlap, and a reset is between any two clients" in done.stdout


def test_a_correct_ledger_is_counted() -> None:
    lines = ["reset", "begin 1", "end 1", "begin 1", "end 1", "reset", "reset", "begin 2", "end 2"]
    assert check(lines) == {"reset": 3, "begin": 3, "end": 3, "sessions": 2}


@pytest.mark.parametrize(
    ("lines", "fault"),
    [
        (["begin 1", "begin 2"], "2 begins while 1 uses"),
        (["begin 1", "end 1", "begin 2"], "without a reset"),
        (["begin 1", "reset"], "a reset while 1 uses"),
        (["begin 1", "end 2"], "2 ends, and 1 has begun"),
        (["end 1"], "nobody has begun"),
        (["begin 1"], "1 has never ended"),
    ],
)
def test_a_wrong_ledger_is_found(lines: list[str], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        check(lines)
