"""Test the commands of this library's own drivers, and what `j` and `call` show on a terminal."""

from __future__ import annotations

import hashlib
import json
import shlex
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from drivers_for_tests import Plain
from exporter_thread import served_at
from helpers import PATIENCE
from jumpstarter import connect, serve
from jumpstarter.cli import j, main
from jumpstarter.driver import Driver, export
from jumpstarter.drivers.composite import Composite
from jumpstarter.drivers.console import RecordedConsole
from jumpstarter.drivers.power import MockPower
from jumpstarter.drivers.storage import FileStorage
from ptys import at_a_terminal, user

Run = Callable[..., tuple[int, str, str]]
BOOT = b"U-Boot 2026\r\nlogin: \x1b[2J\xff"


class Talker(Plain):
    """Says what would act on a terminal."""

    @export
    def text(self) -> str:
        return "\x1b]0;title\x07one\r\n\ttwo\x9b2J"

    @export
    def data(self) -> list[str]:
        return ["\x1b[2J\x9b\x7f\u202e", "żółw"]

    @export
    def memory(self) -> bytes:
        return b"\x1bc\xff\n"

    @export
    def optional(self, *, raw: str) -> str:
        return raw


@pytest.fixture
def console(tmp_path: Path) -> Iterator[socket.socket]:
    """Yield the listener of a console's server."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.settimeout(PATIENCE)
        listener.bind(str(tmp_path / "console"))
        listener.listen()
        yield listener


@pytest.fixture
def tree(console: socket.socket, tmp_path: Path) -> Driver:
    children: dict[str, Driver] = {
        "card": FileStorage(path=str(tmp_path / "card.img")),
        "console": RecordedConsole(source=f"unix:{console.getsockname()}"),
        "power": MockPower(),
        "talker": Talker(),
    }
    return Composite(children=children)


@pytest.fixture
def run(
    tree: Driver,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfdbinary: pytest.CaptureFixture[bytes],
) -> Iterator[Run]:
    """Yield a function that runs j: its exit code, stdout and stderr."""
    with served_at(f"unix:{tmp_path}/socket", tree) as address:
        monkeypatch.setenv("JUMPSTARTER_HOST", address)

        def run(*arguments: str) -> tuple[int, str, str]:
            code = j(arguments)
            out, err = capfdbinary.readouterr()
            return code, out.decode(errors="surrogateescape"), err.decode()

        yield run


def test_a_recorded_console_is_read_and_waited_for(run: Run, console: socket.socket) -> None:
    code, mark, err = run("console", "mark")
    assert (code, json.loads(mark)["offset"], err) == (0, 0, "")
    with console.accept()[0] as device:
        device.sendall(BOOT)
        code, found, err = run("console", "wait-for", "login: ", "--since", mark)
        assert (code, found, err) == (0, "login: \n", "")
        code, found, _ = run("console", "wait-for", r"\d+\r", "--regex", "--since", "0")
        assert (code, found) == (0, "2026\r\n")
        run("console", "wait-for", "\udcff", "--since", "0")  # until all of it has come
        assert run("console", "tail")[1].encode(errors="surrogateescape") == BOOT
        assert run("console", "tail", "5")[1] == "\x1b[2J\udcff"
    code, out, err = run("console", "wait-for", "password", "--since", "5", "--timeout", "0")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "'password' did not come within 0 s" in err


def test_a_board_that_another_client_holds_is_watched(
    tree: Driver,
    console: socket.socket,
    tmp_path: Path,
) -> None:
    with (
        served_at(f"unix:{tmp_path}/socket", tree, exclusive=True) as address,
        connect(address) as board,
        console.accept()[0] as device,
    ):
        device.sendall("U-Boot\r\nż".encode())
        board.console.wait_for("ż", since=0, timeout=PATIENCE)
        command = f"jumpstarter shell --no-claim --address {address} -- j console tail --follow"
        with (
            user() as someone,
            at_a_terminal(someone, ["-m", *shlex.split(command)]) as job,
        ):
            someone.see("U-Boot\r\nż".encode())
            for piece in (b"log\xc5", b"\xbcin\r", b"\n\x1bc: "):  # as a serial port cuts it
                device.sendall(piece)
            someone.see("logżin\r\n\\x1bc: ".encode())
            someone.type(b"\x03")
            assert job.wait() == 2


def test_a_console_of_a_board_that_another_client_holds_is_only_looked_at(
    tree: Driver, console: socket.socket, tmp_path: Path
) -> None:
    with (
        served_at(f"unix:{tmp_path}/socket", tree, exclusive=True) as address,
        connect(address) as board,
        console.accept()[0] as device,
    ):
        device.sendall(b"U-Boot\r\n")
        board.console.wait_for("U-Boot\r\n", since=0, timeout=PATIENCE)
        arguments = ["-m", "jumpstarter", "console", address, "console", "--no-claim"]
        with user() as someone, at_a_terminal(someone, arguments) as job:
            someone.see(b"U-Boot\r\n")  # the record's last bytes, raw
            device.sendall(b"\x1b[1mlogin\x1b[0m: ")
            someone.see(b"\x1b[1mlogin\x1b[0m: ")
            someone.type(b"root\r")
            someone.see(b"nothing is sent: this console is only looked at; to type, connect ")
            someone.type(b"\x02?")
            keys = someone.see(b"show this list]\r\n")
            assert b"leave" in keys
            assert b"send Ctrl-B" not in keys
            assert b"power" not in keys
            someone.type(b"\x02p")
            someone.see(b"[nothing is switched: this console is only looked at]\r\n")
            someone.type(b"more\r\x02\x02\x02")
            assert job.wait() == 0
        assert someone.seen.count(b"nothing is sent") == 1
        board.console.write(b"from the holder")
        assert device.recv(100) == b"from the holder"


def test_a_console_is_looked_at_in_a_pipe(
    tree: Driver, console: socket.socket, tmp_path: Path
) -> None:
    said = b"x" * 10_000 + b"login: "
    with (
        served_at(f"unix:{tmp_path}/socket", tree, exclusive=True) as address,
        connect(address) as board,
        console.accept()[0] as device,
    ):
        device.sendall(said)
        board.console.wait_for("login: ", since=0, timeout=PATIENCE)
        command = [sys.executable, "-m", "jumpstarter", "console", address, "console"]
        with subprocess.Popen(
            [*command, "--no-claim"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            assert process.stdout.read(4096) == said[-4096:]
            process.terminate()
            assert process.wait(PATIENCE) == 143


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("wait-for x", "'--since'"),
        ("wait-for x --since then", "is neither what `mark` prints nor a number of bytes"),
        ('wait-for x --since {"offset":1}', "is neither what `mark` prints nor a number of bytes"),
        ("wait-for x --since true", "is neither what `mark` prints nor a number of bytes"),
        ("wait-for ( --regex --since 0", "Invalid value for PATTERN: '(': "),
        ("tail -5", "-5"),
    ],
)
def test_wrong_positions_and_patterns_are_explained(run: Run, arguments: str, said: str) -> None:
    code, out, err = run("console", *arguments.split())
    assert (code, out) == (1, "")
    assert said in err


def test_a_storage_is_flashed_and_dumped(run: Run, tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(b"image" * 10_000)
    digest = hashlib.sha256(image.read_bytes()).hexdigest()
    assert run("card", "flash", str(image)) == (0, f"{digest}\n", "")
    assert run("card", "size") == (0, "50000\n", "")
    assert run("card", "dump", "--compress", str(tmp_path / "copy")) == (0, f"{digest}\n", "")
    assert (tmp_path / "copy").read_bytes() == image.read_bytes()
    _, out, _ = run("card", "--help")
    lines = out.split("Commands:\n")[1].splitlines()
    assert [line.split()[0] for line in lines] == ["flash", "dump", "erase", "size"]
    code, _, err = run("card", "flash", "/no/such/image")
    assert (code, err.count("\n")) == (1, 1)


def test_a_power_switch_is_cycled(run: Run, tree: Driver) -> None:
    power = tree.children["power"]
    assert isinstance(power, MockPower)
    assert run("power", "cycle", "--wait", "0") == (0, "", "")
    assert power.is_on
    code, _, err = run("power", "cycle", "--wait", "-1")
    assert (code, "--wait" in err) == (1, True)


def test_the_configuration_describes_these_commands_too() -> None:
    for described in ({}, {"cycle": "Reboot the board"}):
        with serve(MockPower(methods_description=described)) as power:
            done = CliRunner().invoke(power.cli(), ["--help"])
        assert described.get("cycle", "Switch off, wait, and switch on.") in done.output


def test_without_a_terminal_everything_is_printed_as_it_is(run: Run) -> None:
    assert run("talker", "text") == (0, "\x1b]0;title\x07one\r\n\ttwo\x9b2J\n", "")
    assert json.loads(run("talker", "data")[1]) == ["\x1b[2J\x9b\x7f\u202e", "żółw"]
    assert run("talker", "memory") == (0, "\x1bc\udcff\n", "")
    assert run("talker", "optional", "--raw", "text") == (0, "text\n", "")


@pytest.mark.parametrize(
    ("method", "raw", "shown"),
    [
        ("text", False, rb"\x1b]0;title\x07one" + b"\r\n\t" + rb"two\x9b2J" + b"\r\n"),
        ("text", True, "\x1b]0;title\x07one\r\r\n\ttwo\x9b2J\r\n".encode()),
        ("data", False, rb'["\u001b[2J\u009b\u007f\u202e", "' + "żółw".encode() + b'"]\r\n'),
        ("memory", False, rb"\x1bc\xff" + b"\r\n"),
        ("memory", True, b"\x1bc\xff\r\n"),
    ],
)
@pytest.mark.usefixtures("run")
def test_on_a_terminal_control_characters_are_escaped_unless_raw(
    method: str, raw: bool, shown: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    option = ["--raw"] if raw else []
    with user() as someone, open(someone.line, "w", encoding="utf-8", closefd=False) as terminal:
        with monkeypatch.context() as patch:
            patch.setattr("sys.stdout", terminal)
            assert j(["talker", method, *option]) == 0
            assert main(["call", *option, f"talker.{method}"]) == 0
            terminal.flush()
        assert someone.see(shown) == shown
        assert someone.see(shown) == shown
