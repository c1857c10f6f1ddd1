"""Tests of `jumpstarter.drivers.shell`, with real commands."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any, cast

import pytest

from helpers import PATIENCE, served
from jumpstarter.drivers.shell import Shell, ShellClient
from jumpstarter.errors import (
    ConfigurationError,
    DriverInvalidArgument,
    DriverOSError,
    DriverTimeoutError,
)


def python(script: str) -> list[str]:
    return [sys.executable, "-I", "-c", script]


def test_a_command_is_run_by_its_name() -> None:
    script = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"
    with served(Shell(commands={"try": python(script), "true": ["true"]})) as client:
        shell = cast("ShellClient", client)
        assert shell.names() == ["try", "true"]
        result = shell.run("try")
        assert (result.returncode, result.stdout, result.stderr) == (3, b"out\n", b"err\n")
        assert not result.truncated
        assert shell.run("true").returncode == 0


@pytest.mark.parametrize("name", ["reboot; id", "", "true --help", "../true", "/bin/true"])
def test_only_what_was_configured_is_run(name: str) -> None:
    with (
        served(Shell(commands={"true": ["true"]})) as client,
        pytest.raises(DriverInvalidArgument, match="there are: true"),
    ):
        cast("ShellClient", client).run(name)


def test_no_argument_of_a_clients_reaches_a_command() -> None:
    with served(Shell(commands={"true": ["true"]})) as client:
        with pytest.raises(DriverInvalidArgument):
            client.call("run", "true", "--help")
        with pytest.raises(DriverInvalidArgument):
            client.call("run", ["true"])


def test_no_shell_reads_a_command(tmp_path: Path) -> None:
    words = f"$(touch {tmp_path}/made); `id` > {tmp_path}/made"
    with served(Shell(commands={"echo": ["echo", words]})) as client:
        assert cast("ShellClient", client).run("echo").stdout.decode() == f"{words}\n"
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("command", ["echo hello", [], [1], [["echo"]], 7])
def test_what_is_no_list_of_words_is_refused_when_it_is_configured(command: Any) -> None:
    with pytest.raises((ConfigurationError, TypeError), match=r"list of the program|iterable"):
        Shell(commands={"it": command})


def test_a_program_that_is_not_there_is_an_error() -> None:
    with (
        served(Shell(commands={"it": ["/no/such/program"]})) as client,
        pytest.raises(DriverOSError, match="/no/such/program"),
    ):
        cast("ShellClient", client).run("it")


def test_output_beyond_the_limit_is_dropped_and_said_to_be() -> None:
    script = "print('x' * 100_000)"
    with served(Shell(commands={"it": python(script)}, max_output=1000)) as client:
        result = cast("ShellClient", client).run("it")
    assert result.stdout == b"x" * 1000
    assert result.stderr == b""
    assert result.truncated


def test_a_command_that_takes_too_long_has_ended_with_what_it_has_started(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    script = (
        "import os, subprocess, time\n"
        "child = subprocess.Popen(['sleep', '1000'])\n"
        f"open({str(pids)!r}, 'w').write(f'{{os.getpid()}} {{child.pid}} ')\n"
        "time.sleep(1000)\n"
    )
    with served(Shell(commands={"it": python(script)})) as client:
        begin = time.monotonic()
        while not pids.exists() or not pids.read_text().endswith(" "):
            assert time.monotonic() - begin < PATIENCE
            with pytest.raises(DriverTimeoutError), client.timeout(1):
                cast("ShellClient", client).run("it")
    for pid in pids.read_text().split():
        assert _has_ended(int(pid))


def _has_ended(pid: int) -> bool:
    """Tell if a process is gone, or is a zombie of somebody's."""
    give_up = time.monotonic() + PATIENCE
    while time.monotonic() < give_up:
        try:
            os.kill(pid, 0)
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.01)
    return False


def test_a_command_that_leaves_its_output_to_another_is_not_waited_for() -> None:
    script = "import subprocess; subprocess.Popen(['sleep', '3']); print('started')"
    with served(Shell(commands={"it": python(script)})) as client:
        begin = time.monotonic()
        result = cast("ShellClient", client).run("it")
        assert result.stdout == b"started\n"
        assert result.truncated, "there may have been more to come"
        assert time.monotonic() - begin < 3


def test_what_a_command_has_started_is_killed_where_it_ignores_that_it_shall_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jumpstarter.drivers.shell._TERM_GRACE", 0.2)
    pid = tmp_path / "pid"
    child = (
        "import signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print(flush=True)\n"
        "time.sleep(1000)\n"
    )
    script = (
        "import subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}], stdout=subprocess.PIPE)\n"
        "child.stdout.readline()\n"  # now it ignores it
        f"open({str(pid)!r}, 'w').write(f'{{child.pid}} ')\n"
        "time.sleep(1000)\n"
    )
    with served(Shell(commands={"it": python(script)})) as client:
        begin = time.monotonic()
        while not pid.exists() or not pid.read_text().endswith(" "):
            assert time.monotonic() - begin < PATIENCE
            with pytest.raises(DriverTimeoutError), client.timeout(1):
                cast("ShellClient", client).run("it")
    assert _has_ended(int(pid.read_text()))
