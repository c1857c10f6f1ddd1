"""Test the interactive console, on real pseudo-terminals, over Unix sockets and TLS."""

from __future__ import annotations

import os
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from console_drivers import END, FAIL, board
from delaying_proxy import delaying_proxy
from exporter_process import ExporterProcess, exporter
from exporters_for_cli import BOARD, make_certificates
from helpers import PATIENCE
from jumpstarter import connect, serve
from jumpstarter.cli import main
from jumpstarter.cli._console import run_console
from jumpstarter.cli._escape import Command, EscapeKeys
from jumpstarter.client import DriverClient
from jumpstarter.errors import DriverError
from processes import running
from ptys import Job, User, at_a_terminal, user

READY = b"Ctrl-B ? lists more keys]\r\n"
CONSOLE = ("-m", "jumpstarter", "console")


@pytest.fixture
def someone() -> Iterator[User]:
    with user() as terminal:
        yield terminal


@pytest.fixture
def lab() -> Iterator[DriverClient]:
    with serve(board()) as client:
        yield client


@contextmanager
def acting(someone: User, act: Callable[[], object]) -> Iterator[None]:
    """Act as the user in another thread; a failure there hangs up, and fails the test."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            act()
        except BaseException as exc:  # noqa: BLE001 - raised below
            failures.append(exc)
            someone.hang_up()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    except BaseException:
        failures.clear()
        someone.give_up = True
        raise
    finally:
        thread.join()
    for failure in failures:
        raise failure


@contextmanager
def console(someone: User, exporter: ExporterProcess, *options: str) -> Iterator[Job]:
    arguments = [*CONSOLE, exporter.address, "serial", *options]
    with at_a_terminal(someone, arguments) as job:
        someone.see(READY)
        yield job


# --- the escape keys ---


def keys(*pieces: bytes) -> list[bytes | Command]:
    machine = EscapeKeys()
    return [each for piece in pieces for each in machine.feed(piece)]


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (b"ls\r", [b"ls\r"]),
        (b"\x02\x02\x02", [Command.LEAVE]),
        (b"\x02q", [Command.LEAVE]),
        (b"\x02\x02q", [Command.LEAVE]),
        (b"a\x02?b", [b"a", Command.HELP, b"b"]),
        (b"\x02b", [b"\x02"]),
        (b"\x02bq", [b"\x02", b"q"]),
        (b"\x02p\x02z", [Command.POWER, Command.SUSPEND]),
        (b"\x02xq", [Command.UNKNOWN, b"q"]),
        (b"\x02\x02x\x02\x02", [Command.UNKNOWN]),
        (b"\x02\x02\x02\x02\x02\x02", [Command.LEAVE, Command.LEAVE]),
        (bytes(range(3, 256)), [bytes(range(3, 256))]),
        ("\x00żółw ✓".encode(), ["\x00żółw ✓".encode()]),
    ],
)
def test_escape_keys_are_found_however_the_bytes_are_split(
    typed: bytes, expected: list[bytes | Command]
) -> None:
    assert keys(typed) == expected
    one_by_one = keys(*(bytes([byte]) for byte in typed))

    def joined(events: list[bytes | Command]) -> list[object]:
        return [part for each in events for part in (each if isinstance(each, bytes) else [each])]

    assert joined(one_by_one) == joined(expected)


# --- in this process ---


def talk(client: DriverClient, someone: User, method: str = "connect", **options: Any) -> int:
    line = someone.line
    return run_console(client, method, stdin=line, stdout=line, stderr=line, **options)


def test_every_byte_passes_in_both_directions(someone: User, lab: DriverClient) -> None:
    data = bytes(range(256)).replace(b"\x02", b"").replace(END, b"").replace(FAIL, b"")
    letter = "✓".encode()

    def act() -> None:
        someone.see(READY)
        assert someone.is_raw()
        someone.type(data)
        someone.see(data)
        someone.type(letter[:1])
        someone.see(letter[:1])
        someone.type(letter[1:] + b"\x02b")
        someone.see(letter[1:] + b"\x02")
        someone.type(b"\x02\x02\x02")

    with acting(someone, act):
        assert talk(lab.serial, someone) == 0
    assert someone.is_restored()
    assert lab.serial.until_received(b"\x02") == data + letter + b"\x02"


def test_the_keys_are_listed_and_an_unknown_one_sends_nothing(
    someone: User, lab: DriverClient
) -> None:
    def act() -> None:
        someone.see(READY)
        someone.type(b"\x02?")
        assert b"power" not in someone.see(b"show this list]\r\n")
        someone.type(b"\x02x")
        someone.see(b"[not a command, and nothing was sent; Ctrl-B ? lists the keys]\r\n")
        someone.type(b"\x02p")
        someone.see(b"[no power driver is known here: name one by --power]\r\n")
        someone.type(b".\x02q")

    with acting(someone, act):
        assert talk(lab.serial, someone) == 0
    assert lab.serial.until_received(b".") == b"."


def test_the_device_is_power_cycled_from_inside(someone: User, lab: DriverClient) -> None:
    def act() -> None:
        someone.see(READY)
        someone.type(b"\x02?")
        someone.see(b"power-cycle the device]\r\n")
        someone.type(b"\x02p")
        someone.see(b"[power-cycle begins]\r\n")
        someone.type(b"\x02p")
        someone.see(b"[a power-cycle is under way]\r\n")
        someone.type(b"uname\r")
        someone.see(b"uname\r")
        someone.type(b"\x02q")
        someone.see(b"[left the console]\r\n")
        assert someone.is_restored()
        someone.see(b"[waiting for the power-cycle to end]\r\n")
        someone.see(b"[power-cycle has ended]\r\n")

    with acting(someone, act):
        assert talk(lab.serial, someone, power=lab.power) == 0
    assert next(lab.power.read()).voltage > 0


def test_a_power_switch_without_a_cycle_is_switched_off_and_on(
    someone: User, lab: DriverClient
) -> None:
    def act() -> None:
        someone.see(READY)
        someone.type(b"\x02p\x02q")
        someone.see(b"[power-cycle has ended]\r\n")

    with acting(someone, act):
        assert talk(lab.serial, someone, power=lab.relay) == 0
    assert lab.relay.switched() == ["off", "on"]


def test_a_power_cycle_that_fails_leaves_the_console_open(someone: User, lab: DriverClient) -> None:
    def act() -> None:
        someone.see(READY)
        someone.type(b"\x02p")
        someone.see(b"[power-cycle has failed: ")
        someone.type(b"still here\x02q")
        someone.see(b"[left the console]\r\n")

    with acting(someone, act):
        assert talk(lab.serial, someone, power=lab.serial) == 0  # which is not a power switch
    assert lab.serial.until_received(b"here") == b"still here"


def test_the_end_of_the_device_ends_the_console(someone: User, lab: DriverClient) -> None:
    def act() -> None:
        someone.see(READY)
        someone.type(b"logout" + END)
        someone.see(b"logout" + END)
        someone.see(b"[the device has ended the stream]\r\n")

    with acting(someone, act):
        assert talk(lab.serial, someone) == 0
    assert someone.is_restored()


def test_a_failure_of_the_driver_restores_the_terminal(someone: User, lab: DriverClient) -> None:
    def act() -> None:
        someone.see(READY)
        someone.type(FAIL)

    with acting(someone, act), pytest.raises(DriverError, match="on fire"):
        talk(lab.serial, someone)
    assert someone.is_restored()


def test_a_terminal_that_goes_away_ends_the_console(someone: User, lab: DriverClient) -> None:
    def act() -> None:
        someone.see(READY)
        someone.hang_up()

    with acting(someone, act):
        assert talk(lab.serial, someone) == 128 + signal.SIGHUP


def test_a_device_that_accepts_nothing_can_be_left(someone: User, lab: DriverClient) -> None:
    def act() -> None:
        someone.see(READY)
        someone.see(b"hello")
        for _ in range(100):
            someone.type(b"x" * 1000)  # more than fits in the stream's window
        someone.type(b"\x02q")
        someone.see(b"[left the console]\r\n")

    with acting(someone, act):
        assert talk(lab.serial, someone, "deaf") == 0
    assert someone.is_restored()


def test_a_terminal_that_shows_nothing_holds_up_the_device(
    someone: User, lab: DriverClient
) -> None:
    def act() -> None:
        deadline = time.monotonic() + PATIENCE
        while lab.serial.flooded_bytes() < 64 * 1024:
            assert time.monotonic() < deadline
        for _ in range(200):
            assert lab.serial.flooded_bytes() < 16 * 1024 * 1024
        someone.type(b"\x02q")
        someone.see(b"[left the console]\r\n")

    with acting(someone, act):
        assert talk(lab.serial, someone, "flood") == 0


# --- as a program, in front of a terminal ---


def test_the_terminal_is_restored_after_the_keys_that_leave(someone: User, tmp_path: Path) -> None:
    with exporter(tmp_path, driver=BOARD) as server, console(someone, server) as job:
        assert someone.is_raw()
        someone.type(b"\x03\x1a\x1c\x13\x11!")  # none of which is a signal or stops the output
        someone.see(b"\x03\x1a\x1c\x13\x11!")
        someone.type(b"\x02\x02\x02")
        assert job.wait() == 0
        assert someone.is_restored()
        assert b"\x1b]" not in someone.seen  # the window's title is left alone


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGINT])
def test_a_signal_restores_the_terminal(
    someone: User, tmp_path: Path, number: signal.Signals
) -> None:
    with exporter(tmp_path, driver=BOARD) as server, console(someone, server) as job:
        os.kill(job.pid, number)
        assert job.wait() == 128 + number
        assert someone.is_restored()


@pytest.mark.parametrize("by_key", [True, False])
def test_a_console_is_suspended_with_the_terminal_restored(
    someone: User, tmp_path: Path, by_key: bool
) -> None:
    with exporter(tmp_path, driver=BOARD) as server, console(someone, server) as job:
        for text in (b"one", b"two"):
            if by_key:
                someone.type(b"\x02z")
            else:
                os.kill(job.pid, signal.SIGTSTP)
            assert job.wait_stopped()
            assert someone.is_restored()
            job.proceed()
            someone.wait_raw()
            someone.type(text)
            someone.see(text)
        someone.type(b"\x02q")
        assert job.wait() == 0
        assert someone.is_restored()


def test_a_console_that_was_stopped_by_force_is_raw_again_when_it_continues(
    someone: User, tmp_path: Path
) -> None:
    with exporter(tmp_path, driver=BOARD) as server, console(someone, server) as job:
        os.kill(job.pid, signal.SIGSTOP)
        job.wait_stopped()
        someone.reset()  # as a shell does
        job.proceed()
        someone.wait_raw()
        someone.type(b"text\x02q")
        assert job.wait() == 0
        assert someone.is_restored()


def test_an_exporter_that_is_killed_restores_the_terminal_and_is_one_line(
    someone: User, tmp_path: Path
) -> None:
    with exporter(tmp_path, driver=BOARD) as server, console(someone, server) as job:
        server.send(signal.SIGKILL)
        assert job.wait() == 1
        assert someone.is_restored()
        rest = someone.see(b"\n")
        assert rest.startswith(b"jumpstarter: method 'connect' of driver 'serial'")


def test_a_log_gets_all_received_bytes_and_keeps_older_ones(someone: User, tmp_path: Path) -> None:
    log = tmp_path / "console.log"
    log.write_bytes(b"older\n")
    options = ("--log", str(log))
    with exporter(tmp_path, driver=BOARD) as server, console(someone, server, *options) as job:
        someone.type(b"caf\xc3\xa9\x00\r")
        someone.see(b"\x00\r")
        assert log.read_bytes() == b"older\ncaf\xc3\xa9\x00\r"
        someone.type(b"\x02q")
        assert job.wait() == 0


def test_a_log_that_cannot_be_written_is_an_error_before_connecting(tmp_path: Path) -> None:
    done = piped(f"unix:{tmp_path}/nobody", "serial", "--log", str(tmp_path / "no/such/file"))
    assert done.returncode == 1
    assert b"No such file or directory" in done.stderr
    assert done.stderr.count(b"\n") == 1


# --- over a long line ---


def test_keys_are_sent_while_the_answers_to_others_are_under_way(
    someone: User, tmp_path: Path
) -> None:
    serve_options, access = make_certificates(tmp_path)
    with exporter(tmp_path, *serve_options, driver=BOARD) as server:
        port = int(server.address.rpartition(":")[2])
        with delaying_proxy(port, seconds=0.1) as proxy:
            arguments = [*CONSOLE, f"tls://localhost:{proxy.port}", "serial", *access]
            with at_a_terminal(someone, arguments) as job:
                someone.see(READY)
                proxy.hold_answers()
                typed = b"systemctl status --no-pager\r"
                for key in typed:
                    someone.type(bytes([key]))
                # Nothing that the exporter sends reaches the console until all keys have arrived.
                context = ssl.create_default_context(cafile=tmp_path / "ca.pem")
                token = (tmp_path / "token").read_text()
                with connect(server.address, token=token, ssl_context=context) as client:
                    assert client.serial.until_received(b"\r") == typed
                proxy.release_answers()
                someone.see(typed)
                someone.type(b"\x02q")
                assert job.wait() == 0
        assert someone.is_restored()


# --- pipes instead of a terminal ---


def piped(address: str, *arguments: str, text: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, *CONSOLE, address, *arguments]
    return subprocess.run(
        command, input=text, capture_output=True, timeout=4 * PATIENCE, check=False
    )


def test_a_pipe_is_sent_and_the_answer_is_read_to_its_end(tmp_path: Path) -> None:
    data = bytes(range(256)).replace(END, b"").replace(FAIL, b"") * 4000  # with Ctrl-B too
    with exporter(tmp_path, driver=BOARD) as server:
        done = piped(server.address, "serial.connect", text=data)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == data


def test_a_file_can_be_sent_to_a_device_that_never_ends(tmp_path: Path) -> None:
    file = tmp_path / "input"
    file.write_bytes(b"reboot\r")
    with exporter(tmp_path, driver=BOARD) as server, file.open("rb") as stdin:
        command = [sys.executable, *CONSOLE, server.address, "serial.forever", "--timeout", "1"]
        done = subprocess.run(
            command, stdin=stdin, capture_output=True, timeout=4 * PATIENCE, check=False
        )
        with connect(server.address) as client:
            assert client.serial.until_received(b"reboot\r") == b"reboot\r"
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_reader_of_stdout_that_has_gone_ends_the_console(tmp_path: Path) -> None:
    with exporter(tmp_path, driver=BOARD) as server:
        command = [sys.executable, *CONSOLE, server.address, "serial.flood"]
        pipe = subprocess.PIPE
        with running(command, stdin=pipe, stdout=pipe, text=False) as process:
            assert process.stdout is not None
            process.stdout.read(1000)
            process.stdout.close()
            assert process.wait(4 * PATIENCE) == 128 + signal.SIGPIPE


@contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    """Open a pipe, and close what is left of it at the end."""
    ends = os.pipe()
    try:
        yield ends
    finally:
        for end in ends:
            with suppress(OSError):
                os.close(end)


def test_a_pipe_in_this_process_gets_the_answer(lab: DriverClient, tmp_path: Path) -> None:
    with (
        pipe() as (stdin, typing),
        pipe() as (reading, stdout),
        (tmp_path / "log").open("wb") as log,
    ):
        os.write(typing, b"one \x02q two")
        os.close(typing)
        assert run_console(lab.serial, stdin=stdin, stdout=stdout, log=log.fileno()) == 0
        assert os.read(reading, 100) == b"one \x02q two"
    assert (tmp_path / "log").read_bytes() == b"one \x02q two"


def test_a_file_is_sent_and_reading_ends_in_time(lab: DriverClient, tmp_path: Path) -> None:
    (tmp_path / "input").write_bytes(b"reboot\r")
    with (tmp_path / "input").open("rb") as stdin, (tmp_path / "output").open("wb") as stdout:
        fds = stdin.fileno(), stdout.fileno()
        assert run_console(lab.serial, "forever", timeout=0.1, stdin=fds[0], stdout=fds[1]) == 0
    assert lab.serial.until_received(b"reboot\r") == b"reboot\r"


def test_a_reader_that_has_gone_is_an_error_that_names_it(lab: DriverClient) -> None:
    with pipe() as (stdin, _), pipe() as (reading, stdout):
        os.close(reading)
        with pytest.raises(BrokenPipeError):
            run_console(lab.serial, "flood", stdin=stdin, stdout=stdout)


def test_descriptors_that_others_made_non_blocking_are_waited_for(lab: DriverClient) -> None:
    data = b"0123456789abcdef" * 16384
    received = bytearray()

    def write(typing: int) -> None:
        os.write(typing, data)
        os.close(typing)

    def read(reading: int) -> None:
        while piece := os.read(reading, 65536):
            received.extend(piece)

    with pipe() as (stdin, typing), pipe() as (reading, stdout):
        os.set_blocking(stdin, False)
        os.set_blocking(stdout, False)
        threads = [
            threading.Thread(target=read, args=[reading]),
            threading.Thread(target=write, args=[typing]),
        ]
        for thread in threads:
            thread.start()
        assert run_console(lab.serial, stdin=stdin, stdout=stdout) == 0
        os.close(stdout)
        for thread in threads:
            thread.join()
    assert received == data


def test_a_signal_in_the_main_thread_restores_and_exits(someone: User, lab: DriverClient) -> None:
    def act() -> None:
        someone.see(READY)
        os.kill(os.getpid(), signal.SIGTERM)

    with acting(someone, act), pytest.raises(SystemExit) as caught:
        talk(lab.serial, someone)
    assert caught.value.code == 128 + signal.SIGTERM
    assert someone.is_restored()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_ctrl_c_ends_a_console_without_a_terminal(tmp_path: Path) -> None:
    with exporter(tmp_path, driver=BOARD) as server:
        command = [sys.executable, *CONSOLE, server.address, "serial"]
        pipe = subprocess.PIPE
        with running(command, stdin=pipe, stdout=pipe, text=False, bufsize=0) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(b"x")
            assert process.stdout.read(1) == b"x"
            process.send_signal(signal.SIGINT)
            assert process.wait(4 * PATIENCE) == 128 + signal.SIGINT


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("seriel", "has neither a child nor an exported method 'seriel'; did you mean 'serial'?"),
        (
            "serial.conect",
            "has neither a child nor an exported method 'conect'; did you mean 'connect'?",
        ),
        ("serial.until_received", "is a method and not a stream"),
        ("power", "it exports no stream"),
    ],
)
def test_a_console_that_does_not_exist_is_one_line(
    tmp_path: Path, target: str, said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with exporter(tmp_path, driver=BOARD) as server:
        assert main(["console", server.address, target]) == 1
    err = capfd.readouterr().err
    assert said in err
    assert err.count("\n") == 1


def test_the_command_uses_the_power_switch_beside_the_console(
    someone: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def act() -> None:
        someone.see(b"power-cycle begins]\r\n")
        someone.see(b"power-cycle has ended]\r\n")
        someone.type(b"\x02q")

    def begin() -> None:
        someone.wait_raw()
        someone.type(b"\x02p")
        act()

    log = tmp_path / "log"
    with (
        exporter(tmp_path, driver=BOARD) as server,
        os.fdopen(os.dup(someone.line), "r") as stdin,
        os.fdopen(os.dup(someone.line), "w") as stdout,
        redirected(2, someone.line),
        acting(someone, begin),
    ):
        monkeypatch.setattr(sys, "stdin", stdin)
        monkeypatch.setattr(sys, "stdout", stdout)
        arguments = ["bench.serial", "--log", str(log)]
        assert main(["console", server.address, *arguments]) == 0
        assert main(["console", server.address, "serial", "more"]) == 2
    assert someone.is_restored()


@contextmanager
def redirected(fd: int, to: int) -> Iterator[None]:
    """Let a descriptor lead elsewhere, for the length of a block."""
    before = os.dup(fd)
    os.dup2(to, fd)
    try:
        yield
    finally:
        os.dup2(before, fd)
        os.close(before)
