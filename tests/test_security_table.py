"""Every fault in docs/security.md is there, says what happens, and names tests that exist."""

from __future__ import annotations

import re
from typing import Final

import pytest

from hostile.attacks import ATTACKS
from test_guarantees import TESTS, functions

TEXT: Final = (TESTS.parent / "docs" / "security.md").read_text(encoding="utf-8")
# A fault: its number, what it is, what becomes of it, and the tests of that.
FAULTS: Final = re.findall(
    r"^- \*\*([A-D]\d+)\. (.+?)\*\*(.+?)^((?:  `[^\n]+`,?\n)+)",
    TEXT,
    flags=re.MULTILINE | re.DOTALL,
)
NUMBERS: Final = [
    f"{section}{number}"
    for section, last in {"A": 15, "B": 14, "C": 10}.items()
    for number in range(1, last + 1)
]
NAMED: Final = sorted(set(re.findall(r"`((?:\w+/)?\w+\.py)::(\w+)`", TEXT)))


def test_every_fault_is_there_once_and_in_order() -> None:
    assert [number for number, *_ in FAULTS] == NUMBERS


@pytest.mark.parametrize(("number", "fault", "answer", "tests"), FAULTS, ids=NUMBERS)
def test_a_fault_says_what_becomes_of_it_and_names_its_tests(
    number: str, fault: str, answer: str, tests: str
) -> None:
    assert "**" not in fault + answer, number
    assert len(answer.split()) > 5
    assert re.fullmatch(r"(  `(\w+/)?\w+\.py::test_\w+`,\n)*  `(\w+/)?\w+\.py::test_\w+`\n", tests)


@pytest.mark.parametrize(("file", "test"), NAMED, ids=[test for _, test in NAMED])
def test_a_test_that_is_named_exists(file: str, test: str) -> None:
    path = TESTS / file
    assert path.is_file()
    assert test in functions(path)


def test_every_attack_is_on_a_fault_of_the_table() -> None:
    assert {attack.row for attack in ATTACKS} - {"-"} <= set(NUMBERS)
