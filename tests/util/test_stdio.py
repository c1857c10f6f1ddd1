"""Output of the exporter, its drivers and their programs never blocks or fails anything."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import jumpstarter
from exporter_process import PATIENCE, TESTS, exporter
from jumpstarter.client import DriverClient
from jumpstarter.errors import HandshakeError, JumpstarterException
from processes import running

MODULE = """
import atexit, os, subprocess, sys, warnings
import trio
from jumpstarter.driver import Driver, export

def chat(lines=1000, file=None):
    for number in range(lines):
        print(f"Writing at {number:08x}... grüße, {'x' * 100}", file=file or sys.stdout)

chat()
atexit.register(chat)
atexit.register(print, "printed at exit")

class Chatty(Driver):
    def __post_init__(self):
        super().__post_init__()
        chat()

    @classmethod
    def client(cls):
        return "jumpstarter.client.DriverClient"

    @export
    def plain(self):
        chat()

    @export
    async def in_loop(self):
        chat()

    @export
    def to_stderr(self):
        chat(file=sys.stderr)
        warnings.warn("careful")

    @export
    def to_dunder(self):
        chat(file=sys.__stdout__)
        chat(file=sys.__stderr__)

    @export
    def past_python(self):
        for _ in range(500):
            os.write(1, b"x" * 1000)
            os.write(2, b"x" * 1000)

    @export
    def items(self):
        chat()
        yield 1
        chat()

    @export
    def program(self):
        codes = [subprocess.run(["seq", "20000"]).returncode]
        return [*codes, subprocess.run("seq 20000 >&2", shell=True).returncode]

    @export
    async def program_of_trio(self):
        return (await trio.run_process(["seq", "20000"], check=False)).returncode

    @export
    def fork(self):
        if not (pid := os.fork()):
            try:
                chat()
                sys.stdout.flush()
            finally:
                os._exit(0)
        return os.waitpid(pid, 0)[1]

    def reset(self):
        chat()

    def close(self):
        chat()
