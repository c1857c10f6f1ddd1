"""Test the hooks of an exporter's configuration, with real scripts."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import stat
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import yaml

import jumpstarter
from exporter_process import PATIENCE, ExporterProcess, exporter_command
from helpers import until
from jumpstarter._api.serving import serve_leased
from jumpstarter.cli._hooks import HookRunner, hooks_of
from jumpstarter.config.exporter import ExporterConfigV1Alpha1
from jumpstarter.drivers._spawn import Program, spawn
from jumpstarter.drivers.composite import Composite
from jumpstarter.drivers.power import MockPower
from jumpstarter.errors import JumpstarterException


def config_of(**keys: Any) -> ExporterConfigV1Alpha1:
    metadata = {"name": "lab", "labels": {"board": "imx8", "room": "b12"}}
    return ExporterConfigV1Alpha1.model_validate({"metadata": metadata, **keys})


def hook(script: str, **keys: Any) -> dict[str, Any]:
    return {"hooks": {"beforeLease": {"script": script, **keys}}}


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "jumpstarter.hooks")
    return caplog


def lines(log: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in log.records if record.name == "jumpstarter.hooks"]


async def begin(runner: HookRunner, host: str = "/nowhere/socket") -> str:
    with trio.fail_after(PATIENCE):
        return await runner.begin(host, "alice")


# ----------------------------------------------------------------------------------- the script


async def test_a_script_s_output_goes_to_the_log_line_by_line(
    log: pytest.LogCaptureFixture,
) -> None:
    script = r"printf 'one\n\ntwo\033[2J'; echo oops >&2"
    assert await begin(HookRunner(config_of(**hook(script)))) == ""
    said = lines(log)
    assert said[0] == "beforeLease runs for session lab-1 of alice"
    assert sorted(said[1:-1]) == ["beforeLease: one", "beforeLease: oops", "beforeLease: two [2J"]
    assert said[-1] == "beforeLease has ended"


async def test_a_line_without_an_end_is_cut(log: pytest.LogCaptureFixture) -> None:
    script = "head -c 10000 /dev/zero | tr '\\0' x"
    assert await begin(HookRunner(config_of(**hook(script)))) == ""
    assert {len(line) for line in lines(log)[1:-1]} <= set(range(4200))
    assert "x" * 100 in log.text


async def test_a_script_finds_the_exporter_in_its_environment(
    log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PS1", "$ ")
    monkeypatch.setenv("JMP_GRPC_PASSPHRASE", "of the shell")
    names = "JUMPSTARTER_HOST JMP_DRIVERS_ALLOW JMP_EXPORTER JMP_EXPORTER_LABELS LEASE_NAME"
    names += " CLIENT_NAME JMP_GRPC_PASSPHRASE"
    script = (
        f'for each in {names}; do eval "echo $each=\\$$each"; done; printenv PS1 || echo no PS1'
    )
    assert await begin(HookRunner(config_of(**hook(script)), "geheim")) == ""
    assert await begin(HookRunner(config_of(**hook(script)))) == ""
    said = lines(log)
    expected = [
        "JUMPSTARTER_HOST=/nowhere/socket",
        "JMP_DRIVERS_ALLOW=UNSAFE",
        "JMP_EXPORTER=lab",
        "JMP_EXPORTER_LABELS=board=imx8,room=b12",
        "LEASE_NAME=lab-1",
        "CLIENT_NAME=alice",
        "JMP_GRPC_PASSPHRASE=geheim",
        "no PS1",
    ]
    first, second = said[1:9], said[11:19]
    assert first == [f"beforeLease: {each}" for each in expected]
    assert second[6] == "beforeLease: JMP_GRPC_PASSPHRASE="


async def test_exec_is_the_program_of_the_script(log: pytest.LogCaptureFixture) -> None:
    keys = hook("import sys; print(sys.argv)", exec=sys.executable)
    assert await begin(HookRunner(config_of(**keys))) == ""
    assert "beforeLease: ['-c']" in lines(log)


async def test_a_script_may_be_a_file(log: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    python, shell = tmp_path / "hook.py", tmp_path / "hook"
    python.write_text("print('of', __name__)")
    shell.write_text("echo of $0")
    assert not shell.stat().st_mode & stat.S_IXUSR
    for path in (python, shell):
        assert await begin(HookRunner(config_of(**hook(str(path))))) == ""
    assert "beforeLease: of __main__" in lines(log)
    assert f"beforeLease: of {shell}" in lines(log)


async def test_an_empty_script_is_skipped(log: pytest.LogCaptureFixture) -> None:
    assert await begin(HookRunner(config_of(**hook(" \n")))) == ""
    assert lines(log) == []


# -------------------------------------------------------------------------------- its failures


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"script": "exit 3"}, "failed with exit code 3"),
        ({"script": "kill -9 $$"}, "was killed by signal 9"),
        (
            {"script": "x", "exec": "/nowhere/sh"},
            "cannot run /nowhere/sh: No such file or directory",
        ),
    ],
)
async def test_on_failure_decides_what_a_failure_ends(
    log: pytest.LogCaptureFixture, keys: dict[str, str], told: str
) -> None:
    for policy, refused, code in (("warn", False, 0), ("endLease", True, 0), ("exit", True, 1)):
        runner = HookRunner(config_of(**hook(**keys, onFailure=policy)))
        refusal = await begin(runner)
        assert refusal == (f"the exporter's beforeLease hook {told}" if refused else "")
        assert (runner.exit.is_set(), runner.exit_code) == (policy == "exit", code)
        assert f"beforeLease {told}; onFailure: {policy}" in lines(log)[-1]


async def test_a_hook_that_fails_at_the_end_may_end_the_exporter() -> None:
    script = {"script": "exit 1", "onFailure": "exit"}
    runner = HookRunner(config_of(hooks={"afterLease": script}))
    assert await begin(runner) == ""
    with trio.fail_after(PATIENCE):
        await runner.end("/nowhere/socket", "alice")
    assert (runner.exit.is_set(), runner.exit_code) == (True, 1)


async def test_at_its_timeout_a_script_s_whole_group_is_ended(
    log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a slow machine, SIGTERM may come before the script ignores it, and ends it too."""
    monkeypatch.setattr("jumpstarter.drivers._spawn._TERM_GRACE", 0.2)
    groups: list[int] = []

    async def record(*args: Any, **keywords: Any) -> Program:
        program = await spawn(*args, **keywords)
        groups.append(program.pid)
        return program

    monkeypatch.setattr("jumpstarter.cli._hooks.spawn", record)
    script = "trap '' TERM; (while :; do sleep 1000; done) & wait; wait"
    runner = HookRunner(config_of(**hook(script, timeout=1, onFailure="endLease")))
    assert await begin(runner) == "the exporter's beforeLease hook was ended after 1 s"
    await until(partial(has_ended, groups[0]))  # its children are reaped by init
    assert "was ended after 1 s" in log.text


