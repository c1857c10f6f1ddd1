"""Test that the API reference has every public name and the site builds without warnings."""

from __future__ import annotations

import importlib
import pkgutil
import re
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

import jumpstarter
from processes import PATIENCE

ROOT: Final = Path(__file__).parents[1]
REFERENCE: Final = "\n".join(page.read_text() for page in (ROOT / "docs/reference").glob("*.md"))
NOT_INDEXED: Final = re.findall(r"automodule:: (\S+)\n +:no-index:", REFERENCE)  # aliases

pytest.importorskip("furo", reason="the site is built by the extra docs")


def public_modules() -> Iterator[str]:
    yield "jumpstarter"
    for module in pkgutil.walk_packages(jumpstarter.__path__, "jumpstarter."):
        private = any(part.startswith("_") for part in module.name.split("."))
        # The modules of commands are for the command line only.
        if not private and not module.name.startswith("jumpstarter.cli.commands"):
            yield module.name


def names_of(module: str) -> list[str]:
    names: list[str] = getattr(importlib.import_module(module), "__all__", [])
    return [name for name in names if not name.startswith("__")]


@pytest.fixture(scope="module")
def inventory(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Build the site as `make docs` does, and return the names in its index."""
    site = tmp_path_factory.mktemp("docs")
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet"]
    done = subprocess.run(
        [*command, "docs", str(site)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=6 * PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *_, body = (site / "objects.inv").read_bytes().split(b"\n", 4)
    return {line.split()[0] for line in zlib.decompress(body).decode().splitlines()}


def test_every_public_module_has_a_place_in_the_reference() -> None:
    documented = set(re.findall(r"automodule:: (\S+)", REFERENCE))
    expected = {module for module in public_modules() if names_of(module)}
    assert documented == expected
    assert len(expected) >= 15


def test_every_public_name_is_in_the_index(inventory: set[str]) -> None:
    for module in public_modules():
        for name in names_of(module):
            if module in NOT_INDEXED:
                assert any(each.endswith(f".{name}") for each in inventory), f"{module}.{name}"
            else:
                assert f"{module}.{name}" in inventory


def test_methods_of_private_bases_belong_to_the_public_class(inventory: set[str]) -> None:
    assert {
        "jumpstarter.client.DriverClient.call_as",
        "jumpstarter.driver.Driver.reset",
    } <= inventory
