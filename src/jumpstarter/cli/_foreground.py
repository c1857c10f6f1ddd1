"""Run a program in the foreground for the user, while this process goes on with its own work.

On a terminal the program gets a process group of its own, and the terminal's foreground, as a shell
gives them to a job. So Ctrl-C reaches the program, and not the exporter and the programs of its
drivers; and if the program is stopped (Ctrl-Z, or `suspend` in a shell), this process stops too,
and both continue together. If stdin or stdout is something else, another program of a pipeline may
need the terminal, so the program stays in the group of this process.

SIGTERM, SIGHUP, SIGINT and SIGQUIT of this process are passed to the program, unless the terminal
has sent the signal to both. The main thread waits for signals at a pipe, since a signal may arrive
in any thread, and only a byte in the pipe is sure to wake this one.

This module knows neither drivers nor exporters.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType, TracebackType
from typing import Any, Final, Self

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["Files", "SignalInbox", "Terminal", "run_in_foreground"]

_NOT_FOUND: Final = 127  # exit codes, as of a shell
_NOT_EXECUTABLE: Final = 126
_PASSED: Final = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)
_OF_THE_KEYBOARD: Final = {signal.SIGINT, signal.SIGQUIT}
_ON_THE_TERMINAL: Final = {signal.SIGTTIN, signal.SIGTTOU}
# A shell that gets SIGHUP just before it reads a command can miss it until the next signal: bash
# notes the signal in its handler, and then sleeps in read().
_HANG_UPS: Final = 3
_HANG_UP_INTERVAL: Final = 1.0  # seconds


class Files:
    """The standard files of this process, kept for the program.

    Afterwards stdin of this process is the null device, so that no driver, and no program of one,
    reads what the user types. `close` undoes it.
    """

    def __init__(self) -> None:
        _flush()
        self.stdin, self.stdout, self.stderr = (_copy_of(number) for number in range(3))
        _point(0, os.devnull)

    def silence(self) -> None:  # pragma: no cover - at a terminal
        """Discard what this process prints from now on, so that it garbles no terminal."""
        _point(1, os.devnull)
        _point(2, os.devnull)

    def write(self, text: str) -> None:  # pragma: no cover - at a terminal
        """Write a text to the real stdout.

        Raises:
            OSError: Writing failed.
        """
        data = text.encode(errors="surrogateescape")
        while data:
            data = data[os.write(self.stdout, data) :]

    def write_line(self, text: str) -> None:  # pragma: no cover - at a terminal
        """Write a line to the real stdout; see `write`."""
        self.write(f"{text}\n")

    def close(self) -> None:
        """Let this process use its standard files again."""
        _flush()
        for number, kept in enumerate((self.stdin, self.stdout, self.stderr)):
            os.dup2(kept, number)
            os.close(kept)


def _flush() -> None:
    for text in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # AttributeError: None
            text.flush()


def _copy_of(number: int) -> int:
    try:
        return os.dup(number)
    except OSError:  # it is closed
        return os.open(os.devnull, os.O_RDWR)


def _point(number: int, path: str) -> None:
    opened = os.open(path, os.O_RDWR)
    os.dup2(opened, number)
    if opened != number:
        os.close(opened)


class SignalInbox:
    """Handles signals for the length of a `with` block, in the main thread.

    Until `collect` is called, SIGTERM, SIGHUP and SIGINT raise KeyboardInterrupt, which cancels a
    start. From then on they wait for `wait`. A signal that was ignored when the block began, as by
    `nohup`, stays ignored, here and in the program.

    Attributes:
        interrupted: The signal that has raised KeyboardInterrupt; None until then.
    """

    interrupted: signal.Signals | None = None

    def __init__(self) -> None:
        self._raises = True
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        os.set_blocking(self._reader, False)
        self._fd_before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        for number in (*_PASSED, signal.SIGCHLD):
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._fd_before)
        os.close(self._reader)
        os.close(self._writer)

    def collect(self) -> None:
        """Raise no KeyboardInterrupt from now on."""
        self._raises = False

    def wait(self, seconds: float | None = None) -> set[int]:
        """Wait for signals, and return their numbers: none after these seconds."""
        ready, _, _ = select.select([self._reader], [], [], seconds)
        return {*os.read(self._reader, 4096)} if ready else set()

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self._raises and number != signal.SIGCHLD:
            self._raises = False  # one is enough: the next must not interrupt the cleanup
            self.interrupted = signal.Signals(number)
            raise KeyboardInterrupt


class Terminal:  # pragma: no cover - of a process that has a terminal, as tests start some
    """The terminal whose foreground this process has.

    Its modes and its foreground are those of the program while that runs, and those of before
    while it is stopped and after its end.

    Args:
        number: The terminal's file descriptor.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        self._ours = termios.tcgetattr(number)
        self._theirs = self._ours

    @classmethod
    def of(cls, files: Files) -> Terminal | None:
        """Return the terminal on stdin and stdout, or None if there is none for this process."""
        try:
            ours = os.tcgetpgrp(files.stdin) == os.getpgrp()
            return cls(files.stdin) if ours and os.isatty(files.stdout) else None
        except (OSError, termios.error):
            return None

    def is_ours(self) -> bool:
        """Return True if this process has the foreground."""
        with contextlib.suppress(OSError):
            return os.tcgetpgrp(self._number) == os.getpgrp()
        return False

    def is_of(self, group: int) -> bool:
        """Return True if a process group has the foreground."""
        with contextlib.suppress(OSError):
            return os.tcgetpgrp(self._number) == group
        return False

    def give(self, group: int) -> None:
        """Give the foreground to the program, with the modes that it had last."""
        self._set(group, self._theirs)

    def take(self) -> None:
        """Take the foreground back, with the modes of before."""
        with contextlib.suppress(termios.error):
            self._theirs = termios.tcgetattr(self._number)
        self._set(os.getpgrp(), self._ours)

    def _set(self, group: int, modes: list[Any]) -> None:
        # Both calls stop a background process, unless it blocks SIGTTOU. Both fail if the terminal
        # is gone, and tcsetpgrp also if the group has ended.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
        try:
            with contextlib.suppress(OSError):
                os.tcsetpgrp(self._number, group)
            with contextlib.suppress(termios.error):
                termios.tcsetattr(self._number, termios.TCSANOW, modes)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def run_in_foreground(
    command: Sequence[str],
    environment: Mapping[str, str],
    files: Files,
    inbox: SignalInbox,
    *,
    hang_up: bool = False,
) -> int:
    """Run a program until it ends. Blocks; call it in the main thread.

    Args:
        command: The program and its arguments. PATH of the environment is searched.
        environment: Its environment.
        files: Its standard files.
        inbox: The signals of this process.
        hang_up: Pass SIGHUP to it instead of SIGTERM, which an interactive shell ignores, and
            repeat it twice, a second apart, while the program runs.

    Returns:
        Its exit code; 128 + N if signal N has ended it; 127 if it was not found, and 126 if it
        cannot be executed, both with a line on its stderr.
    """
    inbox.collect()
    terminal = Terminal.of(files)
    with _terminal_kept(terminal):
        try:
            # Not a context manager: leaving it would wait without passing signals.
            process = subprocess.Popen(  # noqa: S603 - the user's own command
                command,
                env=environment,
                stdin=files.stdin,
                stdout=files.stdout,
                stderr=files.stderr,
                process_group=None if terminal is None else 0,
            )
        except OSError as exc:
            return _explain(exc, command[0], environment, files)
        if terminal is not None:
            terminal.give(process.pid)
        _Job(process, terminal, hang_up=hang_up).wait(inbox)
    code = process.returncode
    return 128 - code if code < 0 else code


