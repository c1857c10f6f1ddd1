"""Tests of `jumpstarter.drivers.process`, with real programs, terminals, sockets and exporters."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from exporter_process import exporter
from helpers import PATIENCE
from jumpstarter import connect, serve
from jumpstarter.client import BlockingStream, DriverClient
from jumpstarter.driver import Driver
from jumpstarter.drivers import _supervised
from jumpstarter.drivers.composite import Composite, Proxy
from jumpstarter.drivers.power import PowerClient
from jumpstarter.drivers.process import (
    Process,
    ProcessClient,
    ProcessOutput,
    ProcessPower,
    ProcessStatus,
)
from jumpstarter.errors import (
    ConfigurationError,
    DriverChildProcessError,
    DriverError,
    DriverFileNotFoundError,
    DriverInvalidArgument,
    DriverMethodNotImplemented,
    DriverNotADirectoryError,
    DriverOSError,
    DriverPermissionError,
    DriverProcessLookupError,
    DriverTimeoutError,
)
from processes import running, setuid_program


def python(script: str) -> list[str]:
    return [sys.executable, "-I", "-u", "-c", script]


@contextlib.contextmanager
def served(**fields: Any) -> Iterator[ProcessClient]:
    """Serve a `Process` with these fields, with a deadline for all calls."""
    with serve(Process(**fields), client=ProcessClient) as client, client.timeout(PATIENCE):
        yield client


def receive(console: BlockingStream, text: bytes) -> None:
    """Receive exactly this text, in any number of pieces."""
    seen = b""
    while len(seen) < len(text):
        seen += console.receive()
    assert seen == text


def read(outputs: Iterator[ProcessOutput], text: bytes) -> None:
    """Read stdout up to this text, in any number of pieces, and not far beyond."""
    seen = b""
    while text not in seen:
        seen += next(outputs).stdout


class Watch:
    """Watches a process, so that its end can be waited for, whoever its parent is."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._poll = select.poll()
        self._pidfd = os.pidfd_open(pid)
        self._poll.register(self._pidfd, select.POLLIN)

    def ends(self) -> bool:
        """Wait until it has ended."""
        return bool(self._poll.poll(PATIENCE * 1000))

    def close(self) -> None:
        os.close(self._pidfd)


@contextlib.contextmanager
def watching(*pids: int) -> Iterator[list[Watch]]:
    watches = [Watch(pid) for pid in pids]
    try:
        yield watches
    finally:
        for watch in watches:
            watch.close()


SLEEP: Final = ["sleep", "1000"]
# A program with a child in its own group, and a daemon in a session of its own.
FAMILY: Final = """
import os, time

def say(role):
    os.write(1, f"{role} {os.getpid()}\\n".encode())  # in one piece, beside those of the others

say("1-leader")
if not os.fork():
    say("2-child")
    time.sleep(1000)
if not os.fork():
    os.setsid()
    if not os.fork():
        say("3-daemon")
        time.sleep(1000)
    os._exit(0)
time.sleep(1000)
"""


def family(process: ProcessClient) -> list[int]:
    """Start FAMILY, and return its leader, its child and its daemon."""
    process.start()
    seen = b""
    for output in process.follow():
        seen += output.stdout
        if seen.count(b"\n") == 3:
            break
    return [int(line.split()[1]) for line in sorted(seen.splitlines())]


