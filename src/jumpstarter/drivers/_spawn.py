"""Start child processes with a clean signal state and a reliable exit code.

`subprocess` passes on the signals that this process ignores or blocks, and reports 0 for an exit
code that it cannot learn: where SIGCHLD is ignored, or where other code in the process waits for
all children. A driver may run in a process that does any of this. So programs start by
`posix_spawn`, which sets dispositions and mask without running Python in a forked child, and a lost
exit code is an error.

A program moves through these states; only the task in `Program.wait()` moves it:

    state     _pidfd       ended   left by
    running   open or None False   the program ends: wait() reaps it
    reaped    None         True    -
    left      None         False   close(): nobody learns of its end
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import signal
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

import trio

from .._util.fork import close_in_children, no_fork

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["Program", "spawn"]

_FIRST_FREE: Final = 3  # the first descriptor after stdin, stdout and stderr
_POLL: Final = 0.02  # seconds between two checks for a program's end, on systems without pidfd
_DESCRIPTORS: Final = Path("/dev/fd")  # lists this process's descriptors; on Linux it needs /proc
# Descriptors that are tried one by one where that directory is missing: about 50 ms. Containers
# allow up to 2**30, which would take minutes.
_MAX_TRIED: Final = 65_536


class Program:
    """A running program, the leader of its own session and process group.

    Attributes:
        pid: Its process id, and the id of its group.
        stdout: A stream of its standard output.
        stderr: A stream of its standard error.
        ended: True once `wait` has seen it end, with or without an exit code.
    """

    def __init__(self, pid: int, stdout: int, stderr: int, pidfd: int | None) -> None:
        self.pid: int = pid
        self.stdout: trio.lowlevel.FdStream = trio.lowlevel.FdStream(stdout)
        self.stderr: trio.lowlevel.FdStream = trio.lowlevel.FdStream(stderr)
        close_in_children(self.stdout, self.stderr)
        self.ended: bool = False
        self._pidfd = pidfd
        self._code: int | None = None

    async def wait(self) -> int:
        """Wait until the program ends. A checkpoint; cancelling it loses nothing.

        Returns:
            Its exit code, or -N if signal N killed it.

        Raises:
            ChildProcessError: It ended, and other code in this process took its exit code.
        """
        if not self.ended:
            await self._wait()
        if self._code is None:
            text = "its exit code is lost: other code in this process waits for all children"
            raise ChildProcessError(errno.ECHILD, f"{text}, or ignores SIGCHLD")
        return self._code

    async def _wait(self) -> None:
        if self._pidfd is not None:
            await trio.lowlevel.wait_readable(self._pidfd)
        with suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(self.pid, os.WNOHANG)  # noqa: ASYNC222 - it does not wait
                if pid:
                    self._code = os.waitstatus_to_exitcode(status)
                    break
                await trio.sleep(_POLL)
        self.ended = True
        self.close()

    def close(self) -> None:
        """Close the descriptor that reports the program's end. No checkpoint."""
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None


async def spawn(words: list[str]) -> Program:
    """Start a program whose stdin is empty. A checkpoint.

    Args:
        words: The program, found in PATH, and its arguments.

    Raises:
        ChildProcessError: SIGCHLD is ignored, so the exit code would be lost; nothing was started.
        OSError: The program cannot be started.
    """
    if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
        text = "it was not started: SIGCHLD is ignored in this process, so the system would "
        text += "discard its exit code; call signal.signal(signal.SIGCHLD, signal.SIG_DFL) before"
        raise ChildProcessError(errno.ECHILD, text)
    return await trio.to_thread.run_sync(_spawn, words)


def _spawn(words: list[str]) -> Program:
    # A child forked meanwhile would keep the pipes open after the program has ended.
    with no_fork(), ExitStack() as ours, ExitStack() as theirs:
        stdout, stdout_end = _pipe(ours, theirs)
        stderr, stderr_end = _pipe(ours, theirs)
        pid = os.posix_spawnp(
            words[0],
            words,
            os.environ,
            file_actions=[
                *((os.POSIX_SPAWN_CLOSE, number) for number in _inheritable()),
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, stdout_end, 1),
                (os.POSIX_SPAWN_DUP2, stderr_end, 2),
            ],
            setsid=True,
            setsigmask=(),
            setsigdef=signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP},
        )
        ours.pop_all()  # from here on the Program owns our ends
        return Program(pid, stdout, stderr, _pidfd(pid))


def _pipe(ours: ExitStack, theirs: ExitStack) -> tuple[int, int]:
    """Make a pipe whose ends have numbers above those of a program's standard streams."""
    ends = list(os.pipe())
    for index, (number, stack) in enumerate(zip(ends, (ours, theirs), strict=True)):
        if number < _FIRST_FREE:
            ends[index] = fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, _FIRST_FREE)
            os.close(number)
        stack.callback(os.close, ends[index])
    return ends[0], ends[1]


def _inheritable() -> list[int]:
    """List the descriptors that `exec` would leave open, except the standard streams."""
    found = []
    for number in _open_descriptors():
        with suppress(OSError):  # closed by now, or never open
            if number >= _FIRST_FREE and os.get_inheritable(number):
                found.append(number)
    return found


def _open_descriptors() -> list[int] | range:
    """List the numbers of all open descriptors, perhaps with some that are not open."""
    try:
        return [int(entry.name) for entry in _DESCRIPTORS.iterdir()]
    except OSError:  # no /proc, as in a chroot or a minimal container
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        count = _MAX_TRIED if soft == resource.RLIM_INFINITY else min(soft, _MAX_TRIED)
        return range(_FIRST_FREE, count)


def _pidfd(pid: int) -> int | None:
    if hasattr(os, "pidfd_open"):
        with suppress(OSError):
            return os.pidfd_open(pid)
    return None
