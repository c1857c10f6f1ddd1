"""Compiled modules run only if they were built from the present sources, and nobody asks otherwise.

The package here has an extension module that cannot be loaded: an import of it fails, while an
import of the Python code of the same name succeeds.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import zlib
from collections.abc import Iterator
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

from helpers import PATIENCE
from jumpstarter._util import compiled

SUFFIX = EXTENSION_SUFFIXES[0]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the directory of a package with `rules.py` and a broken extension module."""
    directory = tmp_path / "package_with_rules" / "rules_of_it"
    directory.mkdir(parents=True)
    for each in (directory, directory.parent):
        each.joinpath("__init__.py").touch()
    directory.joinpath("rules.pxd").touch()
    directory.joinpath("rules.py").write_text("FORM = 'Python code'\n")
    directory.joinpath(f"rules{SUFFIX}").write_bytes(b"not an extension module")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv(compiled.VARIABLE, raising=False)
    yield directory
    sys.path_importer_cache.pop(str(directory), None)
    for name in [name for name in sys.modules if name.startswith(directory.parent.name)]:
        del sys.modules[name]


def runs_compiled(package: Path) -> bool:
    """Import the package's module, and return whether the import chose the extension module."""
    compiled.choose_form(str(package.parent))
    try:
        rules = importlib.import_module(f"{package.parent.name}.{package.name}.rules")
    except ImportError:
        return True
    assert rules.FORM == "Python code"
    assert not compiled.is_compiled(rules.__file__)
    return False


def listed(package: Path) -> Path:
    return package.parent / f"built{SUFFIX}.txt"


def list_sources(package: Path) -> None:
    """Write the list that a build in the source tree leaves, as setup.py does."""
    checksum = zlib.crc32(package.joinpath("rules.py").read_bytes())
    listed(package).write_text(f"{checksum:08x} {package.name}/rules.py\n")


def test_compiled_modules_run_where_there_are_some(package: Path) -> None:
    assert runs_compiled(package)


def test_the_variable_selects_the_python_code(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(compiled.VARIABLE, "1")
    assert not runs_compiled(package)


@pytest.mark.parametrize("place", ["/./", "//"])
def test_the_variable_works_wherever_the_package_was_found(
    package: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setenv(compiled.VARIABLE, "1")
    above, name = package.parent.parent, package.parent.name
    odd = f"{above.parent}{place}{above.name}"
    sys.path.insert(0, odd)
    try:
        (directory,) = importlib.import_module(name).__path__
        assert place in directory
        compiled.choose_form(directory)
        rules = importlib.import_module(f"{name}.{package.name}.rules")
    finally:
        sys.path.remove(odd)
    assert rules.FORM == "Python code"


def test_another_value_of_the_variable_selects_nothing(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(compiled.VARIABLE, "0")
    assert runs_compiled(package)


def test_modules_built_from_the_present_sources_run(package: Path) -> None:
    list_sources(package)
    assert runs_compiled(package)


def test_an_edited_source_runs_in_place_of_what_was_built_from_it(package: Path) -> None:
    list_sources(package)
    with package.joinpath("rules.py").open("a") as source:
        source.write("# edited\n")
    assert not runs_compiled(package)


def test_modules_do_not_run_if_one_of_their_sources_is_gone(package: Path) -> None:
    list_sources(package)
    with listed(package).open("a") as file:
        file.write("00000000 gone.pxd\n")
    assert not runs_compiled(package)


def test_the_variable_selects_the_form_of_the_rules() -> None:
    program = "import jumpstarter._protocol as p; print(p.is_compiled())"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, compiled.VARIABLE: "1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    assert done.stdout == "False\n"
