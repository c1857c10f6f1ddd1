"""Test the soak of exclusive use in a short form, and that it finds what it looks for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from processes import PATIENCE
from sharing_ledger import SUBTREES, WHOLE, check

SCRIPT = Path(__file__).parents[1] / "soak_sharing.py"
ROUNDS = 12  # all actions at two boards, and some at a whole exporter


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


def ledger(text: str) -> list[str]:
    return [line.strip() for line in text.split(",")]


RESET = "left reset, left.part reset"


def test_a_correct_ledger_is_counted() -> None:
    both = f"{RESET}, right reset, right.part reset"
    used = "left begin 1, left end 1, right.part begin 1, right.part end 1"
    lines = ledger(f"{both}, {used}, {both}, left reset, left begin 2, left end 2")
    assert check(lines, WHOLE) == {"reset": 9, "begin": 3, "end": 3, "sessions": 2}


def test_boards_are_checked_independently() -> None:
    together = "left begin 1, right begin 2, left.part reset"
    with pytest.raises(ValueError, match="a reset while 1 uses"):
        check(ledger(together), SUBTREES)
    left = f"left begin 1, right begin 2, left end 1, {RESET}, left.part begin 3, left.part end 3"
    lines = ledger(f"{left}, right end 2, right.part begin 2, right.part end 2")
    assert check(lines, SUBTREES) == {"reset": 2, "begin": 4, "end": 4, "sessions": 3}


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("left begin 1, left.part begin 2", "left.part: 2 begins while 1 uses"),
        ("left begin 1, left end 1, left begin 2", "without a reset of left, left.part"),
        ("left begin 1, left end 1, left reset, left begin 2", "without a reset of left.part"),
        ("left begin 1, left end 1, left reset, left begin 1", "1 goes on after a reset"),
        ("left begin 1, left.part reset", "a reset while 1 uses"),
        ("left begin 1, left end 2", "2 ends, and 1 has begun"),
        ("left end 1", "1 ends, and nobody has begun"),
        ("right begin 1", "1 has never ended its use of right"),
    ],
)
def test_a_wrong_ledger_is_found(text: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        check(ledger(text), SUBTREES)
