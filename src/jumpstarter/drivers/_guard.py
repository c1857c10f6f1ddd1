"""Open a pseudo-terminal to others again when the process that holds it has been killed.

This file runs as a program of its own and imports nothing of this library. The kernel clears
TIOCEXCL at the last `close()` of a serial port, but on a pseudo-terminal only when the other end
(an emulator perhaps) has closed too. So a process that holds one and is killed would leave it
closed to all others. The guard waits for that process to end, and then clears TIOCEXCL.

A service manager signals all processes of a service, so the guard must outlast the signals that
ask its parent to end. Its parent starts it with all signals blocked, so that from the first moment
only SIGKILL can end it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import sys
import termios
import time

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

_POLL = 0.2  # seconds between two checks, where the kernel cannot report a process's end


def wait_for_end(parent: int) -> None:
    """Wait until the process that started this one has ended."""
    try:
        poll = select.poll()
        poll.register(os.pidfd_open(parent), select.POLLIN)
        if os.getppid() == parent:  # checked after pidfd_open: the id may be another process's
            poll.poll()
    except (AttributeError, OSError):  # Linux before 5.3, or the parent has ended already
        while os.getppid() == parent:
            time.sleep(_POLL)


if __name__ == "__main__":
    wait_for_end(int(sys.argv[1]))
    with contextlib.suppress(OSError):
        fcntl.ioctl(int(sys.argv[2]), termios.TIOCNXCL)