@contextlib.contextmanager
def _terminal_kept(terminal: Terminal | None) -> Iterator[None]:
    try:
        yield
    finally:
        if terminal is not None:
            terminal.take()


def _explain(exc: OSError, name: str, environment: Mapping[str, str], files: Files) -> int:
    """Say why a program cannot be run, and return the exit code."""
    is_missing = isinstance(exc, FileNotFoundError)
    if is_missing and shutil.which(name, path=environment.get("PATH")) is not None:
        why, code = "its interpreter is not there", _NOT_EXECUTABLE
    elif is_missing:
        why, code = "not found", _NOT_FOUND
    else:
        why, code = exc.strerror or str(exc), _NOT_EXECUTABLE
    os.write(files.stderr, f"{name}: {why}\n".encode(errors="surrogateescape"))
    return code


class _Job:
    """The running program."""

    def __init__(
        self, process: subprocess.Popen[bytes], terminal: Terminal | None, *, hang_up: bool
    ) -> None:
        self._process = process
        self._terminal = terminal
        self._hang_up = hang_up
        self._hang_ups_left = 0  # how often SIGHUP is repeated

    def wait(self, inbox: SignalInbox) -> None:
        """Pass signals to the program until it has ended."""
        while self._process.poll() is None:
            if self._terminal is not None:
                self._follow_stop(self._terminal)
            arrived = inbox.wait(_HANG_UP_INTERVAL if self._hang_ups_left else None)
            for number in arrived & {*_PASSED}:
                self._pass(number)
            if not arrived:
                self._hang_ups_left -= 1
                self._pass(signal.SIGHUP)

    def _pass(self, number: int) -> None:
        if number in _OF_THE_KEYBOARD and self._terminal is None and _is_in_foreground():
            return  # the terminal has sent it to the program too
        if number == signal.SIGTERM and self._hang_up:
            number = signal.SIGHUP
            self._hang_ups_left = _HANG_UPS - 1
        self._send(number)
        if number in {signal.SIGTERM, signal.SIGHUP}:
            self._send(signal.SIGCONT)  # a stopped program would not notice

    def _send(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            if self._terminal is None:
                self._process.send_signal(number)
            else:
                os.killpg(self._process.pid, number)

    def _follow_stop(self, terminal: Terminal) -> None:  # pragma: no cover - at a terminal
        """If the program has stopped, stop this process too, and continue both afterwards."""
        pid = self._process.pid
        try:
            stopped = os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOHANG)
        except (ChildProcessError, AttributeError):  # it has ended; macOS before Python 3.13
            return
        if stopped is None:
            return
        has_terminal = terminal.is_of(pid)
        # A program that needs the terminal may be faster than the call that gives it.
        if not (stopped.si_status in _ON_THE_TERMINAL and (has_terminal or terminal.is_ours())):
            if has_terminal:
                terminal.take()
            _stop_our_group()
        if terminal.is_ours():  # not if it was continued in the background
            terminal.give(pid)
        self._send(signal.SIGCONT)


def _is_in_foreground() -> bool:
    """Return True if the keys of a terminal send signals to this process."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:  # there is none
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


def _stop_our_group() -> None:  # pragma: no cover - at a terminal
    """Stop this process and its group, as Ctrl-Z would, until a shell continues them.

    The system discards the signal if no shell is there that could continue them.
    """
    before = signal.signal(signal.SIGTSTP, signal.SIG_IGN)
    try:
        os.kill(0, signal.SIGTSTP)  # the others
        signal.signal(signal.SIGTSTP, before)
        # This thread does not go on before the signal has been delivered to it.
        signal.pthread_kill(threading.get_ident(), signal.SIGTSTP)
    finally:
        signal.signal(signal.SIGTSTP, before)