"""

EVERYTHING = (
    *("plain", "in_loop", "to_stderr", "to_dunder", "past_python"),
    *("program", "program_of_trio", "fork"),
)


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "chatty.py").write_text(MODULE)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{TESTS}")
    return tmp_path


def call_everything(client: DriverClient) -> None:
    for name in EVERYTHING:
        assert client.call(name) in (None, 0, [0, 0]), name
    assert list(client.streamingcall("items")) == [1]


@contextlib.contextmanager
def connected(address: str) -> Iterator[DriverClient]:
    """Connect to an exporter whose `ready:` line cannot be read."""
    give_up = time.monotonic() + PATIENCE
    with contextlib.ExitStack() as stack:
        while True:
            try:
                client = stack.enter_context(jumpstarter.connect(address))
                break
            except HandshakeError:
                assert time.monotonic() < give_up
                time.sleep(0.05)
        with client.timeout(PATIENCE):
            yield client


@contextlib.contextmanager
def a_stream(kind: str) -> Iterator[int]:
    """Yield a descriptor for writing that blocks or fails."""
    if kind == "full disk":
        ours, theirs = os.open("/dev/null", os.O_RDONLY), os.open("/dev/full", os.O_WRONLY)
    elif kind == "hung-up terminal":
        terminal, theirs = os.openpty()
        os.close(terminal)
        ours = os.open("/dev/null", os.O_RDONLY)
    elif kind == "stopped terminal":
        ours, theirs = os.openpty()
        import termios  # noqa: PLC0415 - only this case needs it

        termios.tcflow(theirs, termios.TCOOFF)  # as by Ctrl-S
    else:
        ours, theirs = os.pipe()
        if kind == "full pipe":
            os.set_blocking(theirs, False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    os.write(theirs, b"x" * 65536)
            with contextlib.suppress(BlockingIOError):
                while True:
                    os.write(theirs, b"x")
            os.set_blocking(theirs, True)
        elif kind == "broken pipe":
            os.close(ours)
            ours = os.open("/dev/null", os.O_RDONLY)
    try:
        yield theirs
    finally:
        os.close(ours)
        os.close(theirs)


KINDS = ("full pipe", "broken pipe", "full disk", "hung-up terminal", "stopped terminal", "closed")


@pytest.mark.parametrize(
    ("kind", "stream"),
    [
        *((kind, "both") for kind in KINDS),
        *((kind, stream) for kind in ("full pipe", "closed") for stream in ("stdout", "stderr")),
    ],
)
def test_a_blocked_or_failing_stdio_affects_no_start_call_or_end(
    lab: Path, kind: str, stream: str
) -> None:
    address = f"unix:{lab}/socket"
    command = [sys.executable, "-m", "jumpstarter", "serve", "chatty:Chatty", "--address", address]
    numbers = {"stdout": [1], "stderr": [2], "both": [1, 2]}[stream]
    if kind == "closed":
        closing = " ".join(f"{number}>&-" for number in numbers)
        command = ["/bin/sh", "-c", f'exec "$@" {closing}', "sh", *command]
    with a_stream(kind) as taker:
        process = subprocess.Popen(
            command,
            cwd=lab,
            stdout=taker if 1 in numbers else subprocess.DEVNULL,
            stderr=taker if 2 in numbers else subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            with connected(address) as client:
                call_everything(client)
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()
            process.wait(PATIENCE)


def test_stdout_has_one_line_and_prints_go_to_the_log(lab: Path) -> None:
    log = lab / "log"
    command = [sys.executable, "-m", "jumpstarter", "serve", "chatty:Chatty"]
    command += ["--address", f"unix:{lab}/socket"]
    with (
        log.open("wb") as stderr,
        running(command, text=False, cwd=lab, stdout=subprocess.PIPE, stderr=stderr) as process,
    ):
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == f"ready: unix:{lab}/socket\n".encode()
            with jumpstarter.connect(f"unix:{lab}/socket") as client, client.timeout(PATIENCE):
                call_everything(client)
            process.send_signal(signal.SIGTERM)
            assert process.stdout.read() == b""
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()
    text = log.read_text()
    assert "grüße" in text
    assert "20000" in text
    assert "UserWarning: careful" in text
    assert "printed at exit" in text, "the last output has a second to be written"


@pytest.mark.parametrize("redirection", [">&-", ">/dev/full"], ids=["closed", "full"])
def test_a_ready_line_that_cannot_be_written_is_a_warning(lab: Path, redirection: str) -> None:
    address = f"unix:{lab}/socket"
    serve = f"exec {sys.executable} -m jumpstarter serve exporter_process:Probe"
    command = ["/bin/sh", "-c", f"{serve} --address {address} {redirection}"]
    with running(command, cwd=lab, stderr=subprocess.PIPE) as process:
        try:
            with connected(address) as client:
                assert client.call("echo", 1) == 1
            process.send_signal(signal.SIGTERM)
            _, log = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    assert process.returncode == 0
    assert f"stdout did not take 'ready: {address}'" in log


def test_the_amount_of_lost_output_is_reported_once_read(lab: Path) -> None:
    with (
        exporter(lab, driver="chatty:Chatty") as server,
        jumpstarter.connect(server.address) as client,
        client.timeout(PATIENCE),
    ):
        for _ in range(5):
            client.call("past_python")
        server.until_logged("bytes which drivers and their programs have written were lost here")
        server.send(signal.SIGTERM)
        server.rest_of_log()
        assert server.wait() == 0


FORKING = """
import os, subprocess, time
from exporter_process import Probe
from jumpstarter.driver import export

class Forking(Probe):
    @export
    def fork(self):
        if not (pid := os.fork()):
            time.sleep(1000)
        return pid

    @export
    def start(self):
        return subprocess.Popen(["sleep", "1000"]).pid
