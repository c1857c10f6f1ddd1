"""Test that two processes do not serve one configuration, if one of them is in exclusive use."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import jumpstarter
from exporter_process import exporter_command
from jumpstarter.cli import main
from jumpstarter.config._in_use import _refusal, in_use
from jumpstarter.errors import ConfigurationError
from processes import PATIENCE, running

LAB = "metadata: {name: lab}\nexport: {rail: {type: MockPower}}\n"
TEST = "def test_it(device): device.rail.on()"


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    path = tmp_path / "lab.yaml"
    path.write_text(LAB)
    return path


def refused(*arguments: str, cwd: Path | None = None) -> tuple[int, str]:
    """Run a Python module that ends by itself, and return its exit code and output."""
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=cwd,
        timeout=PATIENCE,
        check=False,
    )
    return done.returncode, done.stdout


def serve(lab: Path, name: str, *options: str) -> list[str]:
    return ["serve", "--config", str(lab), "--address", f"unix:{lab.parent}/{name}", *options]


def test_a_second_process_is_refused_while_one_is_in_exclusive_use(lab: Path) -> None:
    link = lab.with_name("link.yaml")
    link.symlink_to(lab)
    (lab.parent / "test_it.py").write_text(TEST)
    with exporter_command(*serve(lab, "first", "--exclusive")) as first:
        expected = f"at {first.address}, and one of the two is in exclusive use"
        for arguments in (
            ["jumpstarter", *serve(lab, "second")],
            ["jumpstarter", *serve(link, "second", "--exclusive=rail")],
            ["jumpstarter", "shell", "--exporter-config", str(lab), "--", "true"],
            ["pytest", "-p", "no:cacheprovider", "--jumpstarter-config=lab.yaml", "test_it.py"],
        ):
            code, said = refused(*arguments, cwd=lab.parent)
            assert code == (2 if "serve" in arguments else 1), said
            assert f"is served already, by process {first.pid} (" in said
            assert expected in said
        with jumpstarter.connect(first.address, wait=False) as client:
            client.rail.on()
        copy = lab.with_name("copy.yaml")
        copy.write_text(LAB)
        with exporter_command(*serve(copy, "copy", "--exclusive")):
            pass
        first.send(signal.SIGKILL)
        first.wait()
    with exporter_command(*serve(lab, "next", "--exclusive")) as following:
        following.send(signal.SIGTERM)
        assert following.wait() == 0


LOCK = """
import fcntl, sys
file = open(sys.argv[1])
fcntl.flock(file, fcntl.LOCK_SH)
print("locked", flush=True)
sys.stdin.read()
"""


def test_a_program_that_has_just_locked_the_file_is_not_called_an_exporter(lab: Path) -> None:
    command = [sys.executable, "-c", LOCK, str(lab)]
    pipe = subprocess.PIPE
    with running(command, stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        code, said = refused("jumpstarter", *serve(lab, "first", "--exclusive"))
        assert code == 2
        assert f"lab.yaml is locked by process {process.pid} (" in said
        assert "let only the exporter's user and root read it" in said
        assert "is served" not in said
        assert "Connect to that one" not in said


def test_a_lock_of_a_process_that_cannot_be_seen_is_one_all_the_same(lab: Path) -> None:
    assert "is locked by a process that this user cannot see" in _refusal(lab, [])


def test_an_exporter_in_exclusive_use_does_not_begin_beside_another(lab: Path) -> None:
    with exporter_command(*serve(lab, "first")) as first:
        code, said = refused("jumpstarter", *serve(lab, "second", "--exclusive"))
        assert code == 2
        assert f"process {first.pid} (" in said


def test_exporters_that_are_not_in_exclusive_use_warn_of_each_other(lab: Path) -> None:
    with exporter_command(*serve(lab, "first")) as first:
        with exporter_command(*serve(lab, "second")) as second:
            with jumpstarter.connect(second.address) as client:
                client.rail.on()
            second.send(signal.SIGTERM)
            assert second.wait() == 0
            warning = f"process {first.pid} (python"
            [line] = [each for each in second.rest_of_log().splitlines() if warning in each]
            assert line.startswith("WARNING ") or " WARNING " in line
            assert f"at {first.address} serves " in line
        first.send(signal.SIGTERM)
        assert first.wait() == 0
        assert "WARNING" not in first.rest_of_log()


def test_a_file_is_locked_for_one_exclusive_use_or_several_others(lab: Path) -> None:
    for exclusive in (True, False):
        with in_use(lab, exclusive=exclusive) as others:
            assert others == []
            text = "lab.yaml is served already, by another exporter, and one of"
            with (
                pytest.raises(ConfigurationError, match=text),
                in_use(lab, exclusive=not exclusive),
            ):
                pytest.fail("both serve it")
    with in_use(lab, exclusive=False), in_use(lab, exclusive=False):
        pass
    with in_use(lab, exclusive=True):
        pass


def test_what_is_not_a_file_is_not_locked(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path in (None, fifo, tmp_path / "missing"):
        with in_use(path, exclusive=True), in_use(path, exclusive=True) as others:
            assert others == []


def test_a_forked_child_does_not_keep_the_lock(lab: Path) -> None:
    until_it_runs, runs = os.pipe()
    until_the_end, end = os.pipe()
    with in_use(lab, exclusive=True):
        child = os.fork()
        if not child:  # pragma: no cover - it waits until the test has ended
            os.close(end)
            os.write(runs, b".")
            os.read(until_the_end, 1)
            os._exit(0)
        assert os.read(until_it_runs, 1) == b"."  # it has closed its copies by then
    try:
        with in_use(lab, exclusive=True):
            pass
    finally:
        for each in (until_it_runs, runs, until_the_end, end):
            os.close(each)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_serving_in_this_process_is_refused_in_one_line(
    lab: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with in_use(lab, exclusive=True):
        assert main(serve(lab, "socket")) == 2
        assert main(["shell", "--exporter-config", str(lab), "--", "true"]) == 1
    said = capfd.readouterr().err
    assert said.count("lab.yaml is served already, by another exporter") == 2
