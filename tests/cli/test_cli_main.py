"""Test the entry points, and the commands that need no extra."""

from __future__ import annotations

import subprocess
import sys

import pytest

from helpers import PATIENCE
from jumpstarter import _version
from jumpstarter.cli import j, main
from jumpstarter.cli._commands import COMMANDS

# Runs a command without click, as if the extra were not installed.
WITHOUT_CLICK = """
import sys
sys.modules["click"] = None
from jumpstarter.cli import j, main
sys.exit((j if sys.argv[1] == "j" else main)(sys.argv[2:]))
"""


def without_click(*arguments: str) -> tuple[int, str, str]:
    command = [sys.executable, "-c", WITHOUT_CLICK, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    return done.returncode, done.stdout, done.stderr


def test_the_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    listed = {line.split()[0] for line in lines[lines.index("Commands:") + 1 :]}
    assert listed == set(COMMANDS)


def test_an_unknown_command_is_an_error_of_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["servve"]) == 2
    assert "No such command 'servve'" in capsys.readouterr().err


def test_help_and_version_need_no_extra() -> None:
    code, out, err = without_click("jumpstarter", "--help")
    assert (code, err) == (0, "")
    assert all(f"\n  {name} " in out for name in COMMANDS)
    assert "[cli]'" in out
    version = f"jumpstarter {_version.__version__}\n"
    assert without_click("jumpstarter", "--version") == (0, version, "")


@pytest.mark.parametrize("program", ["jumpstarter", "j"])
def test_a_command_that_lacks_its_extra_names_it(program: str) -> None:
    code, out, err = without_click(program, "power", "on")
    assert (code, out) == (2, "")
    assert err.startswith(f"{program}: ")
    assert "[cli]'" in err
    assert err.count("\n") == 1


def test_j_outside_a_shell_says_where_it_works(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JUMPSTARTER_HOST", raising=False)
    assert j(["power", "on"]) == 1
    text = "j: JUMPSTARTER_HOST is not set: use j in a `jumpstarter shell`\n"
    assert capsys.readouterr().err == text
