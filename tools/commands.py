"""Run the commands that a release needs, and find out where the project is."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

__all__ = [
    "ROOT",
    "Failed",
    "find_python",
    "output_of",
    "package_version",
    "run",
    "settings",
    "tracked_files",
]

ROOT: Final = Path(__file__).parents[1]
MINUTES: Final = 20  # for one command, on a slow and busy machine


class Failed(Exception):
    """A step did not do what it should; the message says which and why."""


def run(
    *command: str | Path, cwd: Path = ROOT, variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command, and return its result whether it succeeds or fails.

    Args:
        command: The program and its arguments.
        cwd: The directory to run it in.
        variables: Environment variables to set, or to replace.

    Returns:
        The result, with the output and the error output as one text in `stdout`.
    """
    return subprocess.run(
        [str(each) for each in command],
        cwd=cwd,
        env={**os.environ, **(variables or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60 * MINUTES,
        check=False,
    )


def output_of(
    *command: str | Path, cwd: Path = ROOT, variables: Mapping[str, str] | None = None
) -> str:
    """Run a command that must succeed, and return its output.

    Raises:
        Failed: The command failed; the message has its output.
    """
    done = run(*command, cwd=cwd, variables=variables)
    if done.returncode != 0:
        line = " ".join(map(str, command))
        raise Failed(f"`{line}` failed in {cwd} (exit {done.returncode}):\n{done.stdout}")
    return done.stdout


def tracked_files(root: Path = ROOT) -> list[str]:
    """Return the files that git tracks and that exist, relative to the checkout."""
    listed = output_of("git", "ls-files", "-z", cwd=root).split("\0")
    return [name for name in listed if name and (root / name).is_file()]


def package_version(root: Path = ROOT) -> str:
    """Return the version in `src/jumpstarter/_version.py`, the only place that has it."""
    path = root / "src" / "jumpstarter" / "_version.py"
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "__version__":
            assert node.value is not None
            return str(ast.literal_eval(node.value))
    raise Failed(f"{path} assigns no __version__")


def settings(root: Path = ROOT) -> dict[str, Any]:
    """Return the contents of pyproject.toml."""
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))


def find_python(version: str) -> Path:
    """Return the interpreter for a version, or for a path, as `make test-all` finds it."""
    return Path(output_of(ROOT / ".ci" / "python", version).splitlines()[-1])


def fail(reason: Failed) -> None:
    """Print why a program failed, and exit with code 1."""
    print(reason, file=sys.stderr)
    raise SystemExit(1)