def supervisor_of(pid: int) -> int:
    """Return the parent of a program."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


# -------------------------------------------------------------------------- starting and stopping


def test_process_starts_and_stops() -> None:
    with served(command=SLEEP) as process:
        assert process.status() == ProcessStatus(
            state="stopped", pid=None, returncode=None, starts=0, failure=""
        )
        started = process.start()
        assert (started.state, started.is_running, started.starts) == ("running", True, 1)
        assert started.pid is not None
        assert Path(f"/proc/{started.pid}/comm").read_text() == "sleep\n"
        with watching(started.pid) as (watch,):
            stopped = process.stop()
            assert watch.ends()
        assert (stopped.state, stopped.pid, stopped.returncode) == ("stopped", None, -15)


def test_starting_what_runs_and_stopping_what_does_not_change_nothing() -> None:
    with served(command=SLEEP) as process:
        assert process.stop().starts == 0
        first = process.start()
        assert process.start() == first
        process.stop()
        assert process.stop() == process.status()


def test_restart_begins_a_new_run() -> None:
    with served(command=SLEEP) as process:
        first = process.restart()
        second = process.restart()
        assert second.starts == 2
        assert second.pid != first.pid


@pytest.mark.parametrize(
    ("script", "code", "text"),
    [
        ("raise SystemExit(42)", 42, "with exit code 42"),
        ("import os; os.kill(os.getpid(), 9)", -9, "by signal 9"),
        ("pass", 0, "with exit code 0"),
    ],
)
def test_program_that_ends_by_itself_is_reported_and_logged(
    script: str, code: int, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with served(command=python(f"print('a last word')\n{script}")) as process:
        process.start()
        status = process.wait_for("stopped")
        assert (status.state, status.returncode) == ("stopped", code)
        assert process.read_output().stdout == b"a last word\n"
    (record,) = [each for each in caplog.records if "by itself" in each.getMessage()]
    assert record.levelno == (logging.WARNING if code else logging.INFO)
    assert text in record.getMessage()
    assert record.getMessage().endswith("its last output was:\na last word")


def test_output_in_the_log_has_no_control_characters(caplog: pytest.LogCaptureFixture) -> None:
    with served(command=python(r"print('\x1b[2J' + 'x' * 1000); raise SystemExit(1)")) as process:
        process.start()
        process.wait_for("stopped")
    (text,) = [each.getMessage() for each in caplog.records if "by itself" in each.getMessage()]
    assert "\x1b" not in text
    assert "x" * 400 in text
    assert "x" * 600 not in text


@pytest.mark.parametrize(
    ("fields", "error", "what"),
    [
        ({"command": ["no-such-program"]}, DriverFileNotFoundError, "no-such-program"),
        ({"command": ["/dev/null"]}, DriverPermissionError, "/dev/null"),
        ({"command": SLEEP, "cwd": "/no/such"}, DriverFileNotFoundError, "/no/such"),
        ({"command": SLEEP, "cwd": "/dev/null"}, DriverNotADirectoryError, "/dev/null"),
        ({"command": SLEEP, "pidfile": "/no/such/pid"}, DriverFileNotFoundError, "/no/such/pid"),
    ],
)
def test_error_of_a_start_names_what_the_system_refused(
    fields: dict[str, Any], error: type[DriverOSError], what: str
) -> None:
    with served(**fields) as process:
        with pytest.raises(error) as caught:
            process.start()
        assert caught.value.filename == what
        assert process.status().state == "stopped"
        assert what in process.status().failure
        with pytest.raises(error):  # and again
            process.start()


def test_program_is_not_started_without_an_interpreter_for_its_supervisor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with served(command=SLEEP) as process:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "frozen", True, raising=False)
            with pytest.raises(DriverFileNotFoundError, match="no Python interpreter"):
                process.start()
        assert process.status().starts == 0
        assert process.start().is_running


def test_program_that_ignores_sigterm_is_killed_with_its_children() -> None:
    script = f"import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n{FAMILY}"
    with (
        served(command=python(script), grace=0.2) as process,
        watching(*family(process)) as watches,
    ):
        assert process.stop().returncode == -9
        assert all(watch.ends() for watch in watches)


def test_program_has_its_grace_to_end() -> None:
    script = "import signal\nprint('ready')\nassert signal.sigwait({signal.SIGTERM})\nprint('bye')"
    script = f"import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, {{15}})\n{script}"
    with served(command=python(script), ready_output="ready", grace=PATIENCE) as process:
        process.start()
        assert process.stop().returncode == 0
        assert process.read_output().stdout == b"ready\nbye\n"


def test_stop_ends_descendants_in_sessions_of_their_own() -> None:
    with served(command=python(FAMILY)) as process, watching(*family(process)) as watches:
        process.stop()
        assert all(watch.ends() for watch in watches)


def test_descendants_end_with_the_program() -> None:
    with served(command=python(FAMILY)) as process, watching(*family(process)) as watches:
        os.kill(watches[0].pid, signal.SIGKILL)
        assert process.wait_for("stopped").returncode == -9
        assert all(watch.ends() for watch in watches)


def test_stopped_program_gets_its_signal() -> None:
    with served(command=SLEEP, grace=PATIENCE) as process:
        process.start()
        process.send_signal("SIGSTOP")
        assert process.stop().returncode == -signal.SIGTERM


def test_another_signal_can_ask_the_program_to_end() -> None:
    with served(command=SLEEP, stop_signal="SIGUSR1") as process:
        process.start()
        assert process.stop().returncode == -signal.SIGUSR1


def test_send_signal_reaches_the_group() -> None:
    with served(command=SLEEP) as process:
        with pytest.raises(DriverProcessLookupError, match="does not run"):
            process.send_signal("SIGHUP")
        process.start()
        with pytest.raises(DriverInvalidArgument, match="SIGNOTHING"):
            process.send_signal("SIGNOTHING")
        process.send_signal("SIGHUP")
        assert process.wait_for("stopped").returncode == -signal.SIGHUP


def test_wait_for_refuses_an_unknown_state() -> None:
    with served(command=SLEEP) as process:
        assert process.wait_for("stopped").starts == 0
        with pytest.raises(DriverInvalidArgument, match="starting, running, stopping, stopped"):
            process.wait_for("gone")


@pytest.mark.parametrize(
    "fields",
    [
        {"command": "sleep 1000"},
        {"command": []},
        {"command": ["sleep", 1000]},
        {"command": SLEEP, "env": {"A": 1}},
        {"command": SLEEP, "env": ["A"]},
        {"command": SLEEP, "cwd": 7},
        {"command": SLEEP, "stdin": "tty"},
        {"command": SLEEP, "grace": -1},
        {"command": SLEEP, "grace": float("inf")},
        {"command": SLEEP, "stop_signal": "TERM"},
        {"command": SLEEP, "max_output": -1},
        {"command": SLEEP, "autostart": "no"},
        {"command": SLEEP, "ready_output": "("},
        {"command": SLEEP, "ready_port": 70000},
        {"command": SLEEP, "ready_port": 80, "ready_socket": "/tmp/it"},  # noqa: S108 - not made
        {"command": SLEEP, "ready_timeout": "soon"},
    ],
)
def test_fields_are_checked(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        Process(**fields)


# ------------------------------------------------------------------------- how the program starts


def test_program_has_its_environment_and_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FROM_THE_EXPORTER", "there")
    script = (
        "import os; print(os.getcwd(), os.environ['FROM_THE_EXPORTER'], os.environ['OWN'], end='')"
    )
    with served(command=python(script), env={"OWN": "here"}, cwd=str(tmp_path)) as process:
        process.start()
        process.wait_for("stopped")
        assert process.read_output().stdout.decode() == f"{tmp_path} there here"


def test_program_starts_with_default_signals_and_only_its_standard_streams() -> None:
    script = (
        "import os, signal\n"
        "print(signal.pthread_sigmask(signal.SIG_BLOCK, ()), os.getsid(0) == os.getpid())\n"
        "print([n for n in range(3, 100) if os.path.exists(f'/proc/self/fd/{n}')][1:])\n"
    )
    with served(command=python(script)) as process:
        process.start()
        process.wait_for("stopped")
        assert process.read_output().stdout == b"set() True\n[]\n"
    shell = ["sh", "-c", "grep SigIgn /proc/self/status"]
    with served(command=shell) as process:
        process.start()
        process.wait_for("stopped")
        ignored = int(process.read_output().stdout.split()[1], 16)
    assert not ignored & ~(0b11 << 31)  # 32 and 33 are glibc's own, which posix_spawn ignores


def test_attempt_to_connect_that_is_impossible_is_made_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    connects = _supervised.Readiness.can_connect
    attempts: list[None] = []

    def second_fails(readiness: _supervised.Readiness) -> bool:
        attempts.append(None)
        if len(attempts) == 2:  # the first one finds that the address is free
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return connects(readiness)

    monkeypatch.setattr(_supervised.Readiness, "can_connect", second_fails)
    path = str(tmp_path / "socket")
    server = f"import socket; s = socket.socket(1); s.bind({path!r}); s.listen(); s.accept()"
    with served(command=python(server + "; s.accept()"), ready_socket=path) as process:
        assert process.start().is_running
    assert len(attempts) > 2


def test_pidfile_has_the_process_id_while_the_program_runs(tmp_path: Path) -> None:
    pidfile = tmp_path / "pid"
    pidfile.write_text("99999999 left behind")
    with served(command=SLEEP, pidfile=pidfile) as process:
        assert pidfile.read_text() == "99999999 left behind"
        pid = process.start().pid
        assert pidfile.read_text() == f"{pid}\n"
        process.stop()
        assert not pidfile.exists()
        process.start()
        process.send_signal("SIGKILL")
        process.wait_for("stopped")
        assert not pidfile.exists()


def test_pidfile_is_no_link_to_a_file_of_others(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("data")
    (tmp_path / "pid").symlink_to(precious)
    with (
        served(command=SLEEP, pidfile=tmp_path / "pid") as process,
        pytest.raises(DriverOSError, match="Too many levels of symbolic links"),
    ):
        process.start()
    assert precious.read_text() == "data"
    assert (tmp_path / "pid").is_symlink()


def test_second_exporter_does_not_start_a_program_with_the_same_pidfile(tmp_path: Path) -> None:
    pidfile = tmp_path / "pid"
    with (
        served(command=SLEEP, pidfile=pidfile) as one,
        served(command=SLEEP, pidfile=pidfile) as two,
    ):
        pid = one.start().pid
        with pytest.raises(DriverOSError, match="another exporter runs the program") as caught:
            two.start()
        assert (caught.value.errno, caught.value.filename) == (errno.EBUSY, str(pidfile))
        assert pidfile.read_text() == f"{pid}\n"
        one.stop()
        assert two.start().is_running


# -------------------------------------------------------------------------------------- readiness


def test_program_is_ready_when_it_prints_a_line() -> None:
    script = "import time; print('boot\\nlogin: ', end=''); time.sleep(1000)"
    with served(command=python(script), ready_output="^login: $") as process:
        assert process.start().is_running
        assert process.read_output().stdout == b"boot\nlogin: "


LISTEN: Final = """
import socket, sys, time
name = sys.argv[1]
family = socket.AF_INET if name.isdigit() else socket.AF_UNIX
sock = socket.socket(family)
sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
sock.bind(('127.0.0.1', int(name)) if name.isdigit() else name)
print('bound')
sys.stdin.readline()
sock.listen()
print('listens')
sys.stdin.readline()
"""


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@pytest.mark.parametrize("kind", ["socket", "port"])
def test_program_is_ready_when_it_listens(kind: str, tmp_path: Path) -> None:
    where: Any = free_port() if kind == "port" else str(tmp_path / "socket")
    command = [*python(LISTEN), str(where)]
    with served(command=command, stdin="pipe", **{f"ready_{kind}": where}) as process:
        with process.connect() as console:
            thread = threading.Thread(target=process.start)
            thread.start()
            receive(console, b"bound\n")
            assert process.status().state == "starting"
            console.send(b"\n")
            thread.join(PATIENCE)
        assert process.status().state == "running"


@pytest.mark.parametrize("kind", ["socket", "port"])
def test_start_is_refused_while_another_program_listens_there(kind: str, tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_INET if kind == "port" else socket.AF_UNIX) as sock:
        sock.bind(("127.0.0.1", 0) if kind == "port" else path)
        sock.listen()
        where = sock.getsockname()[1] if kind == "port" else path
        with served(command=SLEEP, **{f"ready_{kind}": where}) as process:
            with pytest.raises(DriverOSError, match="another program listens there") as caught:
                process.start()
            assert caught.value.errno == errno.EADDRINUSE
            assert process.status().starts == 0


def test_program_that_is_not_ready_in_time_is_stopped(tmp_path: Path) -> None:
    fields = {"ready_timeout": 0.1, "ready_output": "never"}
    text = f"sleep: it was not ready after 0.1 s.*'never'.*nothing listens at {tmp_path}.*stopped"
    with served(command=SLEEP, ready_socket=tmp_path / "socket", **fields) as process:
        with pytest.raises(DriverChildProcessError, match=text):
            process.start()
        status = process.status()
        assert (status.state, status.returncode) == ("stopped", -15)
        assert "not ready" in status.failure


def test_program_that_ends_before_it_is_ready_shows_its_last_output() -> None:
    script = "import sys; sys.exit('no such disk')"
    with served(command=python(script), ready_output="never") as process:
        text = r"ended before it was ready, with exit code 1; its last output was:\nno such disk"
        with pytest.raises(DriverChildProcessError, match=text):
            process.start()


def test_program_that_says_it_is_ready_and_ends_was_ready() -> None:
    with served(command=["echo", "ready"], ready_output="ready") as process:
        assert process.start().failure == ""
        assert process.wait_for("stopped").returncode == 0


# ----------------------------------------------------------------------------------------- output


def test_the_last_output_is_kept() -> None:
    script = "import sys\nfor n in range(10_000): print(n)\nprint('e' * 2000, file=sys.stderr)"
    with served(command=python(script), max_output=1000) as process:
        assert process.read_output().stdout == b""
        process.start()
        process.wait_for("stopped")
        output = process.read_output()
    everything = "".join(f"{n}\n" for n in range(10_000)).encode()
    assert output.stdout == everything[-1000:]
    assert output.stderr == b"e" * 999 + b"\n"
    assert output.truncated


def test_no_output_is_kept_where_none_is_wanted() -> None:
    with served(command=["echo", "hello"], max_output=0) as process:
        process.start()
        process.wait_for("stopped")
        output = process.read_output()
        assert (output.stdout, output.truncated) == (b"", True)


ECHO: Final = "import sys\nfor line in sys.stdin: print('got', line, end='')"


def test_any_number_of_clients_follow_the_output() -> None:
    with served(command=python(ECHO), stdin="pipe") as process:
        first = process.follow()  # before the first run
        with process.connect() as console:
            process.start()
            console.send(b"one\n")
            read(first, b"got one\n")
            second = process.follow()
            read(second, b"got one\n")
            console.send(b"two\n")
            read(first, b"got two\n")
            read(second, b"got two\n")
        process.stop()
        assert list(first) == list(second) == []
        assert b"".join(each.stdout for each in process.follow()) == b"got one\ngot two\n"


def test_follow_without_history_begins_with_new_output() -> None:
    with served(command=python(ECHO), stdin="pipe") as process, process.connect() as console:
        process.start()
        console.send(b"old\n")
        receive(console, b"got old\n")
        seen: list[bytes] = []
        ended = threading.Event()

        def follow() -> None:
            seen.append(next(process.follow(history=False)).stdout)
            ended.set()

        thread = threading.Thread(target=follow)
        thread.start()
        while not ended.wait(0.05):  # until one of these lines is new to it
            console.send(b"new\n")
        thread.join(PATIENCE)
    assert seen
    assert b"old" not in seen[0]


def test_follower_that_is_slow_is_told_what_it_missed() -> None:
    """The generator of the client is read only after the ring has turned over many times."""
    script = "import sys\nprint('first')\nsys.stdin.readline()\nprint('x' * 20_000_000)\n"
    with served(command=python(script), stdin="pipe", max_output=1000) as process:
        process.start()
        with process.connect() as console, contextlib.closing(process.follow()) as outputs:
            read(outputs, b"first")
            console.send(b"\n")
            process.wait_for("stopped")
            assert any(each.truncated for each in outputs)


def test_follow_waits_for_the_next_run_without_history() -> None:
    with served(command=python("print('hello')")) as process:
        process.start()
        process.wait_for("stopped")
        seen: list[bytes] = []
        ended = threading.Event()

        def follow() -> None:
            seen.extend(each.stdout for each in process.follow(history=False))
            ended.set()

        thread = threading.Thread(target=follow)
        thread.start()
        while not ended.wait(0.05):  # each run, until one is followed
            process.start()
        thread.join(PATIENCE)
    assert b"".join(seen) == b"hello\n"


def test_stderr_is_followed_too() -> None:
    with served(command=python("import sys; sys.exit('oh')")) as process:
        process.start()
        assert b"".join(each.stderr for each in process.follow()) == b"oh\n"


# ---------------------------------------------------------------------------------------- console


def test_console_waits_for_the_program_and_ends_with_it() -> None:
    with served(command=python(ECHO), stdin="pipe") as process, process.connect() as console:
        console.send(b"hello\n")
        process.start()
        receive(console, b"got hello\n")
        process.stop()
        with pytest.raises(EOFError):
            console.receive()


def test_console_is_for_one_client_at_a_time() -> None:
    with served(command=python(ECHO), stdin="pipe") as process:
        process.start()
        with process.connect():
            with (
                pytest.raises(DriverOSError, match="in use by another client") as caught,
                process.connect(),
            ):
                pass
            assert caught.value.errno == errno.EBUSY


def test_next_client_of_a_console_gets_what_was_not_read() -> None:
    script = "import sys\nprint('boot')\nfor line in sys.stdin: print('got', line, end='')"
    with served(command=python(script), stdin="pipe", ready_output="boot") as process:
        process.start()
        with process.connect() as console:
            receive(console, b"boot\n")
            console.send(b"one\n")
            receive(console, b"got one\n")
        with process.connect() as console:  # the program's input is still open
            console.send(b"two\n")
            receive(console, b"got two\n")


def test_close_input_ends_the_program_s_input() -> None:
    with served(command=["cat"], stdin="pipe") as process:
        process.close_input()  # without a program, nothing happens
        process.start()
        process.close_input()
        assert process.wait_for("stopped").returncode == 0
        process.start()
        with process.connect() as console:  # before the program, and its console, can end
            process.close_input()
            process.wait_for("stopped")
            assert list(console) == []


def test_bytes_for_an_input_that_was_closed_are_an_error() -> None:
    with served(command=SLEEP, stdin="pipe") as process:
        process.start()
        process.close_input()

        def send() -> None:
            with process.connect() as console:
                console.send(b"too late")
                list(console)

        with pytest.raises(DriverError, match="input is closed"):
            send()


def test_console_without_an_input_is_refused() -> None:
    with (
        served(command=SLEEP) as process,
        pytest.raises(DriverOSError, match="stdin: pty"),
        process.connect(),
    ):
        pass


def test_program_on_a_terminal() -> None:
    script = (
        "import os, sys\n"
        "print([os.isatty(n) for n in range(3)], os.tcgetpgrp(0) == os.getpgrp())\n"
        "print('name?', file=sys.stderr)\n"
        "print('hello', input())\n"
        "print(repr(sys.stdin.read()))\n"
    )
    with served(command=python(script), stdin="pty") as process:
        with process.pexpect(timeout=PATIENCE) as session:
            process.start()
            session.expect_exact(b"[True, True, True] True\r\nname?\r\n")
            session.sendline(b"world")
            session.expect_exact(b"hello world\r\n")
            process.close_input()
            session.expect_exact(b"''\r\n")
        assert process.wait_for("stopped").returncode == 0
        assert process.read_output().stderr == b""


def test_ctrl_c_on_a_terminal_reaches_the_program() -> None:
    with served(
        command=python("print('up'); import time; time.sleep(1000)"), stdin="pty"
    ) as process:
        with process.pexpect(timeout=PATIENCE) as session:
            process.start()
            session.expect_exact(b"up")
            session.send(b"\x03")
            session.expect_exact(b"KeyboardInterrupt")
        assert process.wait_for("stopped").returncode == -signal.SIGINT


# -------------------------------------------------------------------------------- several clients


def together(count: int, function: Callable[[], Any]) -> list[Any]:
    """Run a function in several threads, and return the results, or the exceptions."""
    results: list[Any] = []
    barrier = threading.Barrier(count)

    def run() -> None:
        barrier.wait(PATIENCE)
        try:
            results.append(function())
        except Exception as exc:  # noqa: BLE001 - the test checks it
            results.append(exc)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * PATIENCE)
    return results


def test_clients_that_start_concurrently_start_one_run() -> None:
    with served(
        command=python("print('up'); import time; time.sleep(1000)"), ready_output="up"
    ) as (process):
        results = together(5, process.start)
        assert results == [process.status()] * 5
        assert process.status().starts == 1
        assert {each.state for each in together(5, process.stop)} == {"stopped"}


def test_clients_that_restart_concurrently_leave_one_program() -> None:
    with served(command=SLEEP) as process:
        together(4, process.restart)
        assert process.start().is_running
        process.stop()


def test_start_that_another_client_ends_by_a_stop_says_so() -> None:
    with served(command=SLEEP, ready_output="never") as process:
        results: list[Any] = []
        thread = threading.Thread(target=lambda: results.extend(together(1, process.start)))
        thread.start()
        process.wait_for("starting")
        process.stop()
        thread.join(PATIENCE)
        assert isinstance(results[0], DriverChildProcessError)
        assert "stopped before it was ready" in str(results[0])


def test_start_during_a_stop_starts_the_program_again() -> None:
    script = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: print('asked'))\n"
        "print('up')\n"
        "sys.stdin.readline()\n"
    )
    with served(command=python(script), stdin="pipe", ready_output="up", grace=PATIENCE) as process:
        first = process.start()
        with process.connect() as console:
            stopping = threading.Thread(target=process.stop)
            stopping.start()
            assert process.wait_for("stopping").pid == first.pid
            results: list[Any] = []
            starting = threading.Thread(target=lambda: results.append(process.start()))
            starting.start()
            console.send(b"\n")
            starting.join(2 * PATIENCE)
        stopping.join(PATIENCE)
        assert results[0].starts == 2
        process.send_signal("SIGKILL")


def test_cancelled_start_leaves_the_program_starting() -> None:
    with served(command=SLEEP, ready_output="never") as process:
        while process.status().state == "stopped":  # on a busy machine, the time can be too short
            with pytest.raises(DriverTimeoutError), process.timeout(0.5):
                process.start()
        assert process.wait_for("starting").pid is not None
        assert process.stop().state == "stopped"


# ------------------------------------------------------------------------------ with the exporter

TREE: Final = """
import os
from dataclasses import dataclass
from jumpstarter.driver import Driver, export
from jumpstarter.drivers.process import Process


