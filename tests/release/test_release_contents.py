"""Test that needless and missing files of a distribution are found."""

from __future__ import annotations

import io
import re
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import pytest
from setuptools.command.egg_info import FileList  # type: ignore[import-untyped] # has no stubs
from tools.commands import tracked_files
from tools.contents import OF_THE_REPOSITORY, sdist_faults, wheel_faults

ROOT: Final = Path(__file__).parents[2]
# What setuptools adds to a source distribution, whatever MANIFEST.in says.
ALWAYS: Final = {"LICENSE", "MANIFEST.in", "README.md", "pyproject.toml", "setup.py"}
TRACKED: Final = (
    ".gitignore",
    ".github/workflows/ci.yml",
    "README.md",
    "src/jumpstarter/__init__.py",
    "src/jumpstarter/_framing.pyx",
    "src/jumpstarter/_protocol/window.pxd",
    "src/jumpstarter/_protocol/window.py",
    "src/jumpstarter/py.typed",
    "tests/test_a.py",
)
SUFFIX: Final = ".cpython-311-x86_64-linux-gnu.so"
IN_WHEEL: Final = {
    *(name.removeprefix("src/") for name in TRACKED if name.startswith("src/")),
    f"jumpstarter/_framing{SUFFIX}",
    f"jumpstarter/_protocol/window{SUFFIX}",
}
IN_SDIST: Final = {*TRACKED[2:], "PKG-INFO", "setup.cfg", "src/jumpstarter.egg-info/SOURCES.txt"}


def sdist_of(tmp_path: Path, names: Iterable[str]) -> Path:
    path = tmp_path / "jumpstarter-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(f"jumpstarter-1.0/{name}"), io.BytesIO())
    return path


def wheel_of(tmp_path: Path, names: Iterable[str], version: str = "1.0") -> Path:
    path = tmp_path / "jumpstarter-1.0.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, "")
        archive.writestr("jumpstarter-1.0.dist-info/METADATA", f"Version: {version}\n")
        archive.writestr("jumpstarter-1.0.dist-info/RECORD", "")
    return path


def test_a_source_distribution_with_the_tracked_files_has_no_fault(tmp_path: Path) -> None:
    assert sdist_faults(sdist_of(tmp_path, IN_SDIST), TRACKED) == []


def test_a_source_distribution_names_what_it_lacks_and_what_is_needless(tmp_path: Path) -> None:
    names = {*IN_SDIST, "src/jumpstarter/_framing.c"} - {"tests/test_a.py"}
    assert sdist_faults(sdist_of(tmp_path, names), TRACKED) == [
        "jumpstarter-1.0.tar.gz lacks tests/test_a.py: see MANIFEST.in",
        "jumpstarter-1.0.tar.gz has src/jumpstarter/_framing.c needlessly: see MANIFEST.in",
    ]


def test_a_wheel_with_the_package_and_its_compiled_modules_has_no_fault(tmp_path: Path) -> None:
    assert wheel_faults(wheel_of(tmp_path, IN_WHEEL), TRACKED, "1.0") == []


@pytest.mark.parametrize("name", sorted(IN_WHEEL))
def test_a_wheel_lacks_no_file_silently(name: str, tmp_path: Path) -> None:
    faults = wheel_faults(wheel_of(tmp_path, IN_WHEEL - {name}), TRACKED, "1.0")
    module = name.partition(".")[0] if name.endswith(".so") else None
    fault = f"has no compiled {module}" if module else f"lacks {name}"
    assert f"jumpstarter-1.0.whl {fault}" in faults


@pytest.mark.parametrize("name", ["tests/test_a.py", "jumpstarter/_framing.c", "conftest.py"])
def test_a_wheel_has_no_needless_file(name: str, tmp_path: Path) -> None:
    faults = wheel_faults(wheel_of(tmp_path, {*IN_WHEEL, name}), TRACKED, "1.0")
    assert faults == [f"jumpstarter-1.0.whl has {name} needlessly"]


def test_a_wheel_of_another_version_is_found(tmp_path: Path) -> None:
    faults = wheel_faults(wheel_of(tmp_path, IN_WHEEL, "0.9"), TRACKED, "1.0")
    assert faults == ["jumpstarter-1.0.whl has the version 0.9, and not 1.0"]


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="git lists the files")
def test_the_manifest_includes_every_tracked_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    manifest = FileList()
    for line in (ROOT / "MANIFEST.in").read_text().splitlines():
        manifest.process_template_line(line)
    included = {Path(name).as_posix() for name in manifest.files}
    rest = {name for name in tracked_files() if not name.startswith(OF_THE_REPOSITORY)}
    rest -= included | ALWAYS
    assert sorted(name for name in rest if not re.fullmatch(r"src/.*\.py", name)) == []