def has_ended(group: int) -> bool:
    """Return True if a process group has no process, except ended ones that nobody has reaped."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, of = path.read_text().rpartition(")")[2].split()[:3]
            if int(of) == group and state != "Z":
                return False
    return True


async def test_a_child_that_goes_on_does_not_delay_the_session(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    runner = HookRunner(config_of(**hook(f"sleep 1000 & echo $! > {pid}", timeout=1000)))
    try:
        assert await begin(runner) == ""
    finally:
        os.kill(int(pid.read_text()), signal.SIGKILL)


def test_a_configuration_without_hooks_has_no_runner() -> None:
    assert hooks_of(config_of()) is None
    assert hooks_of(config_of(hooks={})) is None
    assert hooks_of(config_of(exitOnLeaseEnd=True)) is not None
    assert hooks_of(config_of(**hook("true"))) is not None


# ------------------------------------------------------------------------------- with an exporter


async def test_j_works_in_a_hook_before_clients_can_call(
    log: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    keys = {"hooks": {"beforeLease": {"script": "j power on && echo is on", "onFailure": "exit"}}}
    runner = HookRunner(config_of(**keys))
    tree = Composite(children={"power": MockPower()})
    with trio.fail_after(PATIENCE):
        async with (
            serve_leased(tree, f"unix:{tmp_path}/socket", runner) as server,
            jumpstarter.connect_async(server.address) as client,
        ):
            power = client.children["power"]
            async for reading in power.streamingcall_async("read", 0):
                assert reading["voltage"] > 0
                break
    assert "beforeLease: is on" in lines(log), log.text


def serve(tmp_path: Path, **keys: Any) -> list[str]:
    """Write a configuration, and return the arguments that serve it."""
    path = tmp_path / "lab.yaml"
    export = {"power": {"type": "MockPower"}}
    text = yaml.safe_dump({"metadata": {"name": "lab"}, "export": export, **keys})
    path.write_text(text)
    return ["run", "--exporter-config", str(path), "--address", f"unix:{tmp_path}/socket"]


def use(server: ExporterProcess) -> None:
    with jumpstarter.connect(server.address) as client, client.timeout(PATIENCE):
        client.power.on()


def test_an_exporter_runs_hooks_around_a_session_also_when_it_is_terminated(
    tmp_path: Path,
) -> None:
    hooks = {"beforeLease": {"script": "echo hello"}, "afterLease": {"script": "j power off"}}
    with exporter_command(*serve(tmp_path, hooks=hooks)) as server:
        with jumpstarter.connect(server.address) as client:
            client.power.on()
            server.until_logged("beforeLease: hello")
            server.send(signal.SIGTERM)
            server.until_logged("afterLease runs for session lab-1 of")
            server.until_logged("afterLease has ended")
        assert server.wait() == 0


def test_a_hook_that_fails_can_refuse_the_client_and_end_the_exporter(tmp_path: Path) -> None:
    hooks = {"beforeLease": {"script": "exit 5", "onFailure": "exit"}}
    with exporter_command(*serve(tmp_path, hooks=hooks)) as server:
        # The exporter may refuse the client's first call before the call has arrived.
        reasons = "beforeLease hook failed with exit code 5|the exporter is shutting down"
        with pytest.raises(JumpstarterException, match=reasons):
            use(server)
        server.until_logged("beforeLease failed with exit code 5; onFailure: exit")
        assert server.wait() == 1


def test_a_signal_is_the_second_one_when_a_hook_has_ended_the_exporter(tmp_path: Path) -> None:
    keys = {
        "export": {"slow": {"type": "exporter_process.SlowToClose"}},
        "hooks": {"beforeLease": {"script": "exit 5", "onFailure": "exit"}},
    }
    with exporter_command(*serve(tmp_path, **keys)) as server:
        with (
            pytest.raises(JumpstarterException),
            jumpstarter.connect(server.address) as client,
            client.timeout(PATIENCE),
        ):
            client.slow.echo()
        server.until_logged("shutting down after running calls, as the configuration says")
        server.until_logged("closing")
        server.send(signal.SIGTERM)
        server.until_logged("received SIGTERM while shutting down: cancelling what still runs")
        server.send(signal.SIGUSR1)
        assert server.wait() == 128 + signal.SIGTERM


def test_exit_on_lease_end_ends_the_exporter_after_the_first_session(tmp_path: Path) -> None:
    with exporter_command(*serve(tmp_path, exitOnLeaseEnd=True)) as server:
        use(server)
        assert server.wait() == 0
        assert "the session has ended, and exitOnLeaseEnd ends the exporter" in server.rest_of_log()


def test_a_second_signal_ends_a_hook_that_runs(tmp_path: Path) -> None:
    hooks = {"afterLease": {"script": "echo waits; exec sleep 1000", "timeout": 1000}}
    with exporter_command(*serve(tmp_path, hooks=hooks)) as server:
        use(server)
        server.until_logged("afterLease: waits")
        server.send(signal.SIGTERM)
        server.until_logged("received SIGTERM: shutting down")
        server.send(signal.SIGTERM)
        assert server.wait() == 128 + signal.SIGTERM


# ----------------------------------------------------------------------------------- with a shell


def shell(tmp_path: Path, before: str) -> tuple[int, list[str], str]:
    """Run a program in a shell, and return the exit code, what was noted, and stderr."""
    notes = tmp_path / "notes"
    hooks = {
        "beforeLease": {"script": before.format(notes), "onFailure": "endLease"},
        "afterLease": {"script": f"echo after >> {notes}"},
    }
    _, _, path, *_ = serve(tmp_path, hooks=hooks)
    command = [sys.executable, "-m", "jumpstarter", "shell", "--exporter-config", path]
    command += ["--", "sh", "-c", f"j power on && j power off && echo program >> {notes}; exit 7"]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=PATIENCE, check=False, env=environment
    )
    noted = notes.read_text().split() if notes.exists() else []
    return done.returncode, noted, done.stderr


def test_a_shell_is_one_session(tmp_path: Path) -> None:
    code, noted, err = shell(tmp_path, "echo before >> {}")
    assert (code, noted) == (7, ["before", "program", "after"]), err


def test_a_shell_does_not_start_if_a_hook_refuses_it(tmp_path: Path) -> None:
    code, noted, err = shell(tmp_path, "exit 5")
    assert (code, noted) == (1, [])
    assert "the exporter's beforeLease hook failed with exit code 5" in err
