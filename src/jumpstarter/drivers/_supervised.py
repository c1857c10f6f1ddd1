"""Run a program under a supervisor, and keep its output.

`_supervisor` is the program that starts it, and says why that is necessary. A thread here reads the
program's output and the supervisor's messages, for as long as the program runs.

Only that thread moves a run through these states, except that `stop` moves it to STOPPING:

    state      left by
    STARTING   it is ready: RUNNING. It ends, is stopped or takes too long: STOPPING. It cannot be
               started: ENDED
    RUNNING    it ends, or is stopped: STOPPING
    STOPPING   the program and all its descendants have ended: ENDED
    ENDED      -
"""

from __future__ import annotations

import enum
import errno
import json
import os
import re
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from .._util.checks import raise_value_error
from .._util.fork import close_in_children, close_without_fork, no_fork
from .._util.stderr_log import Descriptor, start_daemon_thread
from ._output import Changes, Tail
from ._spawn import keep, pipe, start_program

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["Program", "Readiness", "Run", "RunState", "signal_number"]

_SUPERVISOR: Final = Path(__file__).with_name("_supervisor.py")
_SIZE: Final = 64 * 1024  # bytes read in one step
_PROBE: Final = 0.05  # seconds between two attempts to connect to a program that is not ready
_CONNECT_TIMEOUT: Final = 1.0  # seconds; servers on this machine answer immediately
_LONGEST_LINE: Final = 64 * 1024  # bytes of a line that are searched for a pattern
_LOST: Final = "its supervisor was killed, and so was the program"


class RunState(enum.Enum):
    """The states of a run; the module's docstring has the table."""

    STARTING = enum.auto()
    RUNNING = enum.auto()
    STOPPING = enum.auto()
    ENDED = enum.auto()


@dataclass(frozen=True, kw_only=True)
class Readiness:
    """How to tell that a program is ready. By default, it is ready once it was started.

    Attributes:
        pattern: A regular expression that is found in a line of its output.
        address: A Unix socket's path, or a host and port, where it accepts connections.
        timeout: Seconds that it may take.
    """

    pattern: re.Pattern[bytes] | None
    address: str | tuple[str, int] | None
    timeout: float

    @property
    def is_immediate(self) -> bool:
        """True if a program that was started is ready."""
        return self.pattern is None and self.address is None

    def can_connect(self) -> bool:
        """Return whether a server accepts connections at the address."""
        family = socket.AF_UNIX if isinstance(self.address, str) else socket.AF_INET
        with no_fork():
            sock = socket.socket(family, socket.SOCK_STREAM)
            close_in_children(sock)
        try:
            sock.settimeout(_CONNECT_TIMEOUT)
            # Of a Unix socket, EAGAIN: a server listens, and many wait for it.
            return sock.connect_ex(self.address or "") in {0, errno.EAGAIN}
        finally:
            close_without_fork(sock)

    def __str__(self) -> str:
        """Say what is waited for."""
        parts = []
        if self.pattern is not None:
            parts.append(f"no line of its output matches {self.pattern.pattern.decode()!r}")
        if self.address is not None:
            where = self.address
            name = where if isinstance(where, str) else f"{where[0]}:{where[1]}"
            parts.append(f"nothing listens at {name}")
        return ", or ".join(parts)


@dataclass(frozen=True, kw_only=True)
class Program:
    """A program to run.

    Attributes:
        words: The program and its arguments.
        environment: All of its environment variables.
        directory: Its current directory; empty for the exporter's.
        pidfile: A file that has its process id while it runs; empty for none.
        stdin: `"null"`, `"pipe"`, or `"pty"`, which is its stdout and stderr too.
        signal: The signal that asks it to end.
        grace: Seconds between this signal and SIGKILL.
        kept: How many bytes of stdout, and of stderr, are kept.
    """

    words: list[str]
    environment: dict[str, str] = field(repr=False)
    directory: str
    pidfile: str
    stdin: str
    signal: int
    grace: float
    kept: int


