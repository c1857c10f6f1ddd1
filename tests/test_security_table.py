"""Test that docs/security.md has every fault, with an answer and existing tests."""

from __future__ import annotations

import re
from typing import Final

import pytest

from hostile.attacks import ATTACKS
from test_guarantees import TESTS, functions

TEXT: Final = (TESTS.parent / "docs" / "security.md").read_text(encoding="utf-8")
# The number and title of each fault, the behaviour of the library, and the tests.
FAULTS: Final = re.findall(
    r"^- \*\*([A-D]\d+)\. (.+?)\*\*(.+?)^((?:  `[^\n]+`,?\n)+)",
    TEXT,
    flags=re.MULTILINE | re.DOTALL,
)
NUMBERS: Final = [
    f"{section}{number}"
    for section, last in {"A": 15, "B": 14, "C": 11, "D": 7}.items()
    for number in range(1, last + 1)
]
NAMED: Final = sorted(set(re.findall(r"`((?:\w+/)?\w+\.py)::(\w+)`", TEXT)))


def test_faults_are_complete_and_in_order() -> None:
    assert [number for number, *_ in FAULTS] == NUMBERS


@pytest.mark.parametrize(("number", "fault", "answer", "tests"), FAULTS, ids=NUMBERS)
def test_fault_has_an_answer_and_names_tests(
    number: str, fault: str, answer: str, tests: str
) -> None:
    assert "**" not in fault + answer, number
    assert len(answer.split()) > 5
    assert re.fullmatch(r"(  `(\w+/)?\w+\.py::test_\w+`,\n)*  `(\w+/)?\w+\.py::test_\w+`\n", tests)


@pytest.mark.parametrize(("file", "test"), NAMED, ids=[test for _, test in NAMED])
def test_named_test_exists(file: str, test: str) -> None:
    path = TESTS / file
    assert path.is_file()
    assert test in functions(path)


def test_attack_belongs_to_a_fault() -> None:
    assert {attack.row for attack in ATTACKS} - {"-"} <= set(NUMBERS)
