"""Tests of `jumpstarter.drivers.shell`, with real commands."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
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
from processes import running, setuid_program


def python(script: str) -> list[str]:
    return [sys.executable, "-I", "-c", script]


def test_shell_runs_commands_by_name() -> None:
    script = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"
    with served(Shell(commands={"try": python(script), "true": ["true"]})) as client:
        shell = cast("ShellClient", client)
        assert shell.names() == ["try", "true"]
        result = shell.run("try")
        assert (result.returncode, result.stdout, result.stderr) == (3, b"out\n", b"err\n")
        assert not result.truncated
        assert shell.run("true").returncode == 0


@pytest.mark.parametrize("name", ["reboot; id", "", "true --help", "../true", "/bin/true"])
def test_shell_runs_only_configured_commands(name: str) -> None:
    with (
        served(Shell(commands={"true": ["true"]})) as client,
        pytest.raises(DriverInvalidArgument, match="there are: true"),
    ):
        cast("ShellClient", client).run(name)


def test_shell_passes_no_client_arguments_to_a_command() -> None:
    with served(Shell(commands={"true": ["true"]})) as client:
        with pytest.raises(DriverInvalidArgument):
            client.call("run", "true", "--help")
        with pytest.raises(DriverInvalidArgument):
            client.call("run", ["true"])


def test_shell_runs_commands_without_a_shell(tmp_path: Path) -> None:
    words = f"$(touch {tmp_path}/made); `id` > {tmp_path}/made"
    with served(Shell(commands={"echo": ["echo", words]})) as client:
        assert cast("ShellClient", client).run("echo").stdout.decode() == f"{words}\n"
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("command", ["echo hello", [], [1], [["echo"]], 7])
def test_shell_refuses_commands_that_are_not_lists_of_words(command: Any) -> None:
    with pytest.raises((ConfigurationError, TypeError), match=r"list of the program|iterable"):
        Shell(commands={"it": command})


def test_shell_reports_a_missing_program() -> None:
    with (
        served(Shell(commands={"it": ["/no/such/program"]})) as client,
        pytest.raises(DriverOSError, match="/no/such/program"),
    ):
        cast("ShellClient", client).run("it")


def test_shell_truncates_output_beyond_the_limit_and_reports_it() -> None:
    script = "print('x' * 100_000)"
    with served(Shell(commands={"it": python(script)}, max_output=1000)) as client:
        result = cast("ShellClient", client).run("it")
    assert result.stdout == b"x" * 1000
    assert result.stderr == b""
    assert result.truncated


def test_cancelled_command_ends_with_its_children(tmp_path: Path) -> None:
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
    """Wait until a process is gone or a zombie, and return whether it is."""
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


def test_shell_does_not_wait_for_children_that_hold_the_output_open() -> None:
    script = "import subprocess; print(subprocess.Popen(['sleep', '1000']).pid)"
    with served(Shell(commands={"it": python(script)})) as client, client.timeout(PATIENCE):
        result = cast("ShellClient", client).run("it")
        os.kill(int(result.stdout), signal.SIGKILL)
        assert result.truncated, "there may have been more to come"


def test_children_of_a_command_that_ignore_sigterm_are_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jumpstarter.drivers._spawn._TERM_GRACE", 0.2)
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
        "child.stdout.readline()\n"  # now the child ignores SIGTERM
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


# ------------------------------------------------------------------------- odd environments


@pytest.fixture
def inheritable() -> Iterator[int]:
    """Yield a descriptor that `exec` would leave open in a child."""
    descriptor = os.open(os.devnull, os.O_RDONLY)
    os.set_inheritable(descriptor, True)
    yield descriptor
    os.close(descriptor)


@pytest.mark.parametrize("listed", [True, False], ids=["with /dev/fd", "without /dev/fd"])
def test_shell_passes_no_descriptors_on_with_or_without_dev_fd(
    listed: bool, inheritable: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not listed:
        monkeypatch.setattr("jumpstarter.drivers._spawn._DESCRIPTORS", Path("/no/such/directory"))
    script = f"import os\ntry:\n    os.fstat({inheritable})\nexcept OSError:\n    print('closed')"
    with served(Shell(commands={"it": python(script)})) as client:
        assert cast("ShellClient", client).run("it").stdout == b"closed\n"


UNSIGNALLED = """
import json, os, sys, time
import jumpstarter.drivers.shell as module
from jumpstarter import serve
from jumpstarter.errors import DriverTimeoutError

module._TERM_GRACE = 0.2

def is_gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False

with serve(module.Shell(commands={"it": json.loads(sys.argv[1])})) as shell:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    try:
        with shell.timeout(1):
            shell.run("it")
    except DriverTimeoutError:
        print("timed out", flush=True)
    pid = int(sys.stdin.readline())
    print("gone" if is_gone(pid) else "running", flush=True)
    sys.stdin.readline()
    give_up = time.monotonic() + 20
    while not is_gone(pid) and time.monotonic() < give_up:
        time.sleep(0.01)
    print("gone" if is_gone(pid) else "a zombie", flush=True)
"""


@pytest.fixture
def become_root() -> Iterator[Path]:
    with setuid_program() as program:
        yield program


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a program of another user's")
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv changes the real user")
@pytest.mark.parametrize("child", ["", "sleep 1000 & "], ids=["alone", "with a child that ends"])
def test_shell_leaves_a_command_it_may_not_signal_and_reaps_it_later(
    tmp_path: Path, become_root: Path, child: str
) -> None:
    """Like `sudo`, the command runs as root while the exporter does not."""
    pid_file = tmp_path / "pid"
    script = f"echo $$ > {pid_file}; exec sleep 1000"
    root = f"{become_root} --reuid=0 --regid=0 --clear-groups sh -c"
    command = json.dumps(["sh", "-c", f"{child}exec {root} '{script}'"])
    pipe = subprocess.PIPE
    streams = {"stdin": pipe, "stdout": pipe, "stderr": pipe}
    with running([sys.executable, "-c", UNSIGNALLED, command, str(pid_file)], **streams) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "timed out\n"
        pid = pid_file.read_text()
        try:
            process.stdin.write(pid)
            process.stdin.flush()
            assert process.stdout.readline() == "running\n"
            log = ""
            while "cannot end command 'it'" not in log:
                line = process.stderr.readline()
                assert line, log
                log += line
        finally:
            os.kill(int(pid), signal.SIGKILL)
        stdout, _ = process.communicate("\n", timeout=PATIENCE * 3)
        assert stdout == "gone\n"
