"""What the documentation shows is what runs: the examples, and the code of the README."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
import textwrap
import tty
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from exporter_process import exporter
from jumpstarter import serve
from jumpstarter.errors import DriverOSError

ROOT: Final = Path(__file__).parents[1]
README: Final = (ROOT / "README.md").read_text()
DRIVERS: Final = (ROOT / "docs" / "drivers.md").read_text()
TIMEOUT: Final = 60.0  # seconds for what takes one or two


def run(cwd: Path, *arguments: str) -> str:
    """Run Python, see that it is content and writes nothing to stderr; give stdout."""
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


def python_blocks() -> list[str]:
    """Give the README's code, in its order."""
    return re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def block_with(text: str) -> str:
    """Give the one block of the README's code, behind the first, that has this text."""
    [block] = [block for block in python_blocks()[1:] if text in block]
    return block


@pytest.fixture
def serial_console(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT / "examples")
    return importlib.import_module("serial_console")


@pytest.fixture
def line() -> Iterator[tuple[int, str]]:
    """Give a pseudo-terminal: the board's end as a file descriptor, and the path of the other."""
    board, port = os.openpty()
    tty.setraw(port)
    yield board, os.ttyname(port)
    os.close(board)
    os.close(port)


# --- the demo ---


def test_the_demo_checks_out(tmp_path: Path) -> None:
    stdout = run(tmp_path, str(ROOT / "examples" / "demo.py"))
    assert stdout.endswith("all as expected\n")
    assert "FAIL" not in stdout


def test_the_demo_says_what_was_not_as_expected(
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


def test_the_story_goes_as_it_is_told(tmp_path: Path) -> None:
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


def test_the_card_of_the_drivers_page_can_be_flashed(tmp_path: Path) -> None:
    [card] = re.findall(r"```python\n(class Card.*?)```", DRIVERS, re.DOTALL)
    imports = [
        "from jumpstarter import serve",
        "from jumpstarter.client import DriverClient",
        "from jumpstarter.driver import Driver, export",
        "from jumpstarter.drivers.mixins import ResourceMixin",
    ]
    (tmp_path / "card.py").write_text("\n".join([*imports, card]))
    script = [
        "from card import Card, serve",
        "with serve(Card()) as card:",
        "    assert card.flash('card.py') == len(open('card.py').read())",
    ]
    run(tmp_path, "-W", "ignore", "-c", "\n".join(script))


# --- the serial console ---


def test_the_console_carries_every_byte_as_it_is(
    serial_console: Any, line: tuple[int, str]
) -> None:
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


def test_discard_forgets_what_nobody_has_read(serial_console: Any, line: tuple[int, str]) -> None:
    board, path = line
    with serve(serial_console.SerialConsole(port=path)) as client, client.timeout(TIMEOUT):
        os.write(board, b"old")
        client.discard()
        os.write(board, b"new")
        with client.connect() as console:
            assert console.receive() == b"new"


def test_a_console_is_for_one_client_at_a_time(serial_console: Any, line: tuple[int, str]) -> None:
    with serve(serial_console.SerialConsole(port=line[1])) as client, client.timeout(TIMEOUT):
        first = client.open_stream()
        with pytest.raises(DriverOSError, match="in use"):
            client.open_stream()
        first.close()
        client.open_stream().close()


def test_a_port_that_is_not_there_is_named(serial_console: Any) -> None:
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
def test_the_board_echoes_and_answers(serial_console: Any, typed: bytes, answer: bytes) -> None:
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


# --- the README ---


@pytest.fixture
def power(tmp_path: Path) -> Path:
    """Save the README's first example as it says, and give the directory."""
    (tmp_path / "power.py").write_text(python_blocks()[0])
    return tmp_path


def test_the_first_example_of_the_readme_runs_as_it_is_written(power: Path) -> None:
    run(power, "power.py")


def test_the_readmes_way_to_connect_works_with_an_exporter_of_that_example(power: Path) -> None:
    connecting, timing = block_with("connect("), block_with("power.timeout(")
    script = connecting + textwrap.indent(timing, "    ")
    with exporter(power, driver="power:Power", cwd=power) as server:
        assert "unix:/home/me/power.sock" in script
        script = script.replace("unix:/home/me/power.sock", server.address)
        run(power, "-c", script)


def test_the_readmes_test_of_a_driver_passes(power: Path) -> None:
    (power / "test_power.py").write_text(block_with("client_fixture"))
    assert "1 passed" in run(power, "-m", "pytest", "-q", "-p", "no:cacheprovider")


def test_every_file_that_the_readme_links_to_is_there() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_make_target_of_the_readme_is_one() -> None:
    targets = set(
        " ".join(re.findall(r"(?:^    |`)make ([a-z ]+\b)", README, re.MULTILINE)).split()
    )
    assert {"demo", "test", "bench"} <= targets
    makefile = (ROOT / "Makefile").read_text()
    assert [target for target in targets if f"\n{target}:" not in makefile] == []
