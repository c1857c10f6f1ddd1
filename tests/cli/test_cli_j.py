"""Test `j`: the commands of clients with and without a `cli()`, what they print, and exit codes."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import PIPE
from typing import Any, Literal, Optional, Union
from uuid import UUID

import click
import pytest
import trio
from click.testing import CliRunner

from drivers_for_tests import Plain
from exporter_process import exporter
from exporter_thread import served_at
from helpers import PATIENCE
from jumpstarter import serve
from jumpstarter.cli import j
from jumpstarter.cli._j import _report_fault
from jumpstarter.client import DriverClient
from jumpstarter.client._commands import command_of, consoles
from jumpstarter.client._methods import signature_from
from jumpstarter.client._parameters import arguments_of, parameters_of
from jumpstarter.client.decorators import driver_click_group
from jumpstarter.driver import Driver, export, exportstream
from jumpstarter.drivers.composite import Composite
from jumpstarter.drivers.power import MockPower
from jumpstarter.errors import ClientImportError, ConfigurationError
from processes import running
from ptys import at_a_terminal, user

Run = Callable[..., tuple[int, str, str]]


class Board(Plain):
    """A board that gives back what it gets.

    It has many methods.

    Attributes:
        none: It has no fields.
    """

    @export
    def numbers(self, first: int, second: float = 1.5, *more: int) -> Any:
        """Add numbers.

        Args:
            first: The first number,
                in full.
            second: The second one.
            more: The others.
        """
        return [first, second, *more]

    @export
    async def options(
        self, text: str = "", *, fast: bool = False, slow: bool | None = None, count: int
    ) -> Any:
        return [text, fast, slow, count]

    @export
    def turn(self, on: bool) -> bool:
        return on

    @export
    def switch(self, on: bool, no_on: bool = False) -> Any:
        return [on, no_on]

    @export
    def by_position(self, a: int, b: int = 2, c: list[int] = [], /, d: int = 4) -> Any:  # noqa: B006
        return [a, b, c, d]

    @export
    def anything(self, *args: Any, **kwargs: Any) -> Any:
        return [args, kwargs]

    @export
    def types(  # noqa: PLR0917 - each has another type
        self,
        items: list[int],
        table: Mapping[str, Any] | None,
        mode: Literal["in", "out", 3],
        key: Optional[UUID] = None,  # noqa: UP045 - both spellings
        either: Union[int, str] = 0,  # noqa: UP007
        data: bytes = b"",
    ) -> Any:
        return [items, table, mode, str(key), either, data.hex()]

    @export
    def give(self, value: Any = None) -> Any:
        return value

    @export
    def raw(self) -> Any:
        return {"bytes": b"\x00\xff", "set": {1}, "id": UUID(int=1)}

    @export
    def dump(self) -> bytes:
        return b"\x00\xff"

    @export
    async def count(self, stop: int = 2) -> AsyncGenerator[Any, None]:
        for number in range(stop):
            yield {"number": number}

    @export
    def fail(self) -> None:
        raise ValueError("no such pin")

    @export
    def Clash(self) -> str:  # noqa: N802 - differs from the next one in its case only
        return "upper"

    @export
    def clash(self) -> str:
        return "lower"

    @exportstream
    @asynccontextmanager
    async def connect(self, speed: int = 9600) -> AsyncIterator[trio.abc.Stream]:
        ours, theirs = trio.testing.memory_stream_pair()
        async with ours:
            await ours.send_all(str(speed).encode())
            yield theirs


class Scripted(Plain):
    """Has a client with a command line of its own."""

    @classmethod
    def client(cls) -> str:
        return "test_cli_j.ScriptedClient"

    @export
    def add(self, a: int) -> int:
        return a + 1


class ScriptedClient(DriverClient):
    """The client of `Scripted`, which counts how often its command line was made."""

    made = 0

    def cli(self) -> click.Group:
        type(self).made += 1

        @driver_click_group(self)
        def base() -> None:
            """A scripted client."""

        @base.command()
        @click.argument("code", type=int)
        def end(code: int) -> int:
            """End with a code."""
            return self.call("add", code) - 1  # type: ignore[no-any-return]

        @base.command()
        def leave() -> None:
            click.get_current_context().exit(7)

        @base.command()
        def leave_python() -> None:
            sys.exit(8)

        @base.command()
        def stop() -> None:
            raise click.ClickException("it cannot go on")

        @base.command()
        def break_down() -> None:
            _deeper()

        return base


def _deeper() -> None:
    raise LookupError("a fault of the client class")


class NoCommand(Plain):
    @classmethod
    def client(cls) -> str:
        return "test_cli_j.NoCommandClient"


class NoCommandClient(DriverClient):
    def cli(self) -> str:
        return "not a command"


class Absent(Plain):
    """Has a client class that is not installed."""

    @classmethod
    def client(cls) -> str:
        return "not_installed.Client"

    @export
    def ping(self) -> str:
        return "pong"


class Late(Plain):
    @classmethod
    def client(cls) -> str:
        return "test_cli_j.LateClient"

    @export
    def shut(self) -> None:
        pass


class LateClient(DriverClient):
    """Calls its driver, or fails, when it is collected at the end of the program."""

    def __del__(self) -> None:
        self.call("shut")
        raise LookupError("unexpected")


def tree() -> Driver:
    board = Board()
    board.description = "the board"
    board.methods_description = {"give": "Give it back", "by-position": "All of them"}
    children = {
        "board": board,
        "scripted": Scripted(),
        "power": MockPower(),
        "absent": Absent(),
        "broken": NoCommand(),
        "plain": Plain(),
    }
    return Composite(children=children)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    path = tmp_path_factory.mktemp("j") / "socket"
    with served_at(f"unix:{path}", tree()) as address:
        yield address


@pytest.fixture
def run(address: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs j: its exit code, stdout and stderr."""
    monkeypatch.setenv("JUMPSTARTER_HOST", address)
    monkeypatch.setenv("JMP_DRIVERS_ALLOW", "test_cli_j.*")
    monkeypatch.setenv("_JMP_SUPPRESS_DRIVER_WARNINGS", "1")

    def run(*arguments: str) -> tuple[int, str, str]:
        code = j(arguments)
        out, err = capfd.readouterr()
        return code, out, err

    return run


