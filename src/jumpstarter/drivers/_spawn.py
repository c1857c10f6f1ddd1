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
import logging
import os
import resource
import signal
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, cast

import trio

from .._util.fork import close_in_children, no_fork
from .._util.stderr_log import start_daemon_thread
from ..errors import ConfigurationError

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = [
    "FIRST_FREE",
    "Program",
    "check_words",
    "end_program",
    "keep",
    "pipe",
    "spawn",
    "start_program",
]

_TERM_GRACE: Final = 5.0  # seconds between SIGTERM and SIGKILL
_STANDARD: Final = 3  # how many descriptors every program has: stdin, stdout and stderr
FIRST_FREE: Final = 4  # the first number after those that a program may start with
_POLL: Final = 0.02  # seconds between two checks for a program's end, on systems without pidfd
_DESCRIPTORS: Final = Path("/dev/fd")  # lists this process's descriptors; on Linux it needs /proc
# Descriptors that are tried one by one where that directory is missing: about 50 ms. Containers
# allow up to 2**30, which would take minutes.
_MAX_TRIED: Final = 65_536


class Program:
    """A running program, the leader of its own session and process group.

    Attributes:
        pid: Its process id, and the id of its group.
        stdin: A stream to its standard input; None if that is empty.
        stdout: A stream of its standard output.
        stderr: A stream of its standard error, which is empty for an interactive program.
        ended: True once `wait` has seen it end, with or without an exit code.
    """

    def __init__(
        self, pid: int, stdin: int | None, stdout: int, stderr: int, pidfd: int | None
    ) -> None:
        self.pid: int = pid
        self.stdin: trio.lowlevel.FdStream | None = None
        if stdin is not None:
            self.stdin = trio.lowlevel.FdStream(stdin)
            close_in_children(self.stdin)
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


async def spawn(
    words: list[str], *, interactive: bool = False, environment: Mapping[str, str] | None = None
) -> Program:
    """Start a program. A checkpoint.

    Args:
        words: The program, found in PATH, and its arguments.
        interactive: Connect its stdin, which is empty otherwise, and send its stderr to its stdout.
        environment: Its environment; by default that of this process.

    Raises:
        ChildProcessError: SIGCHLD is ignored, so the exit code would be lost; nothing was started.
        OSError: The program cannot be started.
    """
    if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
        text = "it was not started: SIGCHLD is ignored in this process, so the system would "
        text += "discard its exit code; call signal.signal(signal.SIGCHLD, signal.SIG_DFL) before"
        raise ChildProcessError(errno.ECHILD, text)
    return await trio.to_thread.run_sync(_spawn, words, interactive, environment)


def _spawn(words: list[str], interactive: bool, environment: Mapping[str, str] | None) -> Program:
    # A child forked meanwhile would keep the pipes open after the program has ended.
    with no_fork(), ExitStack() as ours, ExitStack() as theirs:
        stdin: int | None = None
        if interactive:
            stdin_end, stdin = pipe(theirs, ours)
        else:
            stdin_end = keep(os.open(os.devnull, os.O_RDONLY), theirs)
        stdout, stdout_end = pipe(ours, theirs)
        stderr, stderr_end = pipe(ours, theirs)
        pid = start_program(
            words,
            [stdin_end, stdout_end, stdout_end if interactive else stderr_end],
            environment=environment,
        )
        ours.pop_all()  # from here on the Program owns our ends
        return Program(pid, stdin, stdout, stderr, _pidfd(pid))


def start_program(
    words: list[str],
    descriptors: Sequence[int],
    blocked: Iterable[signal.Signals] = (),
    *,
    environment: Mapping[str, str] | None = None,
) -> int:
    """Start a program in a session of its own, with default signal dispositions. Does not wait.

    Args:
        words: The program, found in PATH, and its arguments.
        descriptors: What it has open: its descriptors 0, 1, 2 and so on. Each of these numbers is
            `FIRST_FREE` or more, so that none is replaced before it is copied.
        blocked: The signals that it starts with blocked.
        environment: Its environment; by default that of this process.

    Returns:
        Its process id.

    Raises:
        OSError: It cannot be started.
    """
    return os.posix_spawnp(
        words[0],
        words,
        os.environ if environment is None else environment,
        file_actions=[
            *((os.POSIX_SPAWN_CLOSE, number) for number in _inheritable()),
            *((os.POSIX_SPAWN_DUP2, number, each) for each, number in enumerate(descriptors)),
        ],
        setsid=True,
        setsigmask=blocked,
        setsigdef=signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP},
    )


