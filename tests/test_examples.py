"""Test the examples, and the statements of the pages beyond their code blocks."""

from __future__ import annotations

import importlib
import os
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import tty
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from exporter_process import exporter
from jumpstarter import serve
from jumpstarter.errors import DriverOSError
from pages import ROOT, blocks_of

TIMEOUT: Final = 60.0  # seconds for a step that takes one or two seconds


def run(cwd: Path, *arguments: str) -> str:
    """Run Python, check that it succeeds and writes nothing to stderr, and return its stdout."""
    result = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, ""), result.stdout
    return result.stdout


@pytest.fixture
def serial_console(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT / "examples")
    return importlib.import_module("serial_console")


@pytest.fixture
def line() -> Iterator[tuple[int, str]]:
    """Yield a pseudo-terminal: the board's end as a descriptor, and the path of the other end."""
    board, port = os.openpty()
    tty.setraw(port)
    yield board, os.ttyname(port)
    os.close(board)
    os.close(port)


# --- the demo ---


def test_demo_succeeds(tmp_path: Path) -> None:
    stdout = run(tmp_path, str(ROOT / "examples" / "demo.py"))
    assert stdout.endswith("all as expected\n")
    assert "FAIL" not in stdout


def test_demo_reports_failures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(ROOT / "examples")
    report = importlib.import_module("demo").Report()
    report.check("a sum", 1 + 1, 2)
    assert report.failures == 0
    report.check("a sum", 1 + 1, 3)
    assert report.failures == 1
    assert "FAIL  a sum" in capsys.readouterr().out


# --- the story ---


def test_story_prints_its_steps(tmp_path: Path) -> None:
    stdout = run(tmp_path, str(ROOT / "examples" / "story.py"), "--mib", "8")
    lines = [line.strip().partition(":")[0] for line in stdout.splitlines()]
    assert lines == [
        "the first attempt",
        "logged in",
        "failed, as it was meant to",
        "nothing is left behind",
        "the second attempt",
        "logged in",
        "flashed 8,388,608 bytes",
        lines[7],
        "power off",
    ]
    assert lines[7].startswith("fetched the page through port ")


# --- the serial console ---


def test_console_carries_every_byte_unchanged(serial_console: Any, line: tuple[int, str]) -> None:
    board, path = line
    with serve(serial_console.SerialConsole(port=path)) as client, client.timeout(TIMEOUT):
        assert client.device() == path
        with client.connect() as console:
            console.send(bytes(range(256)))
            heard = b""
            while len(heard) < 256:
                heard += os.read(board, 1024)
            assert heard == bytes(range(256))
            os.write(board, bytes(range(256)))
            said = b""
            while len(said) < 256:
                said += console.receive()
            assert said == bytes(range(256))


def test_discard_drops_unread_input(serial_console: Any, line: tuple[int, str]) -> None:
    board, path = line
    with serve(serial_console.SerialConsole(port=path)) as client, client.timeout(TIMEOUT):
        os.write(board, b"old")
        client.discard()
        os.write(board, b"new")
        with client.connect() as console:
            assert console.receive() == b"new"


def test_console_serves_one_client_at_a_time(serial_console: Any, line: tuple[int, str]) -> None:
    with serve(serial_console.SerialConsole(port=line[1])) as client, client.timeout(TIMEOUT):
        first = client.open_stream()
        with pytest.raises(DriverOSError, match="in use"):
            client.open_stream()
        first.close()
        client.open_stream().close()


def test_missing_port_is_named(serial_console: Any) -> None:
    with (
        serve(serial_console.SerialConsole(port="/dev/no-such-port")) as client,
        pytest.raises(DriverOSError, match="/dev/no-such-port"),
    ):
        client.open_stream()


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        (b"echo a  b\r", b"a b\r\n"),
        (b"uname\r", b"board\r\n"),
        (b"\r", b""),
        (b"reboot\r", b"board 1.0 ready\r\n"),
        (b"rm -rf /\r", b"rm: not found\r\n"),
    ],
)
def test_board_echoes_and_answers(serial_console: Any, typed: bytes, answer: bytes) -> None:
    prompt = b"$ "
    with (
        serve(serial_console.SimulatedConsole()) as client,
        client.timeout(TIMEOUT),
        client.connect() as console,
    ):
        serial_console.read_until(console, prompt)
        console.send(typed)
        said = serial_console.read_until(console, prompt)
        assert said == typed.replace(b"\r", b"\r\n") + answer + prompt


