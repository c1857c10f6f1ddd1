"""Tests that a process with a client ends soon, silently, and with the right exit code.

The tests also cover a signal, a fork and the garbage collector in the middle of a call. These
effects are visible only from outside, so each case runs in its own process.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from processes import running

SCRIPT = Path(__file__).with_name("script_exit.py")
PATIENCE = 120  # seconds for a process; it takes two
EXIT = 1.5  # seconds guaranteed from the last line of the program to its end
OPEN = ["nothing", "call", "blocking call", "generator", "plain generator", "stream"]


def run(*args: str) -> tuple[subprocess.CompletedProcess[str], float]:
    """Run the script; return its result, and the seconds from its last line to its end."""
    process = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", str(SCRIPT), *args],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    ended = time.monotonic()
    exiting = [line for line in process.stdout.splitlines() if line.startswith("exiting")]
    return process, ended - float(exiting[0].split()[1]) if exiting else 0.0


@pytest.mark.parametrize("what", OPEN)
@pytest.mark.parametrize(("how", "code"), [("", 0), ("exit", 7)])
def test_a_process_ends_soon_and_quietly_whatever_is_open(what: str, how: str, code: int) -> None:
    process, took = run(what, how)
    assert process.returncode == code
    assert process.stderr == ""
    # This checks the guarantee itself: without it, the process would take the driver's 60 seconds.
    assert took < EXIT + 1.0  # slack for a machine that is busy with other tests


def test_an_exception_with_a_call_open_is_the_only_thing_on_stderr() -> None:
    process, _ = run("call", "error")
    assert process.returncode == 1
    assert process.stderr.splitlines()[0] == "Traceback (most recent call last):"
    assert process.stderr.count("Traceback") == 1
    assert process.stderr.splitlines()[-1] == "ValueError: the only thing"


def test_a_fork_gives_the_child_an_error_and_leaves_the_parent_alone() -> None:
    process, _ = run("fork")
    assert process.stderr == ""
    child, parent = process.stdout.splitlines()
    assert "belongs to the parent of this forked process" in child
    assert parent == "child exit 0, parent still there"


def test_ctrl_c_in_a_call_ends_the_driver_and_is_raised_once() -> None:
    command = [sys.executable, "-X", "dev", "-W", "error", str(SCRIPT), "interrupted"]
    with running(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "started\n"
        process.send_signal(signal.SIGINT)
        # The driver ends before the call raises.
        assert process.stdout.read().splitlines() == ["ended", "interrupted", "and on"]
        assert process.stderr.read() == ""
        assert process.wait(PATIENCE) == 0


def test_a_generator_that_only_the_collector_finds_is_ended_without_waiting() -> None:
    process, _ = run("collected")
    assert process.stderr == ""
    first, second = sorted(process.stdout.splitlines())  # their order depends on timing
    assert first.startswith("collected in ")
    assert second == "ended"
