"""Tests of the locks on a serial port: which programs they refuse, and when the port is free.

The tests use pseudo-terminals and real processes. TIOCEXCL does not stop root, so some tests run a
program as another user; they need root, and are skipped without it.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import termios
import threading
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from helpers import PATIENCE, served
from jumpstarter.drivers.serial import SerialPort
from jumpstarter.errors import DriverOSError

SCRIPT = Path(__file__).parents[1] / "script_port.py"
NOBODY = "65534"
as_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can run a program as another user"
)
as_anyone = pytest.mark.parametrize("user", ["", pytest.param(NOBODY, marks=as_root)])


@pytest.fixture
def path() -> Iterator[str]:
    """Yield the path of a pseudo-terminal, with both ends open in this process."""
    board, port = os.openpty()
    tty.setraw(port)
    path = os.ttyname(port)
    Path(path).chmod(0o666)
    yield path
    os.close(port)
    os.close(board)


class Program:
    """A process that has opened a port, or was refused.

    Attributes:
        said: `held`, or the reason for the refusal.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._stdin = process.stdin
        self.process = process
        self.said = process.stdout.readline().strip()

    def end(self) -> None:
        """Make the process close the port and exit."""
        self._stdin.write("\n")
        self._stdin.flush()
        assert self.process.wait(PATIENCE) == 0


@contextmanager
def program(how: str, path: str, user: str = "") -> Iterator[Program]:
    """Run `script_port.py` during the block, and kill it at the end."""
    command = [sys.executable, str(SCRIPT), how, path, *([user] if user else [])]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        watchdog = threading.Timer(3 * PATIENCE, process.kill)
        watchdog.start()
        try:
            yield Program(process)
        finally:
            watchdog.cancel()
            process.kill()


def refusal(url: str) -> str:
    """Return the error with which a driver refuses its client."""
    with (
        served(SerialPort(url=url)) as client,
        client.timeout(PATIENCE),
        pytest.raises(DriverOSError, match="the port is in use by") as caught,
    ):
        client.open_stream()
    assert caught.value.errno == errno.EBUSY
    return str(caught.value)


def opened(url: str) -> None:
    """Open and close a driver's stream."""
    with served(SerialPort(url=url)) as client, client.timeout(PATIENCE):
        client.open_stream().close()


def guards(parent: int | None = None) -> list[int]:
    """List the guards of a process, by default of this one."""
    found = []
    for each in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if f"_guard.py\0{parent or os.getpid()}\0" in each.read_text():
                found.append(int(each.parent.name))
    return found


# ------------------------------------------------------------------------------- refused


def test_another_client_of_the_driver_is_refused(path: str) -> None:
    with (
        served(SerialPort(url=path)) as client,
        client.stream(),
        pytest.raises(DriverOSError, match=rf"another client of.*\(uid .*, says '.*{path}"),
    ):
        client.open_stream()


def test_another_driver_of_the_exporter_is_refused(path: str) -> None:
    with served(SerialPort(url=path)) as client, client.stream():
        assert "in use by another driver of this exporter; end that" in refusal(path)
        assert path in refusal(path)


@as_anyone
def test_driver_in_another_process_is_refused_with_the_id_of_the_holder(
    path: str, user: str
) -> None:
    with (
        served(SerialPort(url=path)) as client,
        client.stream(),
        program("driver", path, user) as it,
    ):
        assert it.said.startswith(f"errno {errno.EBUSY}: ")
        assert "the port is in use by" in it.said
        assert path in it.said
    with program("driver", path, user) as it:
        assert it.said == "held"
        assert f"in use by process {it.process.pid} (python" in refusal(path)
        it.end()
    opened(path)


def test_a_link_to_the_port_is_refused_too(path: str, tmp_path: Path) -> None:
    link = tmp_path / "by-id"
    link.symlink_to(path)
    relative = os.path.relpath(path)
    for one, other in ((path, str(link)), (str(link), path), (str(link), relative)):
        with served(SerialPort(url=one)) as client, client.stream():
            refusal(other)


@pytest.mark.parametrize("url", ["spy://{}?file=/dev/null", "alt://{}?class=VTIMESerial"])
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # spy:// leaves the file open
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_url_of_the_port_is_refused_too(path: str, url: str) -> None:
    wrapped = url.format(path)
    for one, other in ((path, wrapped), (wrapped, path), (wrapped, wrapped)):
        with served(SerialPort(url=one)) as client, client.stream():
            assert path in refusal(other)


