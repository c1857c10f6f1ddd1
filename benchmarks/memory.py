"""Read the memory use of a process from Linux's `/proc`; other systems do not report it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

__all__ = ["forget_peak", "peak", "resident"]

PAGE: Final = 4096  # bytes; the smallest growth that is reported


def resident(pid: int) -> int:
    """Return the resident bytes of a process, or 0 if the system does not report them."""
    return _read(pid, "VmRSS")


def peak(pid: int) -> int:
    """Return the peak of resident bytes since `forget_peak`, or 0 if it is not reported."""
    return _read(pid, "VmHWM")


def forget_peak(pid: int) -> None:
    """Reset the peak to the bytes that are resident now, if the system permits it."""
    try:
        Path(f"/proc/{pid}/clear_refs").write_text("5")
    except OSError:
        return  # the peak then covers the whole life of the process, including its start


def _read(pid: int, name: str) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(rf"^{name}:\s+(\d+) kB$", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0
