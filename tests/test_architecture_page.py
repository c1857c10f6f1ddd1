"""Test that docs/architecture.md lists each state of each state machine, and links its module."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from pages import PAGES, ROOT

SRC: Final = ROOT / "src" / "jumpstarter"
PAGE: Final = PAGES["docs/architecture.md"]


def state_machines() -> Iterator[tuple[str, str, list[str]]]:
    """Yield the path, the name and the states of each enum of states."""
    for path in sorted(SRC.rglob("*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and re.search(r"(State|Phase)$", node.name):
                targets = [each.targets[0] for each in node.body if isinstance(each, ast.Assign)]
                states = [target.id for target in targets if isinstance(target, ast.Name)]
                yield path.relative_to(SRC).as_posix(), node.name, states


MACHINES: Final = list(state_machines())


@pytest.mark.parametrize(
    ("path", "states"),
    [(path, states) for path, _, states in MACHINES],
    ids=[f"{path}-{name}" for path, name, _ in MACHINES],
)
def test_page_lists_the_states(path: str, states: list[str]) -> None:
    link = f"](../src/jumpstarter/{path})"
    sections = [each for each in re.split(r"(?m)^### ", PAGE) if link in each]
    assert sections, "no section of the page links this module"
    words = "\n".join(sections).lower().replace("`", "")
    missing = [each for each in states if each.lower().replace("_", " ") not in words]
    assert [each for each in missing if each.lower() not in words] == []


def test_page_links_modules_that_exist() -> None:
    links = re.findall(r"\]\(\.\./([^)#]+)\)", PAGE)
    assert len(links) > 10
    assert [link for link in links if not (ROOT / link).is_file()] == []


def test_state_machines_are_found() -> None:
    assert {Path(path).parts[0] for path, _, _ in MACHINES} >= {"_exporter", "_protocol", "client"}
