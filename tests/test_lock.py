"""Test that the locks pin the whole environment, are complete, and match the metadata."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from processes import PATIENCE

ROOT: Final = Path(__file__).parents[1]
PYPROJECT: Final[dict[str, Any]] = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT: Final[dict[str, Any]] = PYPROJECT["project"]
EXTRAS: Final[dict[str, list[str]]] = PROJECT["optional-dependencies"]
PYTHONS: Final = ("3.11", "3.12", "3.13")
LOCKS: Final = sorted((ROOT / "locks").glob("*.txt"))


@cache
def locked(path: Path) -> list[tuple[Requirement, list[str]]]:
    """Return each requirement of a lock, with its hashes."""
    text = re.sub(r"#.*", "", path.read_text()).replace("\\\n", " ")
    lines = filter(None, map(str.strip, text.splitlines()))
    parts = [re.split(r"\s+--hash=", line) for line in lines]
    return [(Requirement(requirement), hashes) for requirement, *hashes in parts]


def claimed(*extras: str) -> Iterator[Requirement]:
    """Yield the build and run requirements in pyproject.toml, including these extras."""
    lines = [*PYPROJECT["build-system"]["requires"], *PROJECT["dependencies"]]
    todo = list(extras)
    while todo:
        for line in EXTRAS[todo.pop()]:
            requirement = Requirement(line)
            if requirement.name == PROJECT["name"]:
                todo += requirement.extras
            else:
                lines.append(line)
    yield from map(Requirement, dict.fromkeys(lines))


def versions(path: Path, name: str, python: str) -> list[Version]:
    """Return the versions of a package that a lock installs on Linux."""
    environment = {"python_version": python, "python_full_version": f"{python}.9"}
    return [
        Version(next(iter(requirement.specifier)).version)
        for requirement, _ in locked(path)
        if canonicalize_name(requirement.name) == canonicalize_name(name)
        and (requirement.marker is None or requirement.marker.evaluate(environment))
    ]


def applies(requirement: Requirement, python: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"python_version": python})


def lowest(specifier: SpecifierSet) -> Version:
    (least,) = (Version(each.version) for each in specifier if each.operator in {">=", "=="})
    return least


# ------------------------------------------------------------------------------ the locks


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.stem)
def test_every_line_of_a_lock_has_one_version_and_its_hashes(path: Path) -> None:
    assert len(locked(path)) > 20
    for requirement, hashes in locked(path):
        assert [each.operator for each in requirement.specifier] == ["=="], requirement
        assert hashes, requirement
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", each) for each in hashes), requirement


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize(
    ("lock", "extra"),
    [
        ("dev", "dev"),
        ("lowest", "dev"),
        ("hostile", "hostile"),
        ("compat", "compat"),
        ("release", "release"),
    ],
)
def test_a_lock_has_all_that_is_required_in_a_version_that_is_admitted(
    lock: str, extra: str, python: str
) -> None:
    path = ROOT / "locks" / f"{lock}.txt"
    names = set()
    for requirement in claimed(extra):
        if applies(requirement, python):
            [version] = versions(path, requirement.name, python)
            assert version in requirement.specifier, "pyproject.toml has changed: make lock"
            names.add(requirement.name)
    assert {"cython", "setuptools", "trio", "msgspec"} <= names


def test_the_lowest_lock_has_the_lowest_version_of_each() -> None:
    """Each lower bound in pyproject.toml must name an existing release; otherwise correct it."""
    for requirement in claimed("dev"):
        if applies(requirement, "3.11"):
            (version,) = versions(ROOT / "locks" / "lowest.txt", requirement.name, "3.11")
            least = lowest(requirement.specifier)
            assert version.release[:2] == (*least.release, 0)[:2], requirement


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("name", ["hostile", "release"])
def test_a_lock_beside_it_fits_the_development_environment(name: str, python: str) -> None:
    """Adding its packages to the environment changes none that is there."""
    for requirement, _ in locked(ROOT / "locks" / f"{name}.txt"):
        there = versions(ROOT / "locks" / "dev.txt", requirement.name, python)
        more = versions(ROOT / "locks" / f"{name}.txt", requirement.name, python)
        assert not there or not more or there == more, requirement


@pytest.mark.parametrize("python", PYTHONS)
def test_the_published_core_runs_with_what_this_project_runs_with(python: str) -> None:
    """The baseline and `make compat` differ in the core, and in what only one core requires."""
    ours, theirs = ROOT / "locks" / "compat.txt", ROOT / "locks" / "published.txt"
    names = {requirement.name for requirement, _ in locked(ours)}
    assert len(names & {requirement.name for requirement, _ in locked(theirs)}) > 100
    for name in names:
        found = versions(theirs, name, python)
        assert not found or found == versions(ours, name, python), name
    assert not any(requirement.name == "jumpstarter" for requirement, _ in locked(ours))


@pytest.mark.parametrize("lines", ["drivers.txt", "requirements.txt"])
def test_what_the_published_suites_need_is_locked(lines: str) -> None:
    path = ROOT / "locks" / lines.replace("requirements", "compat")
    text = (ROOT / "tests" / "published" / lines).read_text()
    for line in filter(None, (line.partition("#")[0].strip() for line in text.splitlines())):
        requirement = Requirement(line)
        [version] = versions(path, requirement.name, "3.11")
        assert version in requirement.specifier, "make lock"


@pytest.mark.skipif(
    not Path(sys.prefix, ".locked").exists(), reason="this environment was not made by make venv"
)
def test_this_environment_is_what_is_locked() -> None:
    name = Path(sys.prefix, ".locked").read_text().strip()
    python = "{}.{}".format(*sys.version_info)
    expected = {
        canonicalize_name(requirement.name): version
        for requirement, _ in locked(ROOT / name)
        for version in versions(ROOT / name, requirement.name, python)
    }
    found = {
        canonicalize_name(each.metadata["Name"]): Version(each.version)
        for each in importlib.metadata.distributions(path=[sysconfig.get_path("purelib")])
    }
    assert {key: found.get(key) for key in expected} == expected
    assert found.keys() - expected.keys() <= {"pip", canonicalize_name(PROJECT["name"])}


# --------------------------------------------------------------------------- supported Pythons


def test_the_pythons_that_are_claimed_are_those_that_are_tested() -> None:
    classifier = "Programming Language :: Python :: "
    classifiers = [each.removeprefix(classifier) for each in PROJECT["classifiers"]]
    assert [each for each in classifiers if re.fullmatch(r"3\.\d+", each)] == list(PYTHONS)
    assert PROJECT["requires-python"] == f">={PYTHONS[0]}"
    assert f"\nPYTHONS ?= {' '.join(PYTHONS)}\n" in (ROOT / "Makefile").read_text()
    assert f"--python-version {PYTHONS[0]} " in (ROOT / ".ci" / "lock").read_text()


def find_python(version: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ROOT / ".ci" / "python", version],
        env={"PATH": "/usr/bin:/bin", "HOME": "/nowhere", **variables},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def test_an_interpreter_is_found_on_the_path_and_where_pyenv_keeps_them(tmp_path: Path) -> None:
    version = "{}.{}".format(*sys.version_info)
    kept = tmp_path / "versions" / f"{version}.1" / "bin"
    kept.mkdir(parents=True)
    (kept / "python").symlink_to(sys.executable)
    done = find_python(version, PYENV_ROOT=str(tmp_path))
    assert Path(done.stdout.strip()).parent in {kept, Path("/usr/bin"), Path("/bin")}
    broken = tmp_path / "bin"
    broken.mkdir()
    (broken / f"python{version}").write_text("#!/bin/sh\nexit 127\n")  # like a shim of pyenv
    (broken / f"python{version}").chmod(0o755)
    found = find_python(version, PATH=f"{broken}:/usr/bin:/bin", PYENV_ROOT=str(tmp_path))
    assert Path(found.stdout.strip()) == kept / "python"


def test_an_interpreter_that_is_not_there_is_said_to_be_missing() -> None:
    done = find_python("3.99")
    assert (done.returncode, done.stdout) == (1, "")
    assert "there is no Python 3.99 on PATH, from pyenv or from uv" in done.stderr


# ----------------------------------------------------------------------------- the build


@pytest.mark.parametrize("strict", [False, True])
def test_a_warning_of_cython_fails_the_build_only_where_that_is_asked_for(
    tmp_path: Path, *, strict: bool
) -> None:
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    package = tmp_path / "src" / "jumpstarter"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    shutil.copy(ROOT / "src" / "jumpstarter" / "_version.py", package)
    (package / "_framing.pyx").write_text("def function():\n    cdef int idle\n")
    environment = {**os.environ, "JUMPSTARTER_STRICT": "1" if strict else "0"}
    done = subprocess.run(
        [sys.executable, "setup.py", "--version"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    said = done.stdout + done.stderr
    assert "Unused entry 'idle'" in said
    assert (done.returncode != 0) is strict, said


def test_nothing_is_fetched_to_build() -> None:
    """Each build uses only locked packages, except the one of `make test-latest`, which says so."""
    makefile = (ROOT / "Makefile").read_text().replace("\\\n", "")
    ours = re.compile(r"(INSTALL\)|pip wheel).* \.$")
    builds = [line for line in makefile.splitlines() if ours.search(line)]
    assert len(builds) == 5
    for line in builds:
        assert {"--no-index", "--no-build-isolation", "--no-deps"} <= set(line.split()), line
    others = [line for line in makefile.splitlines() if "--requirement" in line]
    assert len(others) == 8
    assert all("--require-hashes" in line for line in others)


CI: Final = (ROOT / ".ci" / "run").read_text()
GATES: Final = re.findall(r'(?:^|"|&& )gate ([a-z-]+(?: \w+=\w+)?)', CI, re.MULTILINE)


def test_ci_sets_the_switch_and_runs_each_lane() -> None:
    assert "export JUMPSTARTER_STRICT=1" in CI
    lanes = {"build", "test COVERAGE=1", "test-lowest", "sanitize", "fuzz"}
    published = {"compat-quick", "compat-real", "compat-install"}
    checks = {"lint", "types", "verify-types", "docs", "instructions"}
    assert set(GATES) == lanes | published | checks
    # Each failure counts.
    assert not re.search(r'(^|"|&& )gate [^&\n]*(;|\|\|)', CI, re.MULTILINE)
    assert "make test-latest || true" in CI


@pytest.mark.parametrize("failing", [*(gate.split()[0] for gate in GATES), "test-latest"])
def test_each_gate_that_fails_fails_ci(tmp_path: Path, failing: str) -> None:
    shutil.copytree(ROOT / ".ci", tmp_path / ".ci")
    (tmp_path / "build").mkdir()
    make = tmp_path / "make"
    make.write_text(f'#!/bin/sh\nif [ "$1" = {failing} ]; then exit 2; fi\n')
    make.chmod(0o755)
    done = subprocess.run(
        [tmp_path / ".ci" / "run"],
        env={**os.environ, "PATH": os.pathsep.join([str(tmp_path), os.environ["PATH"]])},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    verdict = done.stdout.splitlines()[-1]
    if failing == "test-latest":
        assert (done.returncode, verdict.startswith("all gates passed")) == (0, True)
    else:
        assert (done.returncode, verdict.startswith("A GATE FAILED")) == (2, True)
        assert f"make {failing}: passed" not in done.stdout


def run_beside(*commands: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ROOT / ".ci" / "beside", *commands],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_one_of_several_commands_that_fails_fails_all(failing: int) -> None:
    commands = ["echo first", "echo second", "echo third"]
    commands[failing] += "; exit 3"
    done = run_beside(*commands)
    assert (done.returncode, done.stderr) == (3, "")
    assert done.stdout.splitlines() == ["third", "first", "second"]


def test_commands_run_beside_each_other(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)  # each end waits for the other one
    done = run_beside(f"echo hello >{fifo}", f"cat {fifo}")
    assert (done.returncode, done.stdout) == (0, "hello\n")


def test_a_signal_ends_commands_that_run_beside_others(tmp_path: Path) -> None:
    started, open_while_alive = tmp_path / "started", tmp_path / "alive"
    os.mkfifo(started)
    os.mkfifo(open_while_alive)
    script = f"exec 3>{open_while_alive}; echo >{started}; sleep 1000"
    process = subprocess.Popen([ROOT / ".ci" / "beside", script, f"cat {started}; kill $PPID"])
    assert open_while_alive.read_bytes() == b""  # when the shell and its child have ended
    assert process.wait(PATIENCE) == 143


@pytest.mark.parametrize("target", ["check", "lane", "test-latest", "sanitize", "soak", "stress"])
def test_a_target_names_tests_that_are_there(target: str) -> None:
    done = subprocess.run(
        [shutil.which("make") or "make", "--dry-run", target],
        cwd=ROOT,
        env={**os.environ, "MAKEFLAGS": ""},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    named = set(re.findall(r"(?<!\S)tests/\S+", done.stdout))
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []
