"""Test that a run of pytest waits for its turn at an exporter in exclusive use, or fails."""

from __future__ import annotations

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


def test_a_run_whose_client_is_kicked_is_told_by_whom(run_pytest: Run, exclusive: str) -> None:
    """It must not be told to start the exporter, which has gone on to the next client."""
    source = f"""
    import subprocess, sys
    def test_it(device):
        command = [sys.executable, "-m", "jumpstarter", "kick", {exclusive!r}]
        subprocess.run(command, check=True, timeout=60)
    def test_other(device): device.power.call("on")
    """
    result = run_pytest(source, "--jumpstarter", exclusive)
    result.assert_outcomes(passed=1, errors=1)
    (line,) = [each for each in result.outlines if "the connection to the device was lost" in each]
    assert "the session was ended by uid " in line
    assert line.endswith("; repeat the run")