@pytest.mark.parametrize("how", ["flock", "excl"])
@as_anyone
def test_a_driver_is_refused_while_a_program_has_a_lock(path: str, how: str, user: str) -> None:
    with program(how, path, user) as it:
        assert it.said == "held"
        assert f"in use by process {it.process.pid} (python" in refusal(path)
        it.end()
    if how == "flock" or not user:
        opened(path)


@as_root
def test_driver_without_root_is_refused_while_a_program_has_tiocexcl(
    path: str,
) -> None:
    with program("excl", path, NOBODY), program("driver", path, NOBODY) as it:
        assert it.said.startswith(f"errno {errno.EBUSY}: ")
        assert "the port is in use by" in it.said


def test_program_that_takes_flock_is_refused_while_a_driver_has_the_port(path: str) -> None:
    with served(SerialPort(url=path)) as client:
        with client.stream(), program("flock", path) as it:
            assert it.said.startswith(f"errno {errno.EAGAIN}: ")
        with program("flock", path) as it:
            assert it.said == "held"


@as_root
def test_program_without_flock_is_refused_unless_it_is_root(path: str) -> None:
    with served(SerialPort(url=path)) as client:
        with client.stream():
            with program("open", path, NOBODY) as it:
                assert it.said.startswith(f"errno {errno.EBUSY}: ")
            with program("open", path) as it:
                assert it.said == "held"  # no lock of the system keeps root out
        with program("open", path, NOBODY) as it:
            assert it.said == "held"


def test_refused_driver_does_not_change_the_settings_of_the_port(path: str) -> None:
    with served(SerialPort(url=path, baudrate=9600)) as client, client.stream():
        line = os.open(path, os.O_RDWR | os.O_NOCTTY)
        before = termios.tcgetattr(line)
        with served(SerialPort(url=path, baudrate=115200)) as other, pytest.raises(DriverOSError):
            other.open_stream()
        assert termios.tcgetattr(line) == before
        os.close(line)


# ------------------------------------------------------------------------- when the port is free


def is_free(path: str, user: str) -> bool:
    with program("driver", path, user) as it:
        return it.said == "held"


@as_anyone
def test_port_is_free_after_its_stream_is_closed(path: str, user: str) -> None:
    with served(SerialPort(url=path)) as client:
        client.open_stream().close()
        assert is_free(path, user)
        assert guards() == []


@as_anyone
@pytest.mark.parametrize("how", ["driver", "forking", "flock"])
def test_port_is_free_after_its_holder_was_killed(path: str, how: str, user: str) -> None:
    with program(how, path) as it:
        assert it.said == "held"
        it.process.kill()
        it.process.wait(PATIENCE)
        assert is_free(path, user)
        opened(path)


def test_guard_outlasts_the_signals_by_which_a_service_manager_ends_a_service(path: str) -> None:
    with program("driver", path) as it:
        assert it.said == "held"
        give_up = time.monotonic() + PATIENCE
        while not (found := guards(it.process.pid)) and time.monotonic() < give_up:
            time.sleep(0.001)
        (guard,) = found
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
            os.kill(guard, number)
        it.process.kill()
        it.process.wait(PATIENCE)
        assert is_free(path, NOBODY if os.geteuid() == 0 else "")


def test_tiocexcl_of_a_killed_program_does_not_stop_root(
    unopened: str,
) -> None:
    """The kernel clears TIOCEXCL of a pseudo-terminal only when its other end closes."""
    with program("excl", unopened) as it:
        assert it.said == "held"
        it.process.kill()
        it.process.wait(PATIENCE)
        if os.geteuid() == 0:
            opened(unopened)
        else:
            refusal(unopened)


@pytest.fixture
def unopened() -> Iterator[str]:
    """Yield the path of a pseudo-terminal whose port no process has open."""
    board, port = os.openpty()
    tty.setraw(port)
    path = os.ttyname(port)
    os.close(port)
    yield path
    os.close(board)


def test_the_guard_of_a_port_ends_with_its_stream(path: str) -> None:
    with served(SerialPort(url=path)) as client:
        with client.stream():
            give_up = time.monotonic() + PATIENCE
            while not guards() and time.monotonic() < give_up:  # it has no name before it runs
                time.sleep(0.001)
            assert len(guards()) == 1
        assert guards() == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("executable", "/no/such/python"),
        ("executable", None),
        ("executable", ""),
        ("frozen", True),
    ],
)
def test_missing_guard_is_only_logged(
    path: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    name: str,
    value: Any,
) -> None:
    monkeypatch.setattr(sys, name, value, raising=False)
    opened(path)
    assert "no guard for it" in caplog.text
