"""Name the processes that have locked a file with `flock`. Only Linux reports them."""

from __future__ import annotations

import os
from pathlib import Path

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["lockers_of", "name_of_process"]


def name_of_process(process: int) -> str:
    """Return the name of a process in parentheses, after a blank; empty if it is not known."""
    try:
        return f" ({Path(f'/proc/{process}/comm').read_text(errors='replace').strip()})"
    except OSError:
        return ""


def lockers_of(status: os.stat_result) -> list[int]:
    """List the living processes that have a file's `flock`."""
    device = status.st_dev
    file = f"{os.major(device):02x}:{os.minor(device):02x}:{status.st_ino}"
    try:
        lines = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    except OSError:
        return []
    found = [line[4] for line in lines if line[1] == "FLOCK" and line[5] == file]
    return [int(process) for process in found if _is_alive(process)]


def _is_alive(process: str) -> bool:
    try:
        status = Path(f"/proc/{process}/stat").read_text(errors="replace")
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] not in {"Z", "X"}
