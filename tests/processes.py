"""Run processes in tests, each with a deadline, so that waiting for one cannot hang."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

PATIENCE: Final = 60.0  # seconds for what takes a few, on a machine that does other things too


@contextlib.contextmanager
def running(
    command: Sequence[str], *, seconds: float = PATIENCE, **options: Any
) -> Iterator[subprocess.Popen[Any]]:
    """Run a process for the length of a block, and kill it at the end if it still runs.

    It is also killed at its deadline: readers of its pipes get EOF, waiting for it returns, and the
    block fails.

    Args:
        command: The program and its arguments.
        seconds: The deadline.
        options: Those of `subprocess.Popen`; pipes carry text unless `text` is False.
    """
    over = threading.Event()
    with subprocess.Popen(command, **{"text": True, **options}) as process:

        def end() -> None:
            over.set()
            process.kill()

        watchdog = threading.Timer(seconds, end)
        watchdog.start()
        try:
            yield process
        except Exception as exc:
            if over.is_set():
                exc.add_note(f"the process was killed, after {seconds:g} s: {command}")
            raise
        finally:
            watchdog.cancel()
            watchdog.join()
            process.kill()
    assert not over.is_set(), f"the process was killed, after {seconds:g} s: {command}"


@contextlib.contextmanager
def setuid_program() -> Iterator[Path]:
    """Yield a program that any user may run, and that runs a command as root. Only root can."""
    with tempfile.TemporaryDirectory(prefix="setuid-") as directory:
        place = Path(directory)
        place.chmod(0o755)
        program = Path(shutil.copy(shutil.which("setpriv") or "", place))
        program.chmod(0o4755)
        yield program
