"""Processes that tests start: each has a deadline, so that to wait for one is never to hang."""

from __future__ import annotations

import contextlib
import subprocess
import threading
from collections.abc import Iterator, Sequence
from typing import Any, Final

PATIENCE: Final = 60.0  # seconds for what takes a few, on a machine that does other things too


@contextlib.contextmanager
def running(
    command: Sequence[str], *, seconds: float = PATIENCE, **options: Any
) -> Iterator[subprocess.Popen[Any]]:
    """Run a process for the length of a block; what is left of it then is killed.

    Past its deadline it is killed too: who reads from it reads the end, who waits for it goes on,
    and the block fails.

    Args:
        command: The program and its arguments.
        seconds: The deadline.
        options: As `subprocess.Popen` takes them; its pipes carry text unless `text` is False.
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
