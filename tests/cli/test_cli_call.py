"""Test `jumpstarter call`: arguments, results, errors, and the modules that it imports."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from exporters_for_cli import Reached, board_over
from helpers import PATIENCE
from jumpstarter.cli import main
from processes import running

# Calls in a process of its own, and prints the modules that were imported.
MODULES = """
import sys
from jumpstarter.cli import main
code = main(sys.argv[1:])
print(*sorted(sys.modules), file=sys.stderr)
sys.exit(code)
"""


@pytest.fixture(scope="module", params=["unix", "tls"])
def board(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Reached]:
    with board_over(request.param, tmp_path_factory.mktemp("board")) as reached:
        yield reached


@pytest.fixture
def unix_board(tmp_path: Path) -> Iterator[Reached]:
    with board_over("unix", tmp_path) as reached:
        yield reached


def call(board: Reached, *arguments: str) -> int:
    return main(["call", *board.access, board.address, *arguments])


@pytest.mark.parametrize(
    ("arguments", "printed"),
    [
        ("calc.add 1", "3\n"),
        ("calc.add 1 40", "41\n"),
        ("calc.add -5 b=-6", "-11\n"),
        ("calc.add b=0x10 a=1", "17\n"),
        ("calc.join one", "one\n"),
        ("calc.join 1 2 sep=-", "1-2\n"),
        ("calc.join x=y", "x=y\n"),
        ("calc.join a=b sep==", "a=b\n"),
        ("calc.options color=red size=3 on=true", '{"color": "red", "size": 3, "on": true}\n'),
        ("calc.give", ""),
        ("calc.give null", ""),
        ("calc.give [1,2]", "[1, 2]\n"),
        ("calc.give text", "text\n"),
        ("calc.give żółw", "żółw\n"),
        ('calc.give {"a":1.5}', '{"a": 1.5}\n'),
        ("-o json calc.give text", '"text"\n'),
        ("calc.give -o json", "null\n"),
        ("calc.give -- -o", "-o\n"),
        ("calc.give -- --option", "--option\n"),
        ("calc.join -5 -.5 sep=+", "-5+-.5\n"),
        ("calc.count 3", "0\n1\n2\n"),
        ("power.on", ""),
    ],
)
def test_arguments_are_read_by_the_signature_and_results_printed(
    board: Reached, arguments: str, printed: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert call(board, *arguments.split(" ")) == 0
    assert capfd.readouterr() == (printed, "")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ("calc.fail", 1, r"the board\nis on fire"),
        ("calc.ad 1", 1, "did you mean 'add'?"),
        ("cacl.add 1", 1, "did you mean 'calc'?"),
        ("calc", 1, "'calc' is a driver; add the name of a method: add, "),
        ("serial.connect", 1, "is a raw stream: use `console` or `forward`"),
    ],
)
def test_a_failure_is_one_line_and_exit_code_1(
    board: Reached, arguments: str, code: int, said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert call(board, *arguments.split()) == code
    out, err = capfd.readouterr()
    assert out == ""
    assert said in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("calc.add", "calc.add(a: int, b: int = 2) -> int: missing a required argument: 'a'"),
        ("calc.add 1 2 3", "too many positional arguments"),
        ("calc.add one", "Invalid value for a: 'one' is not: integer"),
        ("calc.add 1 a=2", "multiple values for argument 'a'"),
        ("calc.add 1 b=2 b=3", "b is given twice"),
        ("calc.join --sep=x", "No such option"),
        ("calc.join --several x -5", "--several"),
        ("calc.give -x", "Put -- before an argument that begins with a dash."),
    ],
)
def test_arguments_that_do_not_fit_are_an_error_of_usage(
    board: Reached, arguments: str, said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert call(board, *arguments.split()) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert said in err


def test_the_address_may_come_from_the_environment(
    unix_board: Reached, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for host in (unix_board.address, unix_board.address.removeprefix("unix:")):
        monkeypatch.setenv("JUMPSTARTER_HOST", host)
        assert main(["call", "calc.add", "1"]) == 0
        assert capfd.readouterr().out == "3\n"
    monkeypatch.delenv("JUMPSTARTER_HOST")
    assert main(["call", "calc.add", "1"]) == 1
    assert "JUMPSTARTER_HOST is not set" in capfd.readouterr().err
    assert main(["call"]) == 2
    assert "an address has a ':' or a '/'" in capfd.readouterr().err


def test_a_generator_prints_each_item_until_ctrl_c(unix_board: Reached) -> None:
    command = [sys.executable, "-m", "jumpstarter", "call", unix_board.address, "calc.count"]
    with running(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(3)]  # while it runs
        assert lines == ["0\n", "1\n", "2\n"]
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + signal.SIGINT
    assert (out, err.strip()) == ("", "")


def test_a_reader_that_has_gone_ends_the_call(unix_board: Reached) -> None:
    command = [sys.executable, "-m", "jumpstarter", "call", unix_board.address, "calc.count"]
    with running([*command, "1000000"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(PATIENCE) == 128 + signal.SIGPIPE


def test_a_call_imports_only_what_it_needs(unix_board: Reached) -> None:
    """A call takes 0.15 s, most of it for imports; one more package may double that."""
    command = [sys.executable, "-c", MODULES, "call", unix_board.address, "calc.add", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert json.loads(done.stdout) == 3
    imported = set(done.stderr.split())
    assert {"click", "msgspec", "trio", "jumpstarter.client._base"} <= imported
    slow = {"anyio", "asyncio", "backports", "httpx", "multiprocessing", "pexpect", "pydantic"}
    slow |= {"rich", "yaml", "serial", "difflib", "unittest", "importlib.metadata"}
    slow |= {"jumpstarter._exporter", "jumpstarter.config.exporter", "jumpstarter.config._yaml"}
    assert imported & slow == set()
    # A package that is not in the list above, and takes as long as one of them.
    known = sys.stdlib_module_names | {"jumpstarter", "click", "msgspec", "trio", "attr", "attrs"}
    known |= {
        "cython_runtime",
        "idna",
        "outcome",
        "sniffio",
        "sortedcontainers",
        "typing_extensions",
    }
    others = {each for each in imported if each.partition(".")[0] not in known}
    assert {each for each in others if not each.startswith("_")} == set()
