"""What the documentation shows is what runs: the examples, and the code of the README."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import shutil
import signal
import stat
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
SECURITY: Final = (ROOT / "docs" / "security.md").read_text()
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


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("card", "{size}\n"),
        ("probe", "{error}\nreading 0\nreading 1\nreading 2\n\n"),
        ("relay", "on\noff\n"),
    ],
)
def test_the_programs_of_the_drivers_page_run(tmp_path: Path, name: str, said: str) -> None:
    blocks = re.findall(r"```python\n(.*?)```", DRIVERS, re.DOTALL)
    [program] = [block for block in blocks if f"class {name.title()}(Driver)" in block]
    (tmp_path / f"{name}.py").write_text(program)
    error = "method 'measure' of driver 'root' (probe.ProbeClient): OSError: the probe has slipped"
    assert run(tmp_path, "-W", "ignore", f"{name}.py") == said.format(
        size=len(program), error=error
    )


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
    connecting, timing = block_with("with connect("), block_with("power.timeout(")
    script = connecting + textwrap.indent(timing, "    ")
    with exporter(power, driver="power:Power", cwd=power) as server:
        assert "unix:/home/me/power.sock" in script
        script = script.replace("unix:/home/me/power.sock", server.address)
        run(power, "-c", script)


def test_the_readmes_console_talks_as_it_is_shown(power: Path, line: tuple[int, str]) -> None:
    board, path = line
    imports = [
        "import os, trio",
        "from collections.abc import AsyncIterator",
        "from contextlib import asynccontextmanager",
        "from dataclasses import dataclass",
        "from jumpstarter import serve",
        "from jumpstarter.driver import Driver, exportstream",
        "from power import Power",
    ]
    console, tree = block_with("class Console"), block_with("class Bench")
    assert "/dev/ttyUSB0" in console
    talk = textwrap.indent(block_with("bench.console.stream("), "    ")
    script = [*imports, console.replace("/dev/ttyUSB0", path), tree, "with serve(bench) as bench:"]
    os.write(board, b"a board")
    assert run(power, "-c", "\n".join([*script, "    bench.power.on()", talk])) == "b'a board'\n"
    assert os.read(board, 100) == b"uname\n"


def shell_blocks(text: str) -> list[str]:
    """Give a page's blocks of commands, in its order."""
    blocks = re.findall(r"(?:^    .+\n)+", text, re.MULTILINE)
    return [textwrap.dedent(block) for block in blocks]


def serving(text: str, having: str) -> list[str]:
    """Give the options of the page's one command that serves with this option."""
    commands = "\n".join(shell_blocks(text)).replace("\\\n", "").splitlines()
    [command] = [each for each in commands if "jumpstarter serve" in each and having in each]
    return shlex.split(command)[shlex.split(command).index("power:Power") + 1 :]


def make_files(directory: Path, text: str) -> None:
    """Run all commands of openssl that a page has."""
    for block in shell_blocks(text):
        commands = block.partition("python -m")[0]
        if "openssl" in commands:
            shell = ["/bin/sh", "-ec", commands]
            subprocess.run(shell, cwd=directory, capture_output=True, timeout=TIMEOUT, check=True)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes certificates with openssl")
def test_the_readmes_exporter_on_a_network_is_reached_as_it_is_shown(power: Path) -> None:
    make_files(power, README)
    assert stat.S_IMODE((power / "token").stat().st_mode) == 0o600
    options = serving(README, "--token-file")
    options[options.index("tls://0.0.0.0:8443")] = "tls://localhost:0"
    [call] = re.findall(r'`(connect\("tls://localhost:8443".*?\))`', README, re.DOTALL)
    with exporter(power, *options, driver="power:Power", cwd=power) as server:
        script = f"with {call.replace('tls://localhost:8443', server.address)} as power:\n"
        imports = "import ssl\nfrom pathlib import Path\nfrom jumpstarter import connect\n"
        run(power, "-c", f"{imports}{script}    assert power.on() == '12 V'")
        server.send(signal.SIGTERM)
        assert "WARNING" not in server.rest_of_log()


# --- what to set ---


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes certificates with openssl")
def test_the_certificates_of_the_security_page_are_made_and_asked_for(power: Path) -> None:
    make_files(power, SECURITY)
    options = serving(SECURITY, "--tls-client-ca")
    options[options.index("tls://0.0.0.0:8443")] = "tls://localhost:0"
    [client] = re.findall(r"```python\n(import ssl.*?)```", SECURITY, re.DOTALL)
    with exporter(power, *options, driver="power:Power", cwd=power) as server:
        client = client.replace("tls://localhost:8443", server.address)
        run(power, "-c", client)
        showing = "context.load_cert_chain"
        strictly = f"context.verify_flags |= ssl.VERIFY_X509_STRICT\n{showing}"  # as from 3.13 on
        run(power, "-c", client.replace(showing, strictly))
        with pytest.raises(AssertionError):
            run(power, "-c", client.replace(showing, "# without "))
        server.send(signal.SIGTERM)
        log = server.rest_of_log()
        assert "commonName=alice" in log
        assert log.count("peer did not return a certificate") == 1
        assert "WARNING" not in log


def test_the_limits_of_the_security_page_are_taken(power: Path) -> None:
    options = serving(SECURITY, "--limit")
    options[options.index("unix:$PWD/power.sock")] = f"unix:{power}/socket"
    with exporter(power, *options, driver="power:Power", cwd=power) as server:
        script = "import sys, jumpstarter\nwith jumpstarter.connect(sys.argv[1], allow=['power.*'])"
        run(power, "-c", f"{script} as power: power.on()", server.address)


def test_the_readmes_test_of_a_driver_passes(power: Path) -> None:
    (power / "test_power.py").write_text(block_with("client_fixture"))
    assert "1 passed" in run(power, "-m", "pytest", "-q", "-p", "no:cacheprovider")


def test_the_readmes_own_fixture_and_asynchronous_test_pass(power: Path) -> None:
    (power / "test_card.py").write_text(block_with("def card("))
    plugins = ("-p", "no:cacheprovider", "-p", "pytest_trio.plugin", "-o", "trio_mode=true")
    assert "2 passed" in run(power, "-m", "pytest", "-q", *plugins)


def test_the_readmes_driver_and_tests_are_well_typed(power: Path) -> None:
    pytest.importorskip("mypy", reason="the types are those of the extra `lint`")
    (power / "test_card.py").write_text(block_with("def card("))
    assert "no issues found" in run(power, "-m", "mypy", "--strict", "power.py", "test_card.py")


def test_every_file_that_the_readme_links_to_is_there() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_make_target_of_the_readme_is_one() -> None:
    targets = set(
        " ".join(re.findall(r"(?:^    |`)make ([a-z ]+\b)", README, re.MULTILINE)).split()
    )
    assert {"demo", "test", "bench", "fuzz", "sanitize", "hostile", "soak"} <= targets
    makefile = (ROOT / "Makefile").read_text()
    assert [target for target in targets if f"\n{target}:" not in makefile] == []