@pytest.mark.parametrize(
    ("arguments", "result"),
    [
        ("numbers 1", [1, 1.5]),
        ("numbers 0x10 2.5 3 4", [16, 2.5, 3, 4]),
        ("numbers -1 -.5 -3", [-1, -0.5, -3]),
        ("numbers -- -1", [-1, 1.5]),
        ("options --count 5", ["", False, None, 5]),
        ("options 7 --count -5 --fast --no-slow", ["7", True, False, -5]),
        ("turn --on", True),
        ("turn --no-on", False),
        ("switch --on true", [True, False]),
        ("switch --on false --no-on", [False, True]),
        ("switch --on true --no-no-on", [True, False]),
        ("by-position 1", [1, 2, [], 4]),
        ("by_position 1 3", [1, 3, [], 4]),
        ("by-position 1 3 [5] 6", [1, 3, [5], 6]),
        ("anything 1 x [2] --kwargs a=1 --kwargs b=x", [[1, "x", [2]], {"a": 1, "b": "x"}]),
        ('types [1] {"a":2} in', [[1], {"a": 2}, "in", "None", 0, ""]),
        (f"types [] null 3 {UUID(int=5)} 6 a", [[], None, 3, str(UUID(int=5)), 6, "61"]),
        ("types [] null out --  null x", [[], None, "out", "null", "x", ""]),
        ('give {"a":[1,null]}', {"a": [1, None]}),
    ],
)
def test_arguments_are_read_by_the_signature(run: Run, arguments: str, result: Any) -> None:
    code, out, err = run("board", *arguments.split())
    if "null x" in arguments:  # the exporter refuses to make a UUID of "null"
        assert (code, out) == (1, "")
        assert "key" in err
        return
    assert (code, json.loads(out), err) == (0, result, "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("numbers", "Missing argument 'FIRST'"),
        ("numbers one", "Invalid value for 'FIRST': 'one' is not: integer"),
        ("numbers 1 2 3.5", "'3.5' is not: integer"),
        ("options", "Missing option '--count'"),
        ("options --cuont 5", "No such option"),
        ("switch", "Missing option '--on'"),
        ("switch --on yes", "'yes' is not: bool"),
        ("turn", "Missing option '--on'"),
        ("types 5 null in", "'5' is not: JSON array"),
        ("types [] [] in", "'[]' is not: JSON object"),
        ("types [] null up", "'up' is not: in or out or 3"),
        ("anything --kwargs a", "'a' is not NAME=VALUE"),
        ("anything --kwargs 5=a", "'5=a' is not NAME=VALUE"),
        ("give 1 2", "Got unexpected extra argument (2)"),
        ("nmubers", "No such command 'nmubers'. Did you mean 'numbers'?"),
        ("xyz", "No such command 'xyz'. Try 'j board --help' for help.\n"),
    ],
)
def test_wrong_arguments_are_explained(run: Run, arguments: str, message: str) -> None:
    code, out, err = run("board", *arguments.split())
    assert (code, out) == (1, "")
    assert message in err