class Crash(Driver):
    @classmethod
    def client(cls):
        return "jumpstarter.client.DriverClient"

    @export
    def crash(self):
        os._exit(1)

    @export
    def fork(self):
        child = os.fork()
        if not child:
            os.execvp("sleep", ["sleep", "1000"])
        return child

    @export
    def pid(self):
        return os.getpid()


def tree():
    import json
    fields = json.loads(os.environ["FIELDS"])
    return Crash(children={"process": Process(**fields)})
"""


def children_of(client: DriverClient) -> ProcessClient:
    process = client.children["process"]
    assert isinstance(process, ProcessClient)
    return process


@pytest.mark.parametrize("ending", ["kill", "kill with a forked child", "crash", "term"])
def test_program_and_its_descendants_end_with_the_exporter(
    ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tree.py").write_text(TREE)
    monkeypatch.setenv("FIELDS", json.dumps({"command": python(FAMILY), "pidfile": "pid"}))
    with exporter(tmp_path, driver="tree:tree", cwd=tmp_path) as served:
        with connect(served.address) as client, client.timeout(PATIENCE):
            pids = family(children_of(client))
            child = client.call("fork") if ending.endswith("child") else 0
            pid = client.call("pid")
            with watching(*pids, supervisor_of(pids[0])) as watches:
                match ending:
                    case "crash":
                        with pytest.raises(ConnectionError):
                            client.call("crash")
                    case "term":
                        os.kill(pid, signal.SIGTERM)
                    case _:
                        os.kill(pid, signal.SIGKILL)
                try:
                    assert all(watch.ends() for watch in watches)
                finally:
                    if child:
                        os.kill(child, signal.SIGKILL)
        assert not (tmp_path / "pid").exists()
        assert served.wait() == {"crash": 1, "term": 0}.get(ending, -9)


def test_program_ends_with_the_driver() -> None:
    with contextlib.ExitStack() as stack:
        with served(command=python(FAMILY)) as process:
            watches = stack.enter_context(watching(*family(process)))
        assert all(watch.ends() for watch in watches)


def test_program_is_killed_if_its_supervisor_is() -> None:
    with served(command=python(FAMILY)) as process:
        leader, child, daemon = family(process)
        with watching(leader, child) as watches:
            os.kill(supervisor_of(leader), signal.SIGKILL)
            status = process.wait_for("stopped")
            os.kill(daemon, signal.SIGKILL)  # it had left the group, and lost its supervisor
            assert all(watch.ends() for watch in watches)
        assert (status.returncode, status.failure) == (
            None,
            "its supervisor was killed, and so was the program",
        )
        assert process.start().is_running


def test_supervisor_outlasts_the_signals_by_which_a_service_manager_ends_a_service() -> None:
    with served(command=SLEEP) as process:
        status = process.start()
        assert status.pid is not None
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(supervisor_of(status.pid), number)
        process.send_signal("SIGKILL")
        assert process.wait_for("stopped").returncode == -signal.SIGKILL


IGNORING: Final = """
import os, signal, sys, threading
from jumpstarter import serve
from jumpstarter.drivers.process import Process

