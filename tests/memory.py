"""Measure the peak memory of this process, for tests of bombs and floods."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

import pytest

__all__ = ["measured_here", "peak_memory"]

KIB: Final = 1024

OWN: Final = Path("/proc/self")

measured_here: Final = pytest.mark.skipif(
    not os.access(OWN / "clear_refs", os.W_OK),
    reason="only Linux reports the peak, and can reset it",
)


def peak_memory(*, reset: bool = False) -> int:
    """Return the peak of resident memory since the last reset, in bytes."""
    if reset:
        (OWN / "clear_refs").write_text("5")
    (kib,) = re.findall(r"VmHWM:\s+(\d+) kB", (OWN / "status").read_text())
    return int(kib) * KIB