# --- the pages, beyond running each of their blocks as `test_pages.py` does ---


def python_block(page: str, text: str) -> str:
    """Return the only Python block of a page that contains this text."""
    [block] = [each for each in blocks_of(page) if each.language == "python" and text in each.text]
    return block.text


@pytest.fixture
def power(tmp_path: Path) -> Path:
    """Save the README's first example, and return the directory."""
    (tmp_path / "power.py").write_text(python_block("README.md", "class PowerClient"))
    return tmp_path


def test_console_of_a_page_talks_as_shown(power: Path, line: tuple[int, str]) -> None:
    board, path = line
    page = "docs/howto/write-a-driver.md"
    console, tree = (python_block(page, f"class {name}(") for name in ("Console", "Bench"))
    assert "/dev/ttyUSB0" in console
    (power / "console.py").write_text(console.replace("/dev/ttyUSB0", path))
    (power / "bench.py").write_text(tree)
    os.write(board, b"a board")
    talk = python_block(page, "bench.console.stream(")
    assert run(power, "-c", talk) == "b'a board'\n"
    assert os.read(board, 100) == b"uname\n"


def shell(page: str, text: str) -> list[str]:
    """Return the shell blocks of a page that contain this text."""
    return [each.text for each in blocks_of(page) if each.language == "sh" and text in each.text]


def serving(page: str, having: str) -> list[str]:
    """Return the options of the page's only serve command that has this option."""
    [block] = [each for each in shell(page, "jumpstarter serve") if having in each]
    words = shlex.split(block[block.index("python -m") :].replace("\\\n", ""))
    return words[words.index("power:Power") + 1 :]


def make_files(directory: Path, page: str) -> None:
    """Run all openssl commands of a page."""
    for block in shell(page, "openssl"):
        command = ["/bin/sh", "-ec", block.partition("python -m")[0]]
        subprocess.run(command, cwd=directory, capture_output=True, timeout=TIMEOUT, check=True)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes certificates with openssl")
def test_token_of_a_page_is_private(tmp_path: Path) -> None:
    make_files(tmp_path, "docs/howto/tls.md")
    assert stat.S_IMODE((tmp_path / "token").stat().st_mode) == 0o600


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes certificates with openssl")
def test_security_page_certificates_are_made_and_required(power: Path) -> None:
    make_files(power, "docs/security.md")
    options = serving("docs/security.md", "--tls-client-ca")
    options[options.index("tls://0.0.0.0:8443")] = "tls://localhost:0"
    client = python_block("docs/security.md", "load_cert_chain")
    with exporter(power, *options, driver="power:Power", cwd=power) as server:
        client = client.replace("tls://localhost:8443", server.address)
        showing = "context.load_cert_chain"
        strictly = f"context.verify_flags |= ssl.VERIFY_X509_STRICT\n{showing}"  # default in 3.13+
        run(power, "-c", client.replace(showing, strictly))
        with pytest.raises(AssertionError):
            run(power, "-c", client.replace(showing, "# without "))
        server.send(signal.SIGTERM)
        log = server.rest_of_log()
        assert "commonName=alice" in log
        assert log.count("peer did not return a certificate") == 1
        assert "WARNING" not in log


def test_security_page_limits_are_accepted(power: Path) -> None:
    options = serving("docs/security.md", "--limit")
    options[options.index("unix:$PWD/power.sock")] = f"unix:{power}/socket"
    with exporter(power, *options, driver="power:Power", cwd=power) as server:
        script = "import sys, jumpstarter\nwith jumpstarter.connect(sys.argv[1], allow=['power.*'])"
        run(power, "-c", f"{script} as power: power.on()", server.address)


def test_driver_and_tests_of_the_pages_are_well_typed(power: Path) -> None:
    pytest.importorskip("mypy", reason="the types are those of the extra `lint`")
    (power / "test_card.py").write_text(python_block("docs/howto/test-a-driver.md", "def card("))
    assert "no issues found" in run(power, "-m", "mypy", "--strict", "power.py", "test_card.py")
