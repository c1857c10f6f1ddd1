"""Test inherited signal dispositions, those of drivers' children, and SIGHUP."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import jumpstarter
from exporter_process import PATIENCE, exporter, wait_until_refused
from jumpstarter.errors import CallCancelled
from processes import running

LONG = "1000"  # seconds of grace, longer than the timeout of a test

MODULE = '''
import json, os, signal, subprocess, sys
import trio
from jumpstarter.driver import export
from jumpstarter.drivers.shell import Shell
from exporter_process import Probe

STATE = """
import json
lines = dict(line.split(":\\t") for line in open("/proc/self/status") if line.startswith("Sig"))
print(json.dumps([int(lines["SigBlk"], 16), int(lines["SigIgn"], 16)]))
"""

COMMANDS = {
    "fail": ["sh", "-c", "exit 7"],
    "slow": ["sh", "-c", "sleep 0.2; exit 7"],
    "kill": ["sh", "-c", "kill -9 $$"],
    "pipe": ["sh", "-c", "kill -PIPE $$"],
    "state": [sys.executable, "-I", "-c", STATE],
}

class Lab(Probe):
    """Runs commands by all the ways that drivers have."""

    @export
    def by_subprocess(self, name: str) -> list:
        done = subprocess.run(COMMANDS[name], stdout=subprocess.PIPE)
        return [done.returncode, done.stdout]

    @export
    async def by_trio(self, name: str) -> list:
        done = await trio.run_process(COMMANDS[name], capture_stdout=True, check=False)
        return [done.returncode, done.stdout]

def make():
    return Lab(children={"shell": Shell(commands=COMMANDS)})
'''

# Python code that a parent may run before it starts an exporter.
PARENTS = {
    "plain": "",
    "SIGCHLD ignored": "signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
    "all blocked": "signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())",
    "all ignored": "[signal.signal(n, signal.SIG_IGN) for n in set(signal.valid_signals()) "
    "- {signal.SIGKILL, signal.SIGSTOP}]",
    "SIGPIPE default": "signal.signal(signal.SIGPIPE, signal.SIG_DFL)",
}
OPERATORS = {"SIGHUP", "SIGINT", "SIGQUIT", "SIGTSTP", "SIGTTIN", "SIGTTOU"}


def prefix(code: str) -> tuple[str, ...]:
    """Return a command that runs some Python code and then another command."""
    script = f"import os, signal, sys\n{code}\nos.execv(sys.argv[1], sys.argv[1:])"
    return (sys.executable, "-c", script)


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "signals_lab.py").write_text(MODULE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


def names_of(mask: int) -> set[str]:
    found = set()
    for bit in range(64):
        if mask >> bit & 1:
            with contextlib.suppress(ValueError):  # a signal reserved by the C library
                found.add(signal.Signals(bit + 1).name)
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("parent", PARENTS)
def test_children_of_drivers_have_true_exit_codes_and_a_clean_start(lab: Path, parent: str) -> None:
    with (
        exporter(lab, driver="signals_lab:make", prefix=prefix(PARENTS[parent])) as server,
        jumpstarter.connect(server.address) as client,
        client.timeout(PATIENCE),
    ):
        shell: Any = client.children["shell"]

        def by_shell(name: str) -> list[Any]:
            result = shell.run(name)
            return [result.returncode, result.stdout]

        ways: dict[str, Callable[[str], Any]] = {
            "shell": by_shell,
            "subprocess": lambda name: client.call("by_subprocess", name),
            "trio": lambda name: client.call("by_trio", name),
        }
        for way, run in ways.items():
            wanted = {"fail": 7, "slow": 7, "kill": -9, "pipe": -13}
            assert {name: run(name)[0] for name in wanted} == wanted, way
            code, stdout = run("state")
            assert code == 0
            blocked, ignored = json.loads(stdout)
            assert names_of(blocked) == set(), way
            # The exporter handles SIGINT even if the operator ignores it. Python ignores SIGPIPE
            # and SIGXFSZ itself, and so does the command that prints the dispositions.
            kept = OPERATORS - {"SIGINT"} if parent == "all ignored" and way != "shell" else set()
            assert names_of(ignored) - {"SIGPIPE", "SIGXFSZ"} == kept, way
        server.send(signal.SIGTERM)
        assert server.wait() == 0


# ---------------------------------------------------------------------- within another program

IN_PROCESS = """
import json, os, signal, subprocess, sys, threading, time
from jumpstarter import serve
from jumpstarter.drivers.shell import Shell
from signals_lab import COMMANDS

def tell(function):
    try:
        return function()
    except Exception as exc:
        return f"{{type(exc).__name__}}: {{exc}}"

if __name__ == "__main__":
    {before}
    with serve(Shell(commands=COMMANDS)) as shell, shell.timeout(60):
        {within}
        names = ("fail", "slow", "kill")
        told = {{name: tell(lambda: shell.run(name).returncode) for name in names}}
        state = tell(lambda: shell.run("state").stdout.decode())
    print(json.dumps([told, state]))
