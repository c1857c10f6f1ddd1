"""Build a package like this one, with two small modules, by this project's setup.py."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[1]
BUILDING: Final = 240.0  # seconds for what takes ten on a quiet machine
SUFFIX: Final = EXTENSION_SUFFIXES[0]
RULES: Final = "src/jumpstarter/_protocol"
GOOD: Final = "cdef class Window:\n    cdef public long long size\n"
CYTHON_FAILS: Final = GOOD.replace("long long", "no_such_type")
COMPILER_FAILS: Final = f'cdef extern from "no-such-header.h":\n    int x\n{GOOD}'


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return the directory of a project with this one's settings, and one compiled rule."""
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / name, tmp_path)
    rules = tmp_path / RULES
    rules.mkdir(parents=True)
    for directory in (rules, rules.parent):
        directory.joinpath("__init__.py").touch()
    shutil.copy(ROOT / "src/jumpstarter/_version.py", rules.parent)
    rules.parent.joinpath("_framing.pyx").write_text("HEADER_SIZE = 8\n")
    rules.joinpath("window.py").write_text(
        "class Window:\n    def __init__(self, size: int) -> None:\n        self.size = size\n"
    )
    rules.joinpath("window.pxd").write_text("cdef class Window:\n    cdef public long long size\n")
    return tmp_path


def run(project: Path, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run Python in the project's directory."""
    environment = {name: value for name, value in os.environ.items() if "JUMPSTARTER" not in name}
    return subprocess.run(
        [sys.executable, *command],
        cwd=project,
        env={**environment, **variables},
        capture_output=True,
        text=True,
        timeout=BUILDING,
        check=False,
    )


def build_in_place(project: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return run(project, "setup.py", "build_ext", "--inplace", **variables)


def built(project: Path) -> list[str]:
    """Return the names of the files that a build in place has left, except the .pyx file's."""
    found = (project / RULES).parent.glob("**/*.cpython-*")
    modules = [path.name for path in found if path.parent.name != "__pycache__"]
    return sorted(name for name in modules if not name.startswith("_framing"))


def test_a_build_in_place_lists_its_sources_and_one_without_rules_removes_them(
    project: Path,
) -> None:
    done = build_in_place(project)
    assert done.returncode == 0, done.stderr
    assert built(project) == [f"built{SUFFIX}.txt", f"window{SUFFIX}"]
    program = "from jumpstarter._protocol.window import Window; print(vars(Window)['size'])"
    said = run(project, "-c", program, PYTHONPATH="src").stdout
    assert "attribute 'size' of 'jumpstarter._protocol.window.Window'" in said  # a field in C
    listed = (project / RULES).with_name(f"built{SUFFIX}.txt").read_text()
    assert [line.split()[1] for line in listed.splitlines()] == [
        "_framing.pyx",
        "_protocol/window.pxd",
        "_protocol/window.py",
    ]

    done = build_in_place(project, JUMPSTARTER_PURE="1")
    assert done.returncode == 0, done.stderr
    assert built(project) == []


def test_a_module_is_compiled_again_if_its_code_or_the_options_have_changed(project: Path) -> None:
    def build(**variables: str) -> bytes:
        done = build_in_place(project, **variables)
        assert done.returncode == 0, done.stderr
        return (project / RULES / f"window{SUFFIX}").read_bytes()

    compiled = build()
    (kept,) = project.glob("build/modules/jumpstarter._protocol.window/*")
    assert kept.read_bytes() == compiled
    kept.write_bytes(b"kept")
    assert build() == b"kept"
    assert build(CFLAGS="-O1").startswith(compiled[:4])
    with (project / RULES / "window.py").open("a") as file:
        file.write("LIMIT = 1\n")
    assert build().startswith(compiled[:4])


@pytest.mark.parametrize("types", [CYTHON_FAILS, COMPILER_FAILS])
def test_the_build_fails_if_a_rule_cannot_be_compiled(project: Path, types: str) -> None:
    (project / RULES / "window.pxd").write_text(types)
    assert build_in_place(project).returncode != 0


def test_a_wheel_has_the_code_its_types_and_the_compiled_modules(project: Path) -> None:
    command = ["-m", "pip", "wheel", "--no-deps", "--no-index", "--no-build-isolation"]
    done = run(project, *command, "--wheel-dir", "dist", ".")
    assert done.returncode == 0, done.stderr
    (wheel,) = project.joinpath("dist").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.removeprefix("jumpstarter/_protocol/") for name in names if "window" in name} == {
        "window.py",
        "window.pxd",
        f"window{SUFFIX}",
    }
    assert not [name for name in names if "built" in name]


def test_a_source_distribution_has_the_code_and_its_types(project: Path) -> None:
    done = run(project, "setup.py", "sdist", "--formats=zip")
    assert done.returncode == 0, done.stderr
    (archive,) = project.joinpath("dist").glob("*.zip")
    names = {Path(name).name for name in zipfile.ZipFile(archive).namelist()}
    assert {"window.py", "window.pxd", "_framing.pyx"} <= names
    assert not [name for name in names if name.endswith((".so", ".c"))]