def pipe(ours: ExitStack, theirs: ExitStack) -> tuple[int, int]:
    """Make a pipe, and give its read end to one stack and its write end to the other.

    Returns:
        The two ends, as `keep` returns them.
    """
    reader, writer = os.pipe()
    try:
        reader = keep(reader, ours)
    except OSError:
        os.close(writer)
        raise
    return reader, keep(writer, theirs)


def keep(number: int, stack: ExitStack) -> int:
    """Have a stack close a descriptor, and give it a number that no program starts with.

    Returns:
        Its number, `FIRST_FREE` or more.
    """
    if number < FIRST_FREE:
        try:
            moved = fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, FIRST_FREE)
        finally:
            os.close(number)
        number = moved
    stack.callback(os.close, number)
    return number


def _inheritable() -> list[int]:
    """List the descriptors that `exec` would leave open, except the standard streams."""
    found = []
    for number in _open_descriptors():
        with suppress(OSError):  # closed by now, or never open
            if number >= _STANDARD and os.get_inheritable(number):
                found.append(number)
    return found


def _open_descriptors() -> list[int] | range:
    """List the numbers of all open descriptors, perhaps with some that are not open."""
    try:
        return [int(entry.name) for entry in _DESCRIPTORS.iterdir()]
    except OSError:  # no /proc, as in a chroot or a minimal container
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        count = _MAX_TRIED if soft == resource.RLIM_INFINITY else min(soft, _MAX_TRIED)
        return range(_STANDARD, count)


def _pidfd(pid: int) -> int | None:
    if hasattr(os, "pidfd_open"):
        with suppress(OSError):
            return os.pidfd_open(pid)
    return None


async def end_program(program: Program, title: str, logger: logging.Logger) -> None:
    """End a command and its process group, unless it has ended.

    A command that changed its user, like one that runs under `sudo`, may not be signalled: the log
    says so, and a thread reaps it when it ends.
    """
    if program.ended:
        return
    try:
        with trio.CancelScope(shield=True):
            await _end_group(program)
    except ProcessLookupError:
        pass  # the whole group is gone
    except PermissionError as exc:
        text = "cannot end %s (process %d), which runs on: %s"
        logger.warning(text, title, program.pid, exc.strerror)
        if not program.ended:
            start_daemon_thread(partial(_reap_blocking, program.pid), "jumpstarter-reap")


async def _end_group(program: Program) -> None:
    """Send SIGTERM, and then SIGKILL, to a command's group, and reap the command.

    Raises:
        ProcessLookupError: None of the group is left.
        PermissionError: This process may not signal the command, or may signal none of its group.
    """
    os.killpg(program.pid, signal.SIGTERM)
    with trio.move_on_after(_TERM_GRACE):
        await _reap(program)
        while True:  # its children have no other parent here that could wait for them
            os.killpg(program.pid, 0)
            await trio.sleep(_TERM_GRACE / 100)
    os.killpg(program.pid, signal.SIGKILL)
    if not program.ended:
        # killpg succeeds if it reached any of the group. If the command itself may not be
        # signalled, this raises, rather than wait for it without end.
        os.kill(program.pid, signal.SIGKILL)
    await _reap(program)


async def _reap(program: Program) -> None:
    with suppress(ChildProcessError):  # after a cancellation, the exit code is not needed
        await program.wait()


def _reap_blocking(pid: int) -> None:
    with suppress(ChildProcessError):  # other code in this process waits for all children
        os.waitpid(pid, 0)


def check_words(name: str, command: object) -> list[str]:
    """Check that a configured command is a list of words. Only a shell could split a text.

    Args:
        name: Names the command in the error.
        command: The command.

    Raises:
        ConfigurationError: It is not such a list.
    """
    is_list = isinstance(command, Sequence) and not isinstance(command, str | bytes)
    words = list(cast("Sequence[Any]", command)) if is_list else []
    if not words or not all(isinstance(word, str) for word in words):
        text = f"{name} must be a list of the program and its arguments, all texts"
        raise ConfigurationError(f"{text}, not {command!r}")
    return words
