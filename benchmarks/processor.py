"""Read the processor time that a process has used, with all of its threads.

Wall time contains the waits for the processor and for other processes; processor time does not, and
so varies less on a machine that has other work.
"""

from __future__ import annotations

import time

__all__ = ["spent"]

_SCHEDULED = 2  # Linux's number for the clock that counts the time on a processor


def spent(pid: int) -> float:
    """Return the seconds of processor time of a process, or NaN if the system does not tell."""
    # Linux makes the number of a process's clock from its id; clock_getcpuclockid(3) does the same.
    try:
        return time.clock_gettime((~pid << 3) | _SCHEDULED)
    except OSError:
        return float("nan")
