"""Measure the peak memory of this process, for tests of bombs and floods.

Such a test runs `@alone`, since the peak of a process with a history depends on that history.
"""

from __future__ import annotations

import ctypes
import gc
import os
import re
from pathlib import Path
from typing import Final

import pytest

__all__ = ["measured_here", "peak_memory", "set_growth"]

KIB: Final = 1024
MIB: Final = 1024 * KIB
OWN: Final = Path("/proc/self")
# Of the C library's headers.
PR_SET_THP_DISABLE: Final = 41
M_TRIM_THRESHOLD: Final = -1
M_MMAP_THRESHOLD: Final = -3

measured_here: Final = pytest.mark.skipif(
    not os.access(OWN / "clear_refs", os.W_OK),
    reason="only Linux reports the peak, and can reset it",
)


def peak_memory(*, reset: bool = False) -> int:
    """Return the peak of resident memory since the last reset, in bytes.

    A reset returns free memory to the system first, so that its use counts again. It also excludes
    what the machine adds: huge pages, which count in full when a byte of them is used, and the
    counters of several processors, which the kernel adds up only roughly.
    """
    if reset:
        gc.collect()
        libc = ctypes.CDLL(None)
        if hasattr(libc, "malloc_trim"):  # of glibc
            libc.malloc_trim(0)
        libc.prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        (OWN / "clear_refs").write_text("5")
    (kib,) = re.findall(r"VmHWM:\s+(\d+) kB", (OWN / "status").read_text())
    return int(kib) * KIB


def set_growth(how: str) -> None:
    """Decide how a large block of memory grows in this process: "moved" or "copied".

    The kernel can move its pages, which takes no memory. But in its heap glibc copies a block that
    has no space behind it, and then both take memory for a moment. Which blocks it keeps there
    depends on the blocks that the program has freed before, unless these thresholds are set.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        pytest.skip("only glibc has these thresholds")
    smallest_moved = 128 * KIB if how == "moved" else 15 * MIB
    assert libc.mallopt(M_MMAP_THRESHOLD, smallest_moved) == 1
    assert libc.mallopt(M_TRIM_THRESHOLD, 128 * KIB) == 1