"""


@pytest.mark.parametrize("how", ["fork", "start"])
def test_a_child_does_not_keep_a_killed_exporters_streams_open(lab: Path, how: str) -> None:
    (lab / "forking.py").write_text(FORKING)
    child = None
    try:
        with (
            exporter(lab, driver="forking:Forking") as server,
            contextlib.suppress(JumpstarterException),
            jumpstarter.connect(server.address) as client,
            client.timeout(PATIENCE),
        ):
            child = client.call_as(int, how)
            server.send(signal.SIGKILL)
            server.rest_of_log()
            assert server.rest_of_stdout() == ""
            os.kill(child, 0)  # the child is alive
    finally:
        if child is not None:
            os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize(
    "environment",
    [
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"LC_ALL": "C"},
        {"LC_ALL": "POSIX", "PYTHONUTF8": "0"},
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1:strict"},
        {"PYTHONIOENCODING": "utf-16"},
        {"PYTHONUTF8": "1"},
    ],
    ids=str,
)
def test_addresses_and_prints_work_in_any_encoding(lab: Path, environment: dict[str, str]) -> None:
    place = lab / "prüfstand"
    place.mkdir()
    address = f"unix:{place}/s"
    command = [sys.executable, "-m", "jumpstarter", "serve", "chatty:Chatty", "--address", address]
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH")}
    with running(
        command,
        text=False,
        cwd=lab,
        env={**kept, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == f"ready: {address}\n".encode()
            with jumpstarter.connect(address) as client, client.timeout(PATIENCE):
                call_everything(client)
            process.send_signal(signal.SIGTERM)
            _, log = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    assert process.returncode == 0
    assert "grüße" in log.decode()


# ------------------------------------------------------------------------------ the environment

LOST = """
import os, sys
place = os.getcwd()
os.rmdir(place)
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.mark.parametrize("missing", ["cwd", "HOME", "TMPDIR", "all"])
@pytest.mark.parametrize("address", ["unix", "tcp"])
def test_an_exporter_serves_without_its_directories(
    tmp_path: Path, missing: str, address: str
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    if missing in ("HOME", "all"):
        environment["HOME"] = "/nonexistent"
    if missing in ("TMPDIR", "all"):
        environment["TMPDIR"] = "/nonexistent"
    command = [sys.executable, "-m", "jumpstarter", "serve", "exporter_process:Probe", "--address"]
    command += [f"unix:{tmp_path}/socket" if address == "unix" else "tcp://127.0.0.1:0"]
    if missing in ("cwd", "all"):
        command = [sys.executable, "-c", LOST, *command]
    pipe = subprocess.PIPE
    with running(command, cwd=place, env=environment, stdout=pipe, stderr=pipe) as process:
        try:
            assert process.stdout is not None
            ready = process.stdout.readline()
            with jumpstarter.connect(ready.removeprefix("ready: ").strip()) as client:
                assert client.call("echo", 1) == 1
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("driver", "address"), [("exporter_process:Probe", "unix:socket"), ("nowhere:It", "unix:/s")]
)
def test_a_missing_directory_is_an_error_of_one_line(
    tmp_path: Path, driver: str, address: str
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    command = [sys.executable, "-c", LOST, sys.executable, "-m", "jumpstarter", "serve", driver]
    done = subprocess.run(
        [*command, "--address", address],
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert done.stderr.startswith("jumpstarter serve: ")


@pytest.mark.skipif(
    sys.version_info[:3] == (3, 13, 0),
    reason="CPython 3.13.0 cannot import socket in a directory that was removed",
)
def test_a_program_serves_itself_without_its_directories(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    script = (
        "import os; os.rmdir(os.getcwd())\n"
        "from jumpstarter import serve\n"
        "from drivers_for_tests import Echo\n"
        "with serve(Echo()) as client: print(client.call('echo', 1))\n"
    )
    lost = dict.fromkeys(("HOME", "TMPDIR", "XDG_RUNTIME_DIR"), "/nonexistent")
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=place,
        env={**os.environ, **lost, "PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("1\n", 0), done.stderr
