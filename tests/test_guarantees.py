"""Test that every guarantee in docs/guarantees.md names existing tests."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
TEXT = (TESTS.parent / "docs" / "guarantees.md").read_text()
NAMED = sorted(set(re.findall(r"`((?:\w+/)?\w+\.py)(?:::(\w+))?`", TEXT)))


@cache  # many of the names are in the same file
def functions(path: Path) -> set[str]:
    nodes = ast.walk(ast.parse(path.read_text()))
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize(("file", "test"), NAMED)
def test_named_test_exists(file: str, test: str) -> None:
    root = TESTS.parent if file.startswith(("tests/", "benchmarks/")) else TESTS
    path = root / file
    assert path.is_file()
    assert not test or test in functions(path)


def test_guarantee_names_a_test() -> None:
    guarantees = re.findall(r"^- \*\*.*?(?=^- |^## |\Z)", TEXT, flags=re.MULTILINE | re.DOTALL)
    assert len(guarantees) > 20
    assert [text for text in guarantees if not re.search(r"`\S+\.py", text)] == []
