"""Test that CONTRIBUTING.md and the hooks of pre-commit only name targets and files that exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Final

import pytest

from pages import PAGES, blocks_of
from sizes import CLASS_LIMIT, MODULE_LIMIT

ROOT: Final = Path(__file__).parents[1]
PAGE: Final = "CONTRIBUTING.md"
MAKEFILE: Final = (ROOT / "Makefile").read_text()
TARGETS: Final = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
VARIABLES: Final = {*re.findall(r"^([A-Z_]+) *[?:]=", MAKEFILE, re.MULTILINE), "QUICK"}
COMMANDS: Final = [
    line.partition("#")[0].strip()
    for block in blocks_of(PAGE)
    for line in block.text.splitlines()
    if not line.startswith("#")
]
HOOKS: Final = re.findall(r"entry: (.+)", (ROOT / ".pre-commit-config.yaml").read_text())


@pytest.mark.parametrize("command", [*COMMANDS, *re.findall(r"`(make [^`]+)`", PAGES[PAGE])])
def test_a_command_names_what_exists(command: str) -> None:
    program, *arguments = shlex.split(command)
    assert program in {"make", "pre-commit", ".ci/run", ".venv/bin/pip", ".venv/bin/python"}
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if program == "make":
            assert name in (VARIABLES if equals else TARGETS), command
        if "/" in argument:
            assert (ROOT / (value or name)).exists(), command


def test_every_path_that_the_page_names_exists() -> None:
    paths = re.findall(r"`((?:src|tests|docs|\.ci|\.pre)[\w./-]*)`|\]\(([\w./]+)\)", PAGES[PAGE])
    named = [path or link for path, link in paths]
    assert len(named) > 20
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_the_page_states_the_limits_that_are_tested() -> None:
    text = " ".join(PAGES[PAGE].split())
    assert f"Classes stay below {CLASS_LIMIT} lines, modules below {MODULE_LIMIT}," in text


@pytest.mark.parametrize("entry", HOOKS)
def test_a_hook_runs_a_tool_of_the_environment(entry: str) -> None:
    tool, *arguments = entry.split()
    assert re.fullmatch(r"\.venv/bin/(ruff|mypy|python)", tool)
    paths = [each for each in arguments if "/" in each]
    assert all((ROOT / path).exists() for path in paths)


def test_the_hooks_are_those_of_the_gates() -> None:
    assert [Path(entry.split()[0]).name for entry in HOOKS] == ["ruff", "ruff", "mypy", "python"]