@pytest.mark.parametrize(
    ("arguments", "printed"),
    [
        ("give text", "text\n"),
        ('give "quoted"', "quoted\n"),
        ("give", ""),
        ("give null", ""),
        ("give true", "true\n"),
        ('give ["Grüße"]', '["Grüße"]\n'),
        ("count", '{"number": 0}\n{"number": 1}\n'),
        ("count 0", ""),
        ("clash", "lower\n"),
        ("Clash", "upper\n"),
    ],
)
def test_results_are_printed(run: Run, arguments: str, printed: str) -> None:
    assert run("board", *arguments.split()) == (0, printed, "")


def test_values_that_json_lacks_are_printed_as_text(run: Run) -> None:
    code, out, _ = run("board", "raw")
    assert code == 0
    assert json.loads(out) == {"bytes": "AP8=", "set": [1], "id": str(UUID(int=1))}


def test_bytes_are_written_as_they_are() -> None:
    with serve(Board()) as board:
        done = CliRunner().invoke(board.cli(), ["dump"])
        assert (done.exit_code, done.stdout_bytes) == (0, b"\x00\xff")


def test_help_lists_children_and_methods(run: Run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    lines = out.split("Commands:\n")[1].splitlines()
    rows = dict(line.split(maxsplit=1) for line in lines)
    assert rows["board"] == "the board"
    assert rows["scripted"] == "Has a client with a command line of its own."
    assert rows["absent"] == "Has a client class that is not installed."
    assert rows["plain"] == "The least that can be served: it exports nothing."
    assert [*rows] == ["board", "scripted", "power", "absent", "broken", "plain"]
    code, out, _ = run("board", "--help")
    assert "the board" in out
    methods = [line.split(maxsplit=1) for line in out.split("Commands:\n")[1].splitlines()]
    assert ["give", "Give it back"] in methods
    assert ["by-position", "All of them"] in methods
    assert ["numbers", "Add numbers."] in methods
    assert ["fail"] in methods


def test_help_describes_the_parameters(run: Run) -> None:
    code, out, _ = run("board", "numbers", "--help")
    assert code == 0
    assert "Usage: j board numbers [OPTIONS] FIRST [SECOND] [MORE]...\n" in out
    assert "  Add numbers.\n\n  Args:\n      first: The first number,\n          in full.\n" in out
    arguments = out.split("Arguments:\n")[1].split("\n\n")[0].splitlines()
    assert [line.split(maxsplit=1) for line in arguments] == [
        ["FIRST", "integer"],
        ["SECOND", "float; default: 1.5"],
        ["MORE", "integer"],
    ]
    _, out, _ = run("board", "options", "--help")
    assert "--fast / --no-fast" in out
    assert "default: False" in out
    assert "--count INTEGER" in out


def test_only_the_called_command_line_is_made(run: Run) -> None:
    before = ScriptedClient.made
    assert run("power", "on")[0] == 0
    assert run("--help")[0] == 0
    assert ScriptedClient.made == before
    assert run("scripted", "end", "0")[0] == 0
    assert ScriptedClient.made > before


@pytest.mark.parametrize(
    ("command", "code"),
    [("end 0", 0), ("end 5", 5), ("leave", 7), ("stop", 1), ("--help", 0), ("lave", 1)],
)
def test_exit_code_is_the_commands_own(run: Run, command: str, code: int) -> None:
    assert run("scripted", *command.split())[0] == code


def test_command_may_exit_by_itself(run: Run) -> None:
    with pytest.raises(SystemExit) as raised:
        run("scripted", "leave-python")
    assert raised.value.code == 8


def test_groups_of_client_classes_suggest_names_too(run: Run) -> None:
    _, _, err = run("scripted", "lave")
    assert "No such command 'lave'. Did you mean 'leave'?" in err


def test_error_of_a_driver_is_one_line(run: Run) -> None:
    code, out, err = run("board", "fail")
    assert (code, out) == (1, "")
    assert err.startswith("j: ")
    assert "no such pin" in err
    assert err.count("\n") == 1


def test_fault_of_a_client_class_shows_its_own_frames_only(run: Run) -> None:
    code, _, err = run("scripted", "break-down")
    assert code == 1
    assert err.endswith("\nj: LookupError: a fault of the client class\n")
    assert "in break_down" in err
    assert "in _deeper" in err
    assert {line.split('"')[1] for line in err.splitlines() if ", line " in line} == {__file__}


def test_fault_cannot_control_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    _report_fault(LookupError("\x1b[2J first\nsecond"))
    assert capsys.readouterr().err == "j: LookupError: \\x1b[2J first\nsecond\n"


def test_command_line_that_is_none_is_an_error(run: Run) -> None:
    code, _, err = run("broken", "anything")
    assert code == 1
    assert err == "j: cli() of NoCommandClient gave a str; it must give a click command\n"
    with serve(NoCommand()) as client, pytest.raises(ConfigurationError, match="gave a str"):
        command_of(client)


@pytest.mark.parametrize("name", ["nmubers", "xyz", "options --cuont 5"])
def test_mistyped_name_is_one_line(run: Run, name: str) -> None:
    code, out, err = run("board", *name.split())
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("j board")


@pytest.mark.skipif(
    not hasattr(click.exceptions, "NoArgsIsHelpError"),
    reason="click before 8.2 prints the help of a group to stdout, and exits with 0",
)
def test_without_a_command_the_help_goes_to_stderr(run: Run) -> None:
    help_of_all = run("--help")[1]
    assert run() == (2, "", help_of_all)
    code, out, err = run("board")
    assert (code, out, err.partition("\n")[0]) == (
        2,
        "",
        "Usage: j board [OPTIONS] COMMAND [ARGS]...",
    )


def test_without_an_exporter_there_is_a_usage(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JUMPSTARTER_HOST")
    reason = "JUMPSTARTER_HOST is not set: use j in a `jumpstarter shell`\n"
    code, out, err = run()
    assert (code, out) == (2, "")
    assert err.startswith("Usage: j COMMAND [ARGS]...\n")
    assert err.endswith(f"\n{reason}")
    assert run("--help") == (0, err, "")
    assert run("power", "on") == (1, "", f"j: {reason}")


def test_driver_whose_client_class_is_missing_has_commands(run: Run) -> None:
    code, out, _ = run("absent", "ping")
    assert (code, out) == (0, "pong\n")


@pytest.mark.parametrize(
    ("allowed", "reason"),
    [
        (
            "test_cli_j.*",
            (
                "its client class may not be imported here; if you trust it, start the shell with "
                "--allow 'not_installed.Client', or add it to JMP_DRIVERS_ALLOW"
            ),
        ),
        (
            "UNSAFE",
            (
                "its client class cannot be imported: No module named 'not_installed'; install "
                "the package that has it (pip install not_installed), or put its directory on "
                "PYTHONPATH"
            ),
        ),
    ],
)
@pytest.mark.parametrize("command", ["ping", "pign", "--help"])
def test_missing_client_class_is_named_where_its_commands_are_used(
    run: Run, monkeypatch: pytest.MonkeyPatch, allowed: str, reason: str, command: str
) -> None:
    monkeypatch.setenv("JMP_DRIVERS_ALLOW", allowed)
    _, _, err = run("absent", command)
    line = f"j: driver 'absent' (not_installed.Client): {reason} (until then, its commands are "
    assert err.startswith(f"{line}those of the exported methods)\n")
    assert "not_installed" not in "".join(run("--help")[2:])
    assert "not_installed" not in run("power", "on")[2]


def test_client_class_may_be_in_the_current_directory(tmp_path: Path) -> None:
    text = "import click, jumpstarter.client\nclass Client(jumpstarter.client.DriverClient):\n"
    text += "    def cli(self): return click.Command('x', callback=lambda: print('own'))\n"
    (tmp_path / "not_installed.py").write_text(text)
    script = "import sys; sys.path.remove(''); from jumpstarter.cli import j; sys.exit(j())"
    with served_at(f"unix:{tmp_path}/socket", Absent()) as address:
        environment = {**os.environ, "JUMPSTARTER_HOST": address, "JMP_DRIVERS_ALLOW": "UNSAFE"}
        command = [sys.executable, "-c", script]
        with running(command, env=environment, cwd=tmp_path, stdout=PIPE, stderr=PIPE) as process:
            assert process.communicate(timeout=PATIENCE) == ("own\n", "")
        assert process.returncode == 0


def test_missing_client_classes_are_logged_unless_the_shell_has_done_so(
    run: Run, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("absent", "ping")
    assert "not_installed" not in caplog.text
    monkeypatch.delenv("_JMP_SUPPRESS_DRIVER_WARNINGS")
    run("absent", "ping")
    assert "Driver client 'not_installed.Client' is not available" in caplog.text


def test_exporter_out_of_reach_is_one_line(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("JUMPSTARTER_HOST", str(tmp_path / "nothing"))
    code, out, err = run("power", "on")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("j: ")


def test_finalizer_that_calls_after_the_end_is_not_reported(tmp_path: Path) -> None:
    script = "import sys; from jumpstarter.cli import j; sys.exit(j())"
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    with served_at(f"unix:{tmp_path}/socket", Late()) as address:
        environment = {
            "JUMPSTARTER_HOST": address,
            "JMP_DRIVERS_ALLOW": "test_cli_j.*",
            "PYTHONPATH": path,
        }
        command = [sys.executable, "-c", script, "shut"]
        with running(command, env=environment, stdout=PIPE, stderr=PIPE) as process:
            assert process.communicate(timeout=PATIENCE) == ("", "")
        assert process.returncode == 0


def test_client_without_a_command_line_gets_one() -> None:
    with serve(Composite(children={"board": Board(), "absent": Absent()})) as lab:
        done = CliRunner().invoke(lab.cli(), ["board", "numbers", "3"])
        assert (done.exit_code, done.output) == (0, "[3, 1.5]\n")
        with pytest.raises(ClientImportError):
            lab.absent.cli()  # a stub has no attributes but those of all clients


class Extended(Board):
    @classmethod
    def client(cls) -> str:
        return "test_cli_j.ExtendedClient"


class MixedIn:
    def cli(self) -> click.Group:
        group: click.Group = super().cli()  # type: ignore[misc]  # of DriverClient

        @group.command()  # type: ignore[untyped-decorator,unused-ignore]  # in click 8.1
        def mixed() -> None:
            """Of the mixin."""
            click.echo("mixed")

        return group


class ExtendedClient(MixedIn, DriverClient):
    def cli(self) -> click.Group:
        group = super().cli()

        @group.command()  # type: ignore[untyped-decorator,unused-ignore]  # in click 8.1
        def give() -> None:
            """Of the class, which the driver has too."""
            click.echo(self.call("give", "own"))

        return group


def test_class_adds_commands_to_those_that_are_made() -> None:
    with serve(Extended()) as client:
        for arguments, printed in [
            (["give"], "own"),
            (["mixed"], "mixed"),
            (["numbers", "3"], "[3, 1.5]"),
        ]:
            done = CliRunner().invoke(command_of(client), arguments)
            assert (done.exit_code, done.output) == (0, f"{printed}\n")


class WithCli(Plain):
    @classmethod
    def client(cls) -> str:
        return "jumpstarter.client.DriverClient"

    @export
    def cli(self) -> str:
        return "exported"


def test_exported_method_named_cli_is_no_command_line(caplog: pytest.LogCaptureFixture) -> None:
    assert not hasattr(DriverClient, "cli")
    with serve(WithCli()) as client:
        assert client.cli() == "exported"
        done = CliRunner().invoke(command_of(client), ["cli"])
        assert (done.exit_code, done.output) == (0, "exported\n")
    assert "clients have one of this name" not in caplog.text


def test_child_named_cli_is_no_command_line() -> None:
    with serve(Composite(children={"cli": MockPower()})) as lab:
        assert lab.cli is lab.children["cli"]
        done = CliRunner().invoke(command_of(lab), ["cli", "on"])
        assert (done.exit_code, done.output) == (0, "")


def test_stream_has_a_command_where_there_are_consoles() -> None:
    opened: list[Any] = []

    def console(client: Any, method: str, args: Any, kwargs: Any) -> int:
        with client.stream(method, *args, **kwargs) as stream:
            opened.append((method, args, kwargs, stream.receive()))
        return 3

    with serve(Board()) as board, consoles(console):
        runner = CliRunner()
        done = runner.invoke(command_of(board), ["connect", "--help"])
        assert "Open a console on the raw stream 'connect'." in done.output
        command = command_of(board)
        assert command.main(["connect", "115200"], "j", standalone_mode=False) == 3
    assert opened == [("connect", [115200], {}, b"115200")]


def test_log_level_makes_the_clients_log_visible(address: str) -> None:
    script = (
        "import logging, sys; from jumpstarter.cli import j; code = j(sys.argv[1:]);"
        "print(logging.getLogger().level, logging.getLogger('client.PowerClient').level, code)"
    )
    command = [sys.executable, "-c", script, "--log-level", "debug", "power", "on"]
    with running(command, env={"JUMPSTARTER_HOST": address}, stdout=PIPE) as process:
        out, _ = process.communicate(timeout=PATIENCE)
    assert out == "10 10 0\n"


def test_log_level_holds_for_the_root_logger_and_those_of_clients(run: Run) -> None:
    loggers = [logging.getLogger(name) for name in ("", "client.PowerClient", "other")]
    before = [logger.level for logger in loggers]
    try:
        assert run("--log-level", "error", "power", "on")[0] == 0
        after = [logger.level for logger in loggers]
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
    assert after == [logging.ERROR, logging.ERROR, before[2]]


@pytest.mark.parametrize(
    ("annotation", "given", "read"),
    [
        ("typing.Optional[int]", "null", None),
        ("'int | None'", "5", 5),
        ("Annotated[float, 'in V']", "5", 5.0),
        ("Literal[True, 'x', None]", "None", None),
        ("Union[list[int], dict]", "{}", {}),
        ("str | bytes", "5", "5"),
        ("Color", "[1]", [1]),
        ("Color", "red", "red"),
        ("Color", "[" * 100_000, "[" * 100_000),
        ("a.b.Path", "5", "5"),
        ("'not ( an annotation'", "5", 5),
        ("lambda: 0", "5", 5),
        ("Annotated[()]", "5", 5),
    ],
)
def test_annotations_are_read_as_text(annotation: str, given: str, read: Any) -> None:
    [parameter] = parameters_of(signature_from(f"(p: {annotation}, /)"))
    command = click.Command("c", params=[parameter.command])
    with click.Context(command) as ctx:
        command.parse_args(ctx, [given])
        assert arguments_of([parameter], ctx) == ([read], {})


def test_values_of_a_literal_are_completed() -> None:
    [parameter] = parameters_of(signature_from("(p: Literal['on', 'off', 3])"))
    context = click.Context(click.Command("c"))
    completed = parameter.command.shell_complete(context, "o")
    assert [each.value for each in completed] == ["on", "off"]


@pytest.mark.parametrize(
    ("signature", "given", "called"),
    [
        ("(a, b=1, /, c=2, *d)", "5", ([5], {})),
        ("(a, b=1, /, c=2, *d)", "5 6 7 8", ([5, 6, 7, 8], {})),
        ("(a=1, b: bool=False, *c)", "5 6", ([5, False, 6], {})),
        ("(a=1, b: bool=True)", "--no-b", ([], {"b": False})),
        ("(a: bool=True, b: bool=False, /)", "--b", ([True, True], {})),
        ("(a=1, *, b)", "--b 2", ([], {"b": 2})),
    ],
)
def test_omitted_arguments_keep_their_defaults(
    signature: str, given: str, called: tuple[list[Any], dict[str, Any]]
) -> None:
    parameters = parameters_of(signature_from(signature))
    command = click.Command("c", params=[each.command for each in parameters])
    with click.Context(command) as ctx:
        command.parse_args(ctx, given.split())
        assert arguments_of(parameters, ctx) == called


def test_default_that_is_unknown_here_must_be_given() -> None:
    parameters = parameters_of(signature_from("(a: bool=..., *b)"))
    command = click.Command("c", params=[each.command for each in parameters])
    with click.Context(command) as ctx:
        command.parse_args(ctx, ["1"])
        with pytest.raises(click.UsageError, match="--a must be given before"):
            arguments_of(parameters, ctx)


def test_stream_opens_a_console_at_the_terminal(address: str) -> None:
    script = "import sys; from jumpstarter.cli import j; sys.exit(j())"
    with user() as someone:
        command = ["-c", script, "board", "connect", "115200"]
        environment = {**os.environ, "JUMPSTARTER_HOST": address}
        with at_a_terminal(someone, command, env=environment) as job:
            someone.see(b"115200")
            someone.type(b"\x02\x02\x02")
            assert job.wait() == 0
            assert someone.is_restored()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_cancels_the_drivers_code(tmp_path: Path, number: signal.Signals) -> None:
    with exporter(tmp_path) as serving:
        command = [sys.executable, "-c", "import sys; from jumpstarter.cli import j; sys.exit(j())"]
        environment = {"JUMPSTARTER_HOST": serving.address}
        hold = [*command, "hold"]
        with running(hold, env=environment, stdout=PIPE, stderr=PIPE) as holding:
            with running([*command, "until-held", "1"], env=environment) as waiting:
                assert waiting.wait(PATIENCE) == 0
            holding.send_signal(number)
            out, err = holding.communicate(timeout=PATIENCE)
        assert (holding.returncode, out, err.strip()) == (2, "", "")
        serving.until_logged("a held call was cancelled")


def test_signal_ends_a_generator(tmp_path: Path) -> None:
    with exporter(tmp_path, driver="jumpstarter.drivers.power:MockPower") as serving:
        command = [sys.executable, "-c", "import sys; from jumpstarter.cli import j; sys.exit(j())"]
        environment = {"JUMPSTARTER_HOST": serving.address}
        reading = [*command, "read", "3600"]
        with running(reading, env=environment, stdout=PIPE, stderr=PIPE) as process:
            assert process.stdout is not None
            assert json.loads(process.stdout.readline()) == {"voltage": 0.0, "current": 0.0}
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE) == 2
