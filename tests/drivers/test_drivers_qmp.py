"""Tests of `jumpstarter.drivers.qmp` with a scripted QMP server on a real socket."""

from __future__ import annotations

import contextlib
import errno
import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from helpers import PATIENCE
from jumpstarter import serve
from jumpstarter.drivers.qmp import Qmp, QmpClient
from jumpstarter.errors import ConfigurationError, DriverError, DriverOSError

GREETING: Final = b'{"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 0}}}}\r\n'
Answer = Callable[[dict[str, Any]], bytes]


def returns(value: object) -> bytes:
    return json.dumps({"return": value}).encode() + b"\r\n"


class Machine:
    """Answers like QEMU, and records the commands that it got.

    Args:
        path: Where to listen.
        answer: Returns the bytes that follow a command.
    """

    def __init__(self, path: Path, answer: Answer, greeting: bytes = GREETING) -> None:
        self.commands: list[dict[str, Any]] = []
        self._answer = answer
        self._greeting = greeting
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                connection, _ = self._socket.accept()  # one at a time, as QEMU does
                with connection, contextlib.suppress(OSError):  # it disconnects at any time
                    self._serve(connection)

    def _serve(self, connection: socket.socket) -> None:
        connection.sendall(self._greeting)
        for line in connection.makefile("rb"):
            command = json.loads(line)
            if command["execute"] == "qmp_capabilities":
                connection.sendall(returns({}))
            else:
                self.commands.append(command)
                connection.sendall(self._answer(command))

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()


@contextlib.contextmanager
def machine(
    path: Path, answer: Answer, greeting: bytes = GREETING, timeout: float = PATIENCE
) -> Iterator[tuple[Machine, QmpClient]]:
    """Serve a scripted machine through the driver."""
    server = Machine(path, answer, greeting)
    try:
        with (
            serve(Qmp(path=str(path), timeout=timeout), client=QmpClient) as client,
            client.timeout(PATIENCE),
        ):
            yield server, client
    finally:
        server.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "qmp.sock"


def test_commands_are_sent_and_answers_returned(path: Path) -> None:
    answers = {"query-status": {"status": "running", "singlestep": False, "running": True}}
    with machine(path, lambda it: returns(answers.get(it["execute"], {}))) as (server, qmp):
        assert qmp.query_status() == "running"
        qmp.pause()
        qmp.resume()
        qmp.system_reset()
        qmp.system_powerdown()
    names = ["query-status", "stop", "cont", "system_reset", "system_powerdown"]
    assert [each["execute"] for each in server.commands] == names


def test_events_before_an_answer_are_passed_over(path: Path) -> None:
    event = b'{"event": "RESET", "data": {}, "timestamp": {"seconds": 1}}\r\n'
    with machine(path, lambda _: event * 3 + returns({"status": "paused"})) as (_, qmp):
        assert qmp.query_status() == "paused"


def test_error_of_qemu_is_raised(path: Path) -> None:
    error = b'{"error": {"class": "GenericError", "desc": "There is no console"}}\r\n'
    with machine(path, lambda _: error) as (_, qmp):
        with pytest.raises(DriverOSError, match="refused 'stop': 'There is no console'") as caught:
            qmp.pause()
        assert caught.value.filename == str(path)


def test_screendump_writes_a_local_file(path: Path, tmp_path: Path) -> None:
    def answer(command: dict[str, Any]) -> bytes:
        arguments = command["arguments"]
        assert arguments["format"] == "png"
        Path(arguments["filename"]).write_bytes(b"a picture")
        return returns({})

    with machine(path, answer) as (server, qmp):
        qmp.screendump(tmp_path / "screen.png")
    assert (tmp_path / "screen.png").read_bytes() == b"a picture"
    assert not Path(server.commands[0]["arguments"]["filename"]).parent.exists()


def test_machine_that_does_not_run_is_reported(path: Path) -> None:
    with serve(Qmp(path=str(path)), client=QmpClient) as qmp:
        with pytest.raises(DriverOSError, match="QEMU does not run") as caught:
            qmp.query_status()
        assert (caught.value.errno, caught.value.filename) == (errno.ENOENT, str(path))
        with socket.socket(socket.AF_UNIX) as left_behind:
            left_behind.bind(str(path))
        with pytest.raises(DriverError, match="QEMU does not run"):
            qmp.query_status()


@pytest.mark.parametrize("greeting", [b"SSH-2.0\n", b"[]\n", b"{}\n", b"[" * 20_000 + b"\n", b"\n"])
def test_other_servers_are_recognized(path: Path, greeting: bytes) -> None:
    with (
        machine(path, lambda _: b"", greeting) as (_, qmp),
        pytest.raises(DriverOSError, match="does not speak QMP"),
    ):
        qmp.query_status()


def test_line_without_an_end_is_refused(path: Path) -> None:
    with (
        machine(path, lambda _: b"", b"x" * 3_000_000) as (_, qmp),
        pytest.raises(DriverOSError, match="line without an end"),
    ):
        qmp.query_status()


def test_answer_of_another_form_is_refused(path: Path) -> None:
    with (
        machine(path, lambda _: b'{"return": 7}\n') as (_, qmp),
        pytest.raises(DriverOSError, match="no answer to 'query-status'"),
    ):
        qmp.query_status()


def test_machine_that_ends_meanwhile_is_reported(path: Path) -> None:
    def answer(_: object) -> bytes:
        raise ConnectionError

    with (
        machine(path, answer) as (_, qmp),
        pytest.raises(DriverError, match="has ended the connection"),
    ):
        qmp.query_status()


def test_connection_of_another_program_is_named_as_a_cause(path: Path) -> None:
    with machine(path, lambda _: returns({}), timeout=0.5) as (_, qmp):
        with socket.socket(socket.AF_UNIX) as other:
            other.connect(str(path))
            assert other.recv(1000) == GREETING
            with pytest.raises(DriverError, match="another program is connected") as caught:
                qmp.query_status()
            assert isinstance(caught.value, OSError)
        qmp.pause()


def test_calls_wait_for_each_other(path: Path) -> None:
    with machine(path, lambda _: returns({"status": "running"})) as (server, qmp):
        threads = [threading.Thread(target=qmp.query_status) for _ in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
    assert len(server.commands) == 10


@pytest.mark.parametrize("fields", [{"path": ""}, {"path": 7}, {"path": "it", "timeout": "soon"}])
def test_fields_are_checked(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        Qmp(**fields)
