"""Test `jumpstarter forward`: programs reach a driver's stream by a local port or socket."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from console_drivers import END
from exporters_for_cli import Reached, board_over
from helpers import PATIENCE
from jumpstarter.cli import main
from ports import connect_to_listener
from processes import running


@pytest.fixture(params=["unix", "tls"])
def board(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Reached]:
    with board_over(request.param, tmp_path) as reached:
        yield reached


@contextmanager
def forwarding(board: Reached, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run the command, and yield its process, and where it listens."""
    command = [sys.executable, "-m", "jumpstarter", "forward", *board.access, board.address]
    pipe = subprocess.PIPE
    with running([*command, *arguments], seconds=4 * PATIENCE, stdout=pipe, stderr=pipe) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("forwarding: "), process.stderr and process.stderr.read()
        yield process, line.removeprefix("forwarding: ").strip()


def connected_to(where: str) -> socket.socket:
    """Connect as a program does."""
    if where.startswith("unix:"):
        program = socket.socket(socket.AF_UNIX)
        program.settimeout(PATIENCE)
        program.connect(where.removeprefix("unix:"))
        return program
    host, _, port = where.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE)


def echoed(where: str, text: bytes) -> bytes:
    """Send a text and the byte at which the device ends, and return what it sends."""
    with connected_to(where) as program:
        return echoed_by(program, text)


def echoed_by(program: socket.socket, text: bytes) -> bytes:
    """Do so over a connection."""
    program.sendall(text + END)
    return b"".join(iter(lambda: program.recv(4096), b""))


def test_programs_reach_the_device_until_sigterm(board: Reached) -> None:
    with forwarding(board, "serial") as (process, where):
        assert where.startswith("127.0.0.1:")
        assert echoed(where, b"one") == b"one" + END
        assert echoed(where, b"two") == b"two" + END
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
        assert process.communicate(timeout=PATIENCE) == ("", "")


def test_a_forward_ends_at_ctrl_c(board: Reached) -> None:
    with forwarding(board, "serial.connect", "127.0.0.1:0") as (process, where):
        assert echoed(where, b"one") == b"one" + END
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 128 + signal.SIGINT


def test_a_socket_is_made_and_removed(board: Reached, tmp_path: Path) -> None:
    place = tmp_path / "local.sock"
    with forwarding(board, "serial", f"unix:{place}") as (process, where):
        assert where == f"unix:{place}"
        assert echoed(where, b"one") == b"one" + END
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
    assert not place.exists()


def test_a_lost_exporter_is_one_line_and_exit_code_1(board: Reached) -> None:
    with forwarding(board, "serial") as (process, _):
        board.process.send(signal.SIGKILL)
        _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert err.count("\n") == 1
    assert "exporter" in err


def test_a_port_that_is_taken_is_one_line(
    board: Reached, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        local = f"127.0.0.1:{taken.getsockname()[1]}"
        assert main(["forward", *board.access, board.address, "serial", local]) == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert local in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("local", ["http", "localhost", "1:99999", "-1:-1"])
def test_a_local_place_that_is_none_is_an_error_of_usage(
    local: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["forward", "unix:/nobody", "serial", "--", local]) == 2
    assert "it must be PORT, HOST:PORT or unix:PATH" in capfd.readouterr().err


def test_a_forward_in_this_process_ends_in_order_at_sigterm(
    board: Reached, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "here.sock"
    answers: list[bytes] = []

    def use() -> None:
        try:
            with connect_to_listener(place) as connection:
                answers.append(echoed_by(connection, b"one"))
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    program = threading.Thread(target=use)
    program.start()
    with pytest.raises(SystemExit) as caught:
        main(["forward", *board.access, board.address, "serial", f"unix:{place}"])
    program.join()
    assert caught.value.code == 0
    assert answers == [b"one" + END]
    assert capfd.readouterr() == (f"forwarding: unix:{place}\n", "")
    assert not place.exists()
