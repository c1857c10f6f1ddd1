"""No byte of a peer's makes code run, a file open or a process start, on either side of the wire.

An audit hook watches in another process, since it cannot be taken away again.
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
PATIENCE = 120.0  # seconds for what takes two


def audited(side: str) -> Mapping[str, Any]:
    """Have one side handle hostile bytes, and give what the hook has seen."""
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
    for outcome, least in outcomes.items():  # they were handled, in each way in which they can be
        assert told["outcomes"][outcome] > least
    assert told["seen"] == []
    seen_if_done = {line.partition(" ")[0] for line in told["control"]}
    assert seen_if_done >= {
        *("import", "compile", "exec", "open", "os.system", "subprocess.Popen"),
        *("pickle.find_class", "marshal.loads"),
    }