class Run:
    """One run of a program, from its start to its end.

    Args:
        program: What to run.
        readiness: What shows that it is ready.
        changes: Announces each change of this run, and all output.
        report: Called in the run's thread, when the program was started and when the run has ended.

    Attributes:
        state: How far it is.
        pid: The program's process id, or None before it was started.
        code: Its exit code, or -N if signal N killed it; None while it is unknown.
        was_ready: True once it was ready.
        failure: Why it could not be started, or did not become ready.
        error: The system's error if it could not be started.
        was_stopped: True once `stop` was called.
        denied: A process that the exporter may not end, because it runs as another user.
        stdout: The end of its standard output.
        stderr: The end of its standard error.
        read: How much of stdout clients of its console have read.

    Raises:
        OSError: The supervisor cannot be started.
    """

    def __init__(
        self,
        program: Program,
        readiness: Readiness,
        changes: Changes,
        report: Callable[[Run], None],
    ) -> None:
        self.state: RunState = RunState.STARTING
        self.pid: int | None = None
        self.code: int | None = None
        self.was_ready: bool = False
        self.failure: str = ""
        self.error: OSError | None = None
        self.was_stopped: bool = False
        self.denied: int | None = None
        self.stdout: Tail = Tail(program.kept)
        self.stderr: Tail = Tail(program.kept)
        self.read: int = 0
        self.changes: Changes = changes
        self._program = program
        self._readiness = readiness
        self._report = report
        self._lock = threading.Lock()  # of `_stdin` and of the sending half of `_control`
        self._input = b""
        self._line: dict[int, bytes] = {}  # by descriptor: the line that has not ended
        self._matched = readiness.pattern is None
        self._deadline = time.monotonic() + readiness.timeout
        self._streams: dict[int, tuple[Descriptor, Tail]] = {}
        self._stdin: Descriptor | None = None
        self._spawn()

    @property
    def is_alive(self) -> bool:
        """True until it has ended."""
        return self.state is not RunState.ENDED

    def stop(self) -> None:
        """Ask it to end, by its signal, and then by SIGKILL. Any thread; does not wait."""
        with self._lock:
            self.was_stopped = True
            if self.state in {RunState.STARTING, RunState.RUNNING}:
                self.state = RunState.STOPPING
                self._tell({"stop": self._program.signal, "grace": self._program.grace})
        self.changes.announce()

    def send_signal(self, number: int) -> None:
        """Send a signal to its process group. Any thread; does not wait."""
        with self._lock:
            self._tell({"signal": number})

    def open_stdin(self) -> int:
        """Return a new descriptor that leads to its standard input. The caller closes it.

        Raises:
            BrokenPipeError: Its input was closed, or it has ended.
        """
        with self._lock:
            if self._stdin is None:
                raise BrokenPipeError(errno.EPIPE, "the program's input is closed")
            return os.dup(self._stdin.fileno())

    def close_stdin(self) -> None:
        """End its standard input. Of a terminal, this types the character that does so, Ctrl-D."""
        with self._lock:
            if self._stdin is not None and self._program.stdin == "pty":
                with suppress(BlockingIOError):
                    os.write(self._stdin.fileno(), b"\x04")
            elif self._stdin is not None:
                close_without_fork(self._stdin)
                self._stdin = None

    def join(self) -> None:
        """Wait until the thread of this run has ended, as it does when the run has."""
        self._thread.join()

    # --- starting ---

    def _spawn(self) -> None:
        if not sys.executable or getattr(sys, "frozen", False):
            raise FileNotFoundError(errno.ENOENT, "there is no Python interpreter to supervise it")
        # A child forked meanwhile would keep the pipes open after the program has ended.
        with no_fork(), ExitStack() as ours, ExitStack() as theirs:
            standard = self._open_streams(ours, theirs)
            control, other = socket.socketpair()
            theirs.callback(other.close)
            ours.callback(control.close)
            close_in_children(control)
            number = keep(os.dup(other.fileno()), theirs)
            words = [sys.executable, "-I", "-S", str(_SUPERVISOR), str(os.getpid())]
            blocked = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
            self._supervisor = start_program(words, [*standard, number], blocked)
            self._control = control
            ours.pop_all()
        self._tell(
            {
                "words": self._program.words,
                "environment": self._program.environment,
                "directory": self._program.directory,
                "pidfile": self._program.pidfile,
                "signal": self._program.signal,
                "grace": self._program.grace,
                "terminal": self._program.stdin == "pty",
            }
        )
        self._thread = start_daemon_thread(self._follow, "process")

    def _open_streams(self, ours: ExitStack, theirs: ExitStack) -> list[int]:
        """Open the program's standard streams, and return its ends of them."""

        def own(number: int, tail: Tail | None) -> Descriptor:
            descriptor = Descriptor(number)  # closed in forked children
            os.set_blocking(number, False)
            if tail is not None:
                self._streams[number] = descriptor, tail
            return descriptor

        kind = self._program.stdin
        if kind == "pty":
            pair = os.openpty()
            ends = keep(pair[0], ours), keep(pair[1], theirs)
            own(ends[0], self.stdout)
            self._stdin = own(keep(os.dup(ends[0]), ours), None)
            return [ends[1]] * 3
        if kind == "pipe":
            stdin, writer = pipe(theirs, ours)
            self._stdin = own(writer, None)
        else:
            stdin = keep(os.open(os.devnull, os.O_RDONLY), theirs)
        stdout, stdout_end = pipe(ours, theirs)
        stderr, stderr_end = pipe(ours, theirs)
        own(stdout, self.stdout)
        own(stderr, self.stderr)
        return [stdin, stdout_end, stderr_end]

    def _tell(self, message: dict[str, Any]) -> None:
        with suppress(OSError):  # the supervisor has ended, or was killed
            self._control.sendall(json.dumps(message).encode() + b"\n")

    # --- the thread ---

    def _follow(self) -> None:
        """Read the program's output and the supervisor's messages until both have ended."""
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        for number in self._streams:
            poll.register(number, select.POLLIN)
        is_open = True
        while is_open:
            ready = [number for number, _ in poll.poll(self._wait())]
            for number in ready:
                if number == self._control.fileno():
                    is_open = self._listen()
                elif self._receive(number) is False:
                    poll.unregister(number)
            self._check_ready()
        for number in self._streams:  # what is still in the pipes, even if others hold them open
            while self._receive(number):
                pass
        self._finish()

    def _wait(self) -> float | None:
        """Return for how many milliseconds to wait for the program at most."""
        return _PROBE * 1000 if self.state is RunState.STARTING else None

    def _receive(self, number: int) -> bool | None:
        """Read output, and return True; False at its end, None if there is none at present."""
        descriptor, tail = self._streams[number]
        try:
            data = os.read(descriptor.fileno(), _SIZE)
        except BlockingIOError:
            return None
        except OSError:  # of a terminal: all programs have closed it
            return False
        if not data:
            return False
        tail.append(data)
        if not self._matched and self._readiness.pattern is not None:
            text = self._line.get(number, b"") + data
            lines = text.splitlines()
            self._matched = any(map(self._readiness.pattern.search, lines))
            self._line[number] = text[text.rfind(b"\n") + 1 :][-_LONGEST_LINE:]
        self.changes.announce()
        return True

    def _listen(self) -> bool:
        """Read the supervisor's messages, and return False at their end."""
        data = b""
        with suppress(OSError):  # ECONNRESET: as the end
            data = self._control.recv(_SIZE)
        if not data:
            return False
        *lines, self._input = (self._input + data).split(b"\n")
        for line in lines:
            self._hear(json.loads(line))
        self.changes.announce()
        return True

    def _hear(self, message: dict[str, Any]) -> None:
        match message:
            case {"started": pid}:
                self.pid = pid
                self._report(self)
                if self._readiness.is_immediate:  # even if it has ended by now
                    self._become_ready()
            case {"failed": number, "what": what}:
                self.error = OSError(number, os.strerror(number), what)
            case {"exited": code}:
                self.code = code
                self._leave(RunState.STARTING, RunState.RUNNING)
            case {"denied": pid}:
                self.denied = pid

    def _leave(self, *states: RunState) -> None:
        with self._lock:
            if self.state in states:
                self.state = RunState.STOPPING

    def _become_ready(self) -> None:
        with self._lock:
            if self.state is RunState.STARTING:  # it may have been stopped just now
                self.state, self.was_ready = RunState.RUNNING, True
        self.changes.announce()

    def _check_ready(self) -> None:
        if self.state is not RunState.STARTING:
            return
        if self.pid and self._matched and self._accepts():
            self._become_ready()
        elif time.monotonic() > self._deadline:
            self.failure = f"it was not ready after {self._readiness.timeout:g} s: "
            self.failure += f"{self._readiness}; it was stopped"
            self.stop()

    def _accepts(self) -> bool:
        """Return whether the program accepts connections, if it is to do that."""
        if self._readiness.address is None:
            return True
        try:
            return self._readiness.can_connect()
        except OSError:  # too many open files, or a name server that does not answer
            return False  # it is tried again: nothing else would read the program's output

    def _finish(self) -> None:
        """Reap the supervisor, and close everything."""
        if self._readiness.pattern is not None and self._readiness.address is None:
            self.was_ready |= self._matched  # the last line of a program that ended with it
        if self.error is None and self.code is None:
            self.failure = self.failure or _LOST
            if self.pid is not None:  # the kernel has killed the program; these are its children
                with suppress(OSError):
                    os.killpg(self.pid, signal.SIGKILL)
        with suppress(ChildProcessError):  # other code in this process waits for all children
            os.waitpid(self._supervisor, 0)
        with self._lock:
            for descriptor, _ in self._streams.values():
                close_without_fork(descriptor)
            if self._stdin is not None:
                close_without_fork(self._stdin)
                self._stdin = None
            close_without_fork(self._control)
            self.state = RunState.ENDED
        self._report(self)
        self.changes.announce()


def signal_number(name: object, error: type[Exception]) -> int:
    """Return the number of a signal.

    Raises:
        Exception: As given, if there is no signal of this name.
    """
    if not isinstance(name, str) or name not in signal.Signals.__members__:
        raise_value_error("a signal", name, "the name of one, such as 'SIGTERM'", error)
    return signal.Signals[name]
