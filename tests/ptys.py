"""Play a user in front of a terminal: a pseudo-terminal, and what is typed into it and read."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final

from helpers import PATIENCE
from processes import running

__all__ = ["User", "at_a_terminal", "user"]

# Makes the terminal at its stdin the controlling one, as for a login, and runs the arguments as a
# shell runs a job: in the foreground, in a process group of its own. It reports a stop on stdout,
# which is not the terminal, with the line mode of the terminal; a line on stdin continues the job.
_SHELL: Final = """
import os, signal, sys, termios
real_in, real_out = os.dup(0), os.dup(1)
os.login_tty(int(sys.argv[1]))
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
job = os.fork()
if job == 0:
    os.setpgid(0, 0)
    os.tcsetpgrp(0, os.getpid())
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)
    os.close(real_in), os.close(real_out)
    os.execv(sys.argv[2], sys.argv[2:])
os.write(real_out, b"job %d\\n" % job)
while True:
    _, status = os.waitpid(job, os.WUNTRACED)
    os.tcsetpgrp(0, os.getpgrp())
    if not os.WIFSTOPPED(status):
        code = os.waitstatus_to_exitcode(status)
        os.write(real_out, b"ended %d\\n" % code)
        break
    cooked = bool(termios.tcgetattr(0)[3] & termios.ICANON)
    os.write(real_out, b"stopped %d\\n" % cooked)
    os.read(real_in, 100)
    os.tcsetpgrp(0, job)
    os.kill(job, signal.SIGCONT)
os.read(real_in, 100)  # the terminal is hung up when its session's leader ends
"""


class User:
    """A user at a terminal.

    Attributes:
        line: The descriptor of the terminal, for programs.
        seen: All bytes that programs have written to it and the user has read.
        give_up: Set to end a `see` in another thread.
    """

    def __init__(self) -> None:
        self._far_end, self.line = os.openpty()
        self.seen = b""
        self.give_up = False
        self._taken = 0
        self._mode = self.mode()

    def mode(self) -> list[Any]:
        """Return the terminal's settings."""
        return termios.tcgetattr(self.line)

    def is_restored(self) -> bool:
        """Return whether the settings are those of the beginning."""
        return self.mode() == self._mode

    def reset(self) -> None:
        """Restore the settings of the beginning, as a shell does before its prompt."""
        termios.tcsetattr(self.line, termios.TCSANOW, self._mode)

    def is_raw(self) -> bool:
        """Return whether the terminal is in raw mode."""
        return not self.mode()[3] & termios.ICANON

    def wait_raw(self) -> None:
        """Wait until a program has switched the terminal to raw mode."""
        deadline = time.monotonic() + PATIENCE
        while not self.is_raw():
            assert time.monotonic() < deadline, "the terminal is not in raw mode"
            time.sleep(0.01)

    def type(self, data: bytes) -> None:
        """Type bytes."""
        assert os.write(self._far_end, data) == len(data)

    def see(self, text: bytes) -> bytes:
        """Read until a text has come since the last call, and return everything up to it."""
        deadline = time.monotonic() + PATIENCE
        while (at := self.seen.find(text, self._taken)) < 0:
            left = deadline - time.monotonic()
            if left <= 0 or self.give_up:
                raise AssertionError(f"{text!r} has not come, but {self.seen[self._taken :]!r}")
            if select.select([self._far_end], [], [], min(left, 0.1))[0]:
                self.seen += os.read(self._far_end, 65536)
        begin, self._taken = self._taken, at + len(text)
        return self.seen[begin : self._taken]

    def hang_up(self) -> None:
        """Close the terminal's window."""
        os.close(self._far_end)
        self._far_end = -1

    def close(self) -> None:
        """Close the descriptors."""
        for fd in (self.line, self._far_end):
            with suppress(OSError):
                os.close(fd)


@contextmanager
def user() -> Iterator[User]:
    """Make a terminal, for the length of a block."""
    someone = User()
    try:
        yield someone
    finally:
        someone.close()


class Job:
    """A program in the foreground of a terminal.

    Attributes:
        pid: Its process id.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        assert process.stdin is not None
        self._process = process
        self._out = process.stdout
        self._in = process.stdin
        self.pid = int(self._event("job"))

    def _event(self, kind: str) -> str:
        line = self._out.readline()
        assert line.startswith(kind), f"no {kind!r}, but {line!r}"
        return line.split()[1]

    def wait_stopped(self) -> bool:
        """Wait until it has stopped, and return whether the terminal is in line mode then."""
        return self._event("stopped") == "1"

    def proceed(self) -> None:
        """Continue it in the foreground, as `fg` does."""
        self._in.write("\n")
        self._in.flush()

    def wait(self) -> int:
        """Wait until it has ended, and return its exit code, or -N if signal N killed it."""
        return int(self._event("ended"))


@contextmanager
def at_a_terminal(someone: User, arguments: Sequence[str], **options: Any) -> Iterator[Job]:
    """Run `python ARGUMENTS` as the foreground job of a user's terminal, for the block."""
    line = str(someone.line)
    command = [sys.executable, "-c", _SHELL, line, sys.executable, *arguments]
    pipe = subprocess.PIPE
    with running(
        command,
        seconds=4 * PATIENCE,
        stdin=pipe,
        stdout=pipe,
        pass_fds=[someone.line],
        start_new_session=True,
        **options,
    ) as process:
        yield Job(process)
