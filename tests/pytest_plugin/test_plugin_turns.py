"""Test that a run of pytest waits for its turn at an exporter in exclusive use, or fails."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import jumpstarter
from jumpstarter.cli._exclusive import list_claims
from lab_for_plugin import Run, lab

USES = "def test_it(device): assert device.power.call('on') == 'on'"


@pytest.fixture
def exclusive(tmp_path: Path) -> Iterator[str]:
    with lab(tmp_path, "--exclusive") as process:
        yield process.address


def test_a_run_waits_for_its_turn_and_says_for_whom(run_pytest: Run, exclusive: str) -> None:
    def hold() -> None:
        """Hold the exporter until another client waits."""
        with jumpstarter.connect(exclusive, name="ada") as client:
            holds.set()
            while len(list_claims(client)) < 2 and not stop.is_set():
                pass

    holds, stop = threading.Event(), threading.Event()
    holder = threading.Thread(target=hold)
    holder.start()
    assert holds.wait(30)
    try:
        result = run_pytest(USES, "--jumpstarter", exclusive)
    finally:
        stop.set()
        holder.join()
    result.assert_outcomes(passed=1)
    places = [line for line in result.outlines if line.startswith("waiting for ")]
    assert ", says 'ada' since " in places[0]


def test_ctrl_c_while_a_run_waits_ends_it_in_one_line(exclusive: str, tmp_path: Path) -> None:
    (tmp_path / "test_turn.py").write_text(f"{USES}\n")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--jumpstarter", exclusive]
    with jumpstarter.connect(exclusive, name="ada"):
        process = subprocess.Popen(
            command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        try:
            assert process.stdout is not None
            told = next(line for line in process.stdout if line.startswith("waiting for "))
            assert ", says 'ada' since " in told
            process.send_signal(signal.SIGINT)
            rest = process.communicate(timeout=60)[0]
        finally:
            process.kill()
            process.wait(60)
    assert process.returncode == pytest.ExitCode.INTERRUPTED
    assert f"Ctrl-C while connecting to {exclusive}" in rest
    assert ".py:" not in rest  # the place, which would be in contextlib


def test_a_run_can_fail_instead(run_pytest: Run, exclusive: str) -> None:
    with jumpstarter.connect(exclusive, name="ada"):
        result = run_pytest(USES, "--jumpstarter", exclusive, "--jumpstarter-no-wait")
    result.assert_outcomes(errors=1)
    assert any("no connection to the device" in line for line in result.outlines)
    assert any("says 'ada' since" in line for line in result.outlines)


def test_sync_and_async_tests_share_the_session(run_pytest: Run, exclusive: str) -> None:
    source = """
    async def test_async(device, device_async):
        assert await device_async.power.call_async("on") == "on"
    """
    options = ("-o", "trio_mode=true", "--jumpstarter", exclusive, "--jumpstarter-no-wait")
    run_pytest(source, *options).assert_outcomes(passed=1)


@pytest.mark.parametrize("way", ["option", "variable"])
def test_a_run_can_look_on_without_a_turn(
    run_pytest: Run, exclusive: str, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    source = """
    import pytest
    def test_it(device):
        with pytest.raises(Exception, match="without a turn|'ada'"):
            device.power.call("on")
    """
    options = ["--jumpstarter", exclusive, "--jumpstarter-no-wait"]
    if way == "option":
        options.append("--jumpstarter-no-claim")
    else:
        monkeypatch.setenv("JMP_NO_CLAIM", "1")
    with jumpstarter.connect(exclusive, name="ada"):
        run_pytest(source, *options).assert_outcomes(passed=1)


def test_to_claim_a_board_and_to_look_on_exclude_each_other(run_pytest: Run) -> None:
    result = run_pytest(USES, "--jumpstarter-claim=power", "--jumpstarter-no-claim")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "either --jumpstarter-claim or --jumpstarter-no-claim" in result.stderr.str()


@pytest.fixture
def boards(tmp_path: Path) -> Iterator[str]:
    with lab(tmp_path, "--exclusive=power", "--exclusive=serial") as process:
        yield process.address


def test_a_run_takes_a_turn_at_the_board_that_the_option_names(
    run_pytest: Run, boards: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUMPSTARTER_HOST", boards)
    result = run_pytest(USES)
    result.assert_outcomes(errors=1)
    assert any("--jumpstarter-claim NAME" in line for line in result.outlines)
    monkeypatch.setenv("JMP_CLAIM", "serial")
    run_pytest(USES).assert_outcomes(failed=1)
    options = ("--jumpstarter-claim=power", "--jumpstarter-no-wait")
    for variable in ("serial", "", "power"):
        monkeypatch.setenv("JMP_CLAIM", variable)
        run_pytest(USES, *options).assert_outcomes(passed=1)


def test_a_run_in_a_shell_joins_its_session_unless_the_option_names_another_board(
    run_pytest: Run, boards: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUMPSTARTER_HOST", boards)
    options = ("--jumpstarter-claim=power", "--jumpstarter-no-wait")
    for held in ("power", "serial"):  # by the shell
        with jumpstarter.connect(boards, claim=held) as shell:
            monkeypatch.setenv("JMP_CLAIM", held)
            monkeypatch.setenv("JMP_SESSION", shell.channel.channel.session or "")
            run_pytest(USES, *options).assert_outcomes(passed=1)


# The end of the session as the tests of a run see it. The kick returns when the exporter has ended
# the calls, and the reason arrives on this connection soon after.
KICK = """
import subprocess, sys, time
import pytest
def kick():
    command = [sys.executable, "-m", "jumpstarter", "kick", {address!r}]
    subprocess.run(command, check=True, timeout=60)
