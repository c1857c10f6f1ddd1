"""Test the example of the driver API reference, verbatim, as its readers run it."""

from __future__ import annotations

import importlib
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Final

import pytest
import trio.testing

from jumpstarter import serve
from jumpstarter.testing import client_for_async

TEXT: Final = (Path(__file__).parents[1] / "examples" / "example.py").read_text()
TIMEOUT: Final = 60.0  # seconds for a run that takes one second


def run_script(directory: Path, text: str) -> str:
    """Run `python example.py`, check its exit code and empty stderr, and return its stdout."""
    (directory / "example.py").write_text(text)
    command = [sys.executable, "example.py"]
    result = subprocess.run(
        command, cwd=directory, capture_output=True, text=True, timeout=TIMEOUT, check=False
    )
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


@pytest.fixture
def import_example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], ModuleType]]:
    """Return a function that imports the example, and thereby runs it."""

    def import_text(text: str) -> ModuleType:
        (tmp_path / "example.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "example", raising=False)
        return importlib.import_module("example")

    yield import_text
    sys.modules.pop("example", None)


@pytest.fixture
def example(import_example: Callable[[str], ModuleType]) -> ModuleType:
    """Return the example as a module."""
    return import_example(TEXT)


@pytest.fixture
def reversing_server() -> Iterator[int]:
    """Run a TCP server that greets its only client and echoes its input reversed."""

    def answer() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(b"welcome")
            while data := connection.recv(1024):
                connection.sendall(data[::-1])

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(TIMEOUT)
        assert not thread.is_alive()


def test_it_runs_as_a_script(tmp_path: Path) -> None:
    assert run_script(tmp_path, TEXT) == ""


def test_its_body_runs_once_though_its_client_class_is_imported(tmp_path: Path) -> None:
    text = TEXT + 'print("ran in", type(client).__module__)\n'
    assert run_script(tmp_path, text) == "ran in __main__\n"


def test_it_runs_when_it_is_imported(example: ModuleType) -> None:
    assert type(example.client) is example.ExampleClient


def test_what_it_does_in_its_own_words(example: ModuleType) -> None:
    with serve(example.ExampleDriver()) as client:
        assert client.echo("hello") == "hello"
        assert list(client.echo_generator("hello")) == ["hello"] * 10


async def test_its_async_method_takes_five_seconds(
    example: ModuleType, autojump_clock: trio.testing.MockClock
) -> None:
    started = autojump_clock.current_time()
    async with client_for_async(example.ExampleDriver()) as client:
        assert await client.call_async("echo_async", "hello") == "hello"
    assert autojump_clock.current_time() == started + 5


def test_its_stream_is_a_tcp_connection_of_the_exporter(
    import_example: Callable[[str], ModuleType], reversing_server: int
) -> None:
    assert TEXT.count("remote_port=80)") == 1
    example = import_example(TEXT.replace("remote_port=80)", f"remote_port={reversing_server})"))
    with (
        serve(example.ExampleDriver()) as client,
        client.timeout(TIMEOUT),
        client.stream("connect_tcp") as stream,
    ):
        assert stream.receive() == b"welcome"
        stream.send(b"hello")
        assert stream.receive() == b"olleh"
        stream.send_eof()
        assert list(stream) == []
