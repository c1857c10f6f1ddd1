"""Test `jumpstarter ls`: the tree for people, and the documented schema for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from exporters_for_cli import Reached, board_over, make_certificates
from jumpstarter.cli import main
from ptys import User, at_a_terminal, user

KEYS = {"path", "client", "description", "doc", "labels", "methods"}


@pytest.fixture(scope="module", params=["unix", "tls"])
def board(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Reached]:
    with board_over(request.param, tmp_path_factory.mktemp("board")) as reached:
        yield reached


@pytest.fixture
def someone() -> Iterator[User]:
    with user() as terminal:
        yield terminal


def ls(board: Reached, *arguments: str) -> int:
    return main(["ls", *board.access, board.address, *arguments])


def test_the_tree_is_plain_text_in_a_pipe(
    board: Reached, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ls(board) == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert lines[0].startswith(". (jumpstarter.drivers.composite.CompositeClient): Group drivers")
    expected = [
        "  serial (jumpstarter.client.DriverClient): A device whose console echoes.",
        "      stream connect(): Echo all bytes, and end when the client's half has ended.",
        (
            "      until_received(data: bytes) -> bytes: Wait until the console was sent these "
            "bytes, and return everything that it was sent."
        ),
        (
            "      generator count(stop: int | None = None) -> AsyncGenerator[int, None]: "
            "Count, and wait at the end without a `stop`."
        ),
        "      switched() -> list[str]: Return the commands that it received.",
        "      off() -> None",
        (
            "      read-only generator read(interval: float) -> AsyncGenerator[PowerReading, None]:"
            " Yield a reading every `interval` seconds until the client stops."
        ),
    ]
    assert [line for line in expected if line not in lines] == []


def test_json_and_yaml_have_the_documented_keys(
    board: Reached, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ls(board, "-o", "json") == 0
    rows = json.loads(capsys.readouterr().out)
    paths = ". serial power relay calc nested nested.calc nested.a.b bench bench.serial bench.relay"
    assert [row["path"] for row in rows] == paths.split()
    assert all(row.keys() == KEYS for row in rows)
    power = rows[2]
    assert power["client"] == "jumpstarter.drivers.power.PowerClient"
    assert power["labels"]["jumpstarter.dev/name"] == "power"
    assert power["methods"][0] == {
        "name": "off",
        "kind": "call",
        "signature": "() -> None",
        "doc": "Switch off.",
        "read_only": False,
    }
    assert [each["name"] for each in power["methods"] if each["read_only"]] == ["read"]
    kinds = {each["name"]: each["kind"] for row in rows[:3] for each in row["methods"]}
    assert (kinds["connect"], kinds["read"], kinds["on"]) == ("stream", "generator", "call")
    assert ls(board, "-o", "yaml") == 0
    assert yaml.safe_load(capsys.readouterr().out) == rows


def test_the_paths_that_names_are_printed_as_work_as_arguments(
    board: Reached, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ls(board, "-o", "name") == 0
    paths = capsys.readouterr().out.split()
    assert paths[-5:-3] == ["nested.calc", "nested.a.b"]
    for path in paths:
        assert ls(board, path, "-o", "name") == 0
        assert capsys.readouterr().out.split()[0] == path


def test_a_part_of_the_tree_begins_at_its_driver(
    board: Reached, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ls(board, "nested") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("nested (")
    assert lines[1].startswith("  calc (")


def test_an_unknown_driver_is_one_line(board: Reached, capsys: pytest.CaptureFixture[str]) -> None:
    assert ls(board, "nested.clac") == 1
    err = capsys.readouterr().err
    assert "has no child 'clac'; did you mean 'calc'?" in err
    assert err.count("\n") == 1
    assert ls(board, "nested", "more") == 2
    assert "unexpected argument 'more'" in capsys.readouterr().err


def test_a_client_class_that_is_missing_here_is_not_warned_of(
    tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path_factory.mktemp("strange")
    with board_over("unix", directory, "console_drivers:Strange") as reached:
        assert ls(reached) == 0
    assert capsys.readouterr() == (
        ". (no_such_package.Client): A driver whose client class is missing.\n    ping() -> str\n",
        "",
    )


def test_the_tree_of_a_terminal_has_one_line_for_each_method(
    board: Reached, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "200")
    assert ls(board, "power") == 0
    shown = capsys.readouterr().out
    assert "├── " in shown
    assert "() -> None" in shown
    assert "generator" in shown


def test_the_tree_has_lines_and_colours_on_a_terminal(someone: User, board: Reached) -> None:
    arguments = ["-m", "jumpstarter", "ls", *board.access, board.address]
    with at_a_terminal(someone, arguments) as job:
        assert job.wait() == 0
        shown = someone.see(b"nested").decode() + someone.see(b"Return the argument.").decode()
    assert "├── " in shown
    assert "\x1b[" in shown
    assert "\x1b]" not in shown  # the window's title is left alone


@pytest.mark.parametrize(
    ("wrong", "option"),
    [
        ("--tls-ca", "name its authority by --tls-ca (or JMP_TLS_CA)"),
        ("--token-file", "is it the one in --token-file (or JMP_GRPC_PASSPHRASE)"),
    ],
)
def test_refusal_names_the_options(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, wrong: str, option: str
) -> None:
    (tmp_path / "other").mkdir()
    _, others = make_certificates(tmp_path / "other")
    (tmp_path / "other" / "token").write_text("another")
    with board_over("tls", tmp_path) as board:
        place = board.access.index(wrong) + 1
        access = (*board.access[:place], others[place], *board.access[place + 1 :])
        assert main(["ls", *access, board.address]) == 1
    err = capsys.readouterr().err
    assert option in err
    assert err.count("\n") == 1