def wait_until_lost(device):
    deadline = time.monotonic() + 60
    while device.channel.channel.ended is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
"""
MEANWHILE = "; the board may have been used by another client while this test ran"


def lost(result: pytest.RunResult) -> list[str]:
    text = "the connection to the device was lost: "
    return [line for line in result.outlines if line.startswith(text)]


def test_a_run_whose_client_is_kicked_is_told_by_whom(run_pytest: Run, exclusive: str) -> None:
    """It must not be told to start the exporter, which has gone on to the next client."""
    source = """
def test_it(device):
    kick()
    wait_until_lost(device)
def test_other(device): device.power.call("on")
def test_without(): pass
"""
    result = run_pytest(KICK.format(address=exclusive) + source, "--jumpstarter", exclusive)
    result.assert_outcomes(passed=1, failed=1, errors=1)
    (first,) = lost(result)
    assert "the session was ended by uid " in first
    assert first.endswith(MEANWHILE)
    text = "the connection to the device was lost during "
    (line,) = [each for each in result.outlines if each.startswith(text)]
    assert "::test_it: " in line
    assert "the session was ended by uid " in line
    assert line.endswith("; repeat the run")
    in_errors = result.outlines[result.outlines.index(line) : result.outlines.index(first)]
    assert sum("the session was ended by uid " in each for each in in_errors) == 1


def test_a_test_does_not_pass_if_its_session_has_ended_just_before(
    run_pytest: Run, exclusive: str
) -> None:
    """The reason may not have arrived when the test ends: the end of the log waits for it."""
    source = KICK.format(address=exclusive) + "\ndef test_it(device): kick()"
    result = run_pytest(source, "--jumpstarter", exclusive)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    (line,) = lost(result)
    assert "the session was ended by uid " in line


def test_a_test_whose_session_ends_in_its_teardown_has_an_error(
    run_pytest: Run, exclusive: str
) -> None:
    source = """
@pytest.fixture
def leaving(device):
    yield
    kick()
def test_it(leaving): pass
"""
    result = run_pytest(KICK.format(address=exclusive) + source, "--jumpstarter", exclusive)
    result.assert_outcomes(passed=1, errors=1)
    assert len(lost(result)) == 1


def test_an_async_test_fails_too(run_pytest: Run, exclusive: str) -> None:
    """Each has a connection of its own, so the tests after it go on."""
    source = """
import trio
async def test_it(device_async):
    kick()
    with trio.fail_after(60):
        while device_async.channel.channel.ended is None:
            await trio.sleep(0.01)
async def test_other(device_async): pass
async def test_last(device_async): await test_it(device_async)
"""
    options = ("-o", "trio_mode=true", "--jumpstarter", exclusive)
    result = run_pytest(KICK.format(address=exclusive) + source, *options)
    result.assert_outcomes(failed=2, passed=1)
    assert len([line for line in lost(result) if line.endswith(MEANWHILE)]) == 2


def test_a_failure_of_its_own_says_that_the_session_has_ended(
    run_pytest: Run, exclusive: str
) -> None:
    source = """
def test_it(device):
    kick()
    wait_until_lost(device)
    assert False, "of its own"
"""
    result = run_pytest(KICK.format(address=exclusive) + source, "--jumpstarter", exclusive)
    result.assert_outcomes(failed=1)
    (line,) = [each for each in result.outlines if each.endswith(MEANWHILE)]
    assert "the session was ended by uid " in line


def test_a_connection_that_the_test_has_closed_itself_is_no_loss(
    run_pytest: Run, exclusive: str
) -> None:
    source = """
def test_own(device):
    import jumpstarter
    session = device.channel.channel.session
    with jumpstarter.connect(device.channel.channel.name, session=session) as own:
        own.power.call("on")
def test_next(device): device.power.call("on")
"""
    run_pytest(source, "--jumpstarter", exclusive).assert_outcomes(passed=2)
