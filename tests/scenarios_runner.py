"""Run the shell scripts in `tests/scenarios`, each in a directory of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

__all__ = ["SCENARIOS", "run_scenario", "scenarios_in"]

SCENARIOS: Final = Path(__file__).parent / "scenarios"
_PATIENCE: Final = 210.0  # seconds, less than pytest's timeout; each starts about twenty processes


def scenarios_in(directory: Path) -> list[Path]:
    """Return the scripts of a directory."""
    return sorted(path for path in directory.glob("*.sh") if path.name != "common.sh")


def run_scenario(script: Path, directory: Path, *, seconds: float = _PATIENCE) -> None:
    """Run a script, and fail with its output unless it succeeds.

    Args:
        script: The script.
        directory: An empty directory.
        seconds: When it is killed.
    """
    scripts = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
        "SCENARIOS": str(SCENARIOS),
        "SHELL": "/bin/sh",
        "HOME": str(directory),
    }
    for name in list(environment):
        if name.startswith(("JMP_", "JUMPSTARTER_", "PYTEST_")):
            del environment[name]
    output = directory / "output"
    with (
        output.open("w") as file,
        subprocess.Popen(
            ["/bin/sh", "-eu", str(script)],
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as process,
    ):
        try:
            code: int | None = process.wait(seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            with contextlib.suppress(ProcessLookupError):  # of what the script has left running
                os.killpg(process.pid, signal.SIGKILL)
    ended = f"did not end in {seconds:g} s" if code is None else f"ended with {code}"
    assert code == 0, f"{script.name} {ended}:\n{output.read_text()}"
