"""How much memory a process has, as Linux counts it. Elsewhere there are no such measures."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

__all__ = ["forget_peak", "peak", "resident"]

PAGE: Final = 4096  # bytes; the least that is counted


def resident(pid: int) -> int:
    """Give the bytes that are resident now; 0 if nobody says."""
    return _read(pid, "VmRSS")


def peak(pid: int) -> int:
    """Give the most that was resident since `forget_peak`."""
    return _read(pid, "VmHWM")


def forget_peak(pid: int) -> None:
    """Let what is resident now be the most there was; where that is not allowed, nothing."""
    try:
        Path(f"/proc/{pid}/clear_refs").write_text("5")
    except OSError:
        return  # then the peak is that of the whole life, start included


def _read(pid: int, name: str) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(rf"^{name}:\s+(\d+) kB$", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0
