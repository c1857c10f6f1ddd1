"""Test that bytes from a peer never run code, open a file or start a process, on either side.

An audit hook watches in a separate process, since Python cannot remove a hook.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parent / "script_audit.py"
PATIENCE = 120.0  # seconds for a run that takes two seconds


def audited(side: str) -> Mapping[str, Any]:
    """Make one side handle hostile bytes, and return the hook's record."""
    command = [sys.executable, str(SCRIPT), side]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    told: Mapping[str, Any] = json.loads(done.stdout)
    return told


@pytest.mark.parametrize(
    ("side", "outcomes"),
    [
        ("exporter", {"HELLO": 1000, "RESULT": 5, "ERROR": 500, "ITEM": 1, "GOAWAY": 500}),
        (
            "client",
            {"a value": 30, "DriverError": 500, "CallOutcomeUnknown": 300, "HandshakeError": 50},
        ),
    ],
)
def test_hostile_bytes_cause_nothing_that_an_audit_hook_sees(
    side: str, outcomes: dict[str, int]
) -> None:
    told = audited(side)
    assert told["inputs"] > 2000
    for outcome, least in outcomes.items():  # each way of handling bytes occurred
        assert told["outcomes"][outcome] > least
    assert told["seen"] == []
    seen_if_done = {line.partition(" ")[0] for line in told["control"]}
    assert seen_if_done >= {
        *("import", "compile", "exec", "open", "os.system", "subprocess.Popen"),
        *("pickle.find_class", "marshal.loads"),
    }