signal.signal(signal.SIGCHLD, signal.SIG_IGN)
with serve(Process(command=["sh", "-c", "exit 42"])) as process:
    process.start()
    print(process.wait_for("stopped").returncode)
"""


def test_exit_code_is_known_where_sigchld_is_ignored() -> None:
    pipe = subprocess.PIPE
    with running([sys.executable, "-c", IGNORING], stdout=pipe, stderr=pipe) as process:
        assert process.communicate(timeout=PATIENCE)[0] == "42\n"


def test_autostart_starts_the_program_with_the_exporter() -> None:
    with served(command=SLEEP, autostart=True) as process:
        assert process.status().is_running


def test_serving_does_not_begin_if_an_autostart_fails() -> None:
    with (
        pytest.raises(ChildProcessError, match="no disk"),
        served(command=python("import sys; sys.exit('no disk')"), autostart=True, ready_output="x"),
    ):
        pass


def test_program_can_be_served_again() -> None:
    driver = Process(command=SLEEP)
    for starts in (1, 2):
        with serve(driver, client=ProcessClient) as process, process.timeout(PATIENCE):
            assert process.status().state == "stopped"
            assert process.start().starts == starts


UNSIGNALLED: Final = """
import json, os, pathlib, sys
from jumpstarter import serve
from jumpstarter.drivers import _supervised
from jumpstarter.drivers.process import Process