"""


def run_in_process(lab: Path, before: str = "pass", within: str = "pass") -> tuple[Any, Any, str]:
    (lab / "program.py").write_text(IN_PROCESS.format(before=before, within=within))
    environment = {**os.environ, "PYTHONPATH": f"{lab}:{Path(__file__).parent}"}
    done = subprocess.run(
        [sys.executable, str(lab / "program.py")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    told, state = json.loads(done.stdout)
    return told, state, done.stderr


TRUE = {"fail": 7, "slow": 7, "kill": -9}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("parent", ["plain", "all blocked", "SIGPIPE default"])
def test_command_starts_clean_within_another_program(lab: Path, parent: str) -> None:
    told, state, _ = run_in_process(lab, PARENTS[parent] or "pass")
    assert told == TRUE
    blocked, ignored = json.loads(state)
    assert (names_of(blocked), names_of(ignored)) == (set(), {"SIGPIPE", "SIGXFSZ"})


@pytest.mark.parametrize("moment", ["before", "within"])
def test_command_is_not_started_while_sigchld_is_ignored(lab: Path, moment: str) -> None:
    told, _, log = run_in_process(lab, **{moment: PARENTS["SIGCHLD ignored"]})
    for text in told.values():
        assert text.startswith("DriverChildProcessError: ")
        assert "it was not started: SIGCHLD is ignored" in text
        assert "signal.signal(signal.SIGCHLD, signal.SIG_DFL)" in text
    assert ("programs that drivers run seem to exit with 0" in log) is (moment == "before")


def test_an_exit_code_that_another_thread_takes_is_an_error_and_never_0(lab: Path) -> None:
    (lab / "thief.py").write_text(
        "import os, threading, time\n"
        "def take():\n"
        "    while True:\n"
        "        try:\n"
        "            os.waitpid(-1, 0)\n"
        "        except ChildProcessError:\n"
        "            time.sleep(0.0001)\n"
        "def start(): threading.Thread(target=take, daemon=True).start()\n"
    )
    told, _, _ = run_in_process(lab, "import thief; thief.start()")
    for name, outcome in told.items():
        assert outcome == TRUE[name] or "its exit code is lost" in outcome, told


# --------------------------------------------------------------------------------------- SIGHUP


def test_sighup_drains_as_sigterm_does(lab: Path) -> None:
    with (
        exporter(lab, "--grace", LONG) as server,
        jumpstarter.connect(server.address) as client,
        ThreadPoolExecutor() as pool,
    ):
        held = pool.submit(client.call, "hold", "finished")
        client.call("until_held", 1)
        server.send(signal.SIGHUP)
        wait_until_refused(client)
        server.send(signal.SIGHUP)  # the shell and the system each send one
        server.send(signal.SIGUSR1)
        assert held.result(PATIENCE) == "finished"
        assert server.wait() == 0
        assert "closed" in server.rest_of_log()
    assert not (lab / "socket").exists()


def test_sigterm_after_sighup_cancels_the_calls(lab: Path) -> None:
    with (
        exporter(lab, "--grace", LONG) as server,
        jumpstarter.connect(server.address) as client,
        ThreadPoolExecutor() as pool,
    ):
        held = pool.submit(client.call, "hold")
        client.call("until_held", 1)
        server.send(signal.SIGHUP)
        wait_until_refused(client)
        server.send(signal.SIGTERM)
        assert isinstance(held.exception(PATIENCE), CallCancelled)
        assert server.wait() == 143


def test_sighup_has_no_effect_under_nohup(lab: Path) -> None:
    ignore = prefix("signal.signal(signal.SIGHUP, signal.SIG_IGN)")
    with (
        exporter(lab, prefix=ignore) as server,
        jumpstarter.connect(server.address) as client,
        client.timeout(PATIENCE),
    ):
        server.send(signal.SIGHUP)
        for number in range(20):
            assert client.call("echo", number) == number
        server.send(signal.SIGTERM)
        assert server.wait() == 0


def test_a_terminal_that_goes_away_drains_and_closes_the_drivers(lab: Path) -> None:
    """The exporter runs in a terminal's foreground, with its three streams on the terminal."""
    (lab / "closing.py").write_text(
        "from exporter_process import Probe\n"
        "class Closing(Probe):\n"
        "    def close(self):\n"
        f"        open({str(lab / 'closed')!r}, 'w').close()\n"
    )
    terminal, line = os.openpty()
    at_it = "import os, sys; os.login_tty(0); os.execv(sys.argv[1], sys.argv[1:])"
    command = [sys.executable, "-c", at_it, sys.executable, "-m", "jumpstarter", "serve"]
    command += ["closing:Closing", "--address", f"unix:{lab}/socket"]
    environment = {**os.environ, "PYTHONPATH": f"{lab}:{Path(__file__).parent}"}
    pipes = {"stdin": line, "stdout": line, "stderr": line}
    with running(command, **pipes, env=environment) as process:
        os.close(line)
        said, end = b"", time.monotonic() + PATIENCE
        while b"ready: " not in said:
            assert select.select([terminal], [], [], max(0, end - time.monotonic()))[0], said
            said += os.read(terminal, 4096)
        os.close(terminal)
        assert process.wait(PATIENCE) == 0
    assert (lab / "closed").exists()
    assert not (lab / "socket").exists()
