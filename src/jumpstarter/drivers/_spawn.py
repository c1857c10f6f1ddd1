"""Programs as children, with default signals, an empty mask, and an exit code that is true.

`subprocess` hands on what the process ignores and blocks, and reports 0 for an exit code that it
cannot learn: where SIGCHLD is ignored, or where something else in the process waits for all
children. A driver may run in a process that does any of this, so programs start by `posix_spawn`,
which sets dispositions and mask without running Python in a forked child, and a lost exit code is
an error.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

import trio

from .._util.fork import close_in_children, no_fork

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["Program", "spawn"]

_STANDARD: Final = 3  # descriptors below this are a program's stdin, stdout and stderr
_POLL: Final = 0.02  # seconds between two looks at a program, on systems without pidfd


class Program:
    """A running program, the leader of a session and a process group of its own.

    Attributes:
        pid: Its process id, and its group's.
        stdout: What it writes there.
        stderr: What it writes there.
        ended: Its end was seen, with or without its exit code.
    """

    def __init__(self, pid: int, stdout: int, stderr: int, pidfd: int | None) -> None:
        self.pid = pid
        self.stdout = trio.lowlevel.FdStream(stdout)
        self.stderr = trio.lowlevel.FdStream(stderr)
        close_in_children(self.stdout, self.stderr)
        self.ended = False
        self._pidfd = pidfd
        self._code: int | None = None

    async def wait(self) -> int:
        """Wait for its end. A checkpoint; cancelling it loses nothing.

        Returns:
            Its exit code, or -N if signal N has ended it.

        Raises:
            ChildProcessError: It has ended, and something else in this process took its exit code.
        """
        if not self.ended:
            await self._wait()
        if self._code is None:
            text = "its exit code is lost: something else in this process waits for all children"
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
        """Let go of the descriptor by which its end is noticed."""
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None


async def spawn(words: list[str]) -> Program:
    """Start a program, with nothing to read on stdin. A checkpoint.

    Args:
        words: The program, found in PATH, and its arguments.

    Raises:
        ChildProcessError: SIGCHLD is ignored, so there would be no exit code; nothing was started.
        OSError: The program cannot be started.
    """
    if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
        text = "it was not started: SIGCHLD is ignored in this process, so the system would "
        text += "discard its exit code; call signal.signal(signal.SIGCHLD, signal.SIG_DFL) before"
        raise ChildProcessError(errno.ECHILD, text)
    return await trio.to_thread.run_sync(_spawn, words)


def _spawn(words: list[str]) -> Program:
    # A child forked meanwhile would keep the pipes open when the program has ended.
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
        ours.pop_all()
        return Program(pid, stdout, stderr, _pidfd(pid))


def _pipe(ours: ExitStack, theirs: ExitStack) -> tuple[int, int]:
    """Make a pipe of which neither end has a number that a program's standard streams have."""
    ends = list(os.pipe())
    for index, (number, stack) in enumerate(zip(ends, (ours, theirs), strict=True)):
        if number < _STANDARD:
            ends[index] = fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, _STANDARD)
            os.close(number)
        stack.callback(os.close, ends[index])
    return ends[0], ends[1]


def _inheritable() -> list[int]:
    """Give the descriptors that `exec` would leave open, beside the standard streams."""
    found = []
    for entry in Path("/dev/fd").iterdir():
        with suppress(OSError):  # the one by which the directory was read is closed by now
            if (number := int(entry.name)) >= _STANDARD and os.get_inheritable(number):
                found.append(number)
    return found


def _pidfd(pid: int) -> int | None:
    if hasattr(os, "pidfd_open"):
        with suppress(OSError):
            return os.pidfd_open(pid)
    return None