sys.executable = sys.argv[2]
_supervised._SUPERVISOR = pathlib.Path(sys.argv[3])
with serve(Process(command=json.loads(sys.argv[1]), grace=0)) as process, process.timeout(20):
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    process.start()
    print("started", flush=True)
    sys.stdin.readline()
    for change in (process.stop, process.start):
        try:
            change()
        except PermissionError as exc:
            print(exc, flush=True)
    sys.stdin.readline()
    print(process.wait_for("stopped").returncode, flush=True)
"""


def python_for_all() -> str | None:
    """Return a Python that a user without rights can run; this one may be in root's home."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        return None
    nobody: dict[str, Any] = {"user": 65534, "group": 65534, "extra_groups": []}
    for python in (sys.executable, "/usr/bin/python3"):
        command = [python, "-I", "-S", "-c", "import ctypes"]
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            subprocess.run(command, check=True, cwd="/", timeout=PATIENCE, **nobody)
            return python
    return None


PYTHON_FOR_ALL: Final = python_for_all()


@pytest.fixture
def become_root() -> Iterator[Path]:
    with setuid_program() as program:
        yield program


@pytest.mark.skipif(
    PYTHON_FOR_ALL is None, reason="needs root, setpriv, and a Python that nobody can run"
)
def test_program_that_may_not_be_signalled_is_named_and_waited_for(
    tmp_path: Path, become_root: Path
) -> None:
    """Like `sudo`, the command runs as root while the exporter does not."""
    pid_file = tmp_path / "pid"
    script = f"echo $$ > {pid_file}.new; mv {pid_file}.new {pid_file}; exec sleep 1000"
    root = [str(become_root), "--reuid=0", "--regid=0", "--clear-groups"]
    command = json.dumps([*root, "sh", "-c", script])
    pipe = subprocess.PIPE
    streams = {"stdin": pipe, "stdout": pipe, "stderr": pipe}
    # Beside the other program, in a directory that all users may enter.
    source = Path(_supervised.__file__).with_name("_supervisor.py")
    supervisor = str(shutil.copy(source, become_root.parent))
    arguments = [command, str(PYTHON_FOR_ALL), supervisor]
    with running([sys.executable, "-c", UNSIGNALLED, *arguments], **streams) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        give_up = time.monotonic() + PATIENCE
        while not pid_file.exists():
            assert time.monotonic() < give_up
            time.sleep(0.01)
        pid = int(pid_file.read_text())
        try:
            process.stdin.write("\n")
            process.stdin.flush()
            for _ in range(2):
                line = process.stdout.readline()
                assert "may not end it" in line
                assert f"process {pid} of setpriv" in line
        finally:
            os.kill(pid, signal.SIGKILL)
        stdout, _ = process.communicate("\n", timeout=PATIENCE)
        assert stdout == "-9\n"


# ------------------------------------------------------------------------------------------ power


@pytest.mark.parametrize("place", ["a child", "elsewhere"])
def test_power_switch_starts_and_stops_a_program(place: str) -> None:
    emulator = Process(command=SLEEP)
    below = emulator if place == "a child" else Proxy(ref="emulator")
    power = ProcessPower(children={"process": below})
    children: dict[str, Driver] = {
        "power": power,
        "emulator": emulator if place == "elsewhere" else Proxy(ref="power.process"),
    }
    with serve(Composite(children=children)) as board, board.timeout(PATIENCE):
        switch = board.power
        assert isinstance(switch, PowerClient)
        switch.on()
        pid = board.emulator.status().pid
        switch.cycle(wait=0)
        assert board.emulator.status().is_running
        assert board.emulator.status().pid != pid
        switch.off()
        assert board.emulator.status().state == "stopped"
        with pytest.raises(DriverMethodNotImplemented, match="no supply"):
            next(switch.read())


@pytest.mark.parametrize("children", [{}, {"process": Composite()}])
def test_power_switch_without_a_program_is_not_served(children: Any) -> None:
    with (
        pytest.raises(ConfigurationError, match="needs a child 'process'"),
        serve(ProcessPower(children=children)),
    ):
        pass
