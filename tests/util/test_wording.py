"""Test that interfaces have words for the phrases that the library's errors use, and no others."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path

import pytest

import jumpstarter
from jumpstarter._pytest_plugin.wording import OPTIONS as PYTEST
from jumpstarter._util.wording import using_words, worded
from jumpstarter.cli._wording import OPTIONS, VARIABLES


def phrases() -> set[str]:
    """Return the phrases in the sources."""
    found: set[str] = set()
    for path in Path(jumpstarter.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "worded":
                [phrase] = node.args
                found.add(ast.literal_eval(phrase))  # it must be one
    return found


def test_the_command_line_has_words_for_all_phrases() -> None:
    assert OPTIONS.keys() == phrases()
    assert VARIABLES.keys() == phrases()


@pytest.mark.parametrize("table", [OPTIONS, VARIABLES, PYTEST])
def test_words_are_of_the_interface(table: Mapping[str, str]) -> None:
    assert table.keys() <= phrases()
    assert not any(
        python in words
        for words in table.values()
        for python in ("token=", "ssl_context", "allow=", "Limits(", "insecure=", "users=")
    )


def test_words_hold_for_the_block() -> None:
    with using_words({"token=": "--token-file"}):
        assert worded("token=") == "--token-file"
        with using_words({}):
            assert worded("token=") == "token="
        assert worded("token=") == "--token-file"
    assert worded("token=") == "token="
