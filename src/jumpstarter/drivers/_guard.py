"""Outlives the process that holds a pseudo-terminal, to open it to others again.

Run as a program, with nothing of this library imported. The kernel forgets TIOCEXCL at the last
`close()` of a serial port, but of a pseudo-terminal only when its other end, an emulator perhaps,
has ended too. So a process that holds one and is killed would leave it closed to all others. This
one only waits for that.
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

_POLL = 0.2  # seconds, where the kernel cannot tell of a process's end


def wait_for_end(parent: int) -> None:
    """Wait until the process that has started this one has ended."""
    try:
        poll = select.poll()
        poll.register(os.pidfd_open(parent), select.POLLIN)
        if os.getppid() == parent:
            poll.poll()
    except (AttributeError, OSError):  # Linux before 5.3, or the parent has ended already
        while os.getppid() == parent:
            time.sleep(_POLL)


if __name__ == "__main__":
    wait_for_end(int(sys.argv[1]))
    with contextlib.suppress(OSError):
        fcntl.ioctl(int(sys.argv[2]), termios.TIOCNXCL)
