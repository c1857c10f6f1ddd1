"""Run one program for an exporter, and end it with all its descendants when the exporter ends.

This file runs as a program of its own and imports nothing of this library. An exporter that is
killed cannot end the programs that it has started, so each gets a supervisor, which is started
first and outlasts the exporter. Two other ways do less:

- PR_SET_PDEATHSIG set by the exporter fires when the *thread* that started the program ends, and
  worker threads come and go. It also reaches no grandchildren.
- A process group loses every descendant that makes a group of its own.

The supervisor has one thread, so PR_SET_PDEATHSIG, which it sets for the program, means what it
says: if the supervisor itself is killed, the kernel kills the program. As a subreaper, it becomes
the parent of every descendant whose own parent has ended, so it finds all of them.

It learns of the exporter's end by a pidfd, and by the end of its control socket. Both come from the
kernel, however the exporter ends. It talks to the exporter in lines of JSON on descriptor 3:

    the first line     what to run: `words`, `environment`, `directory`, `pidfile`, `signal`,
                       `grace`, `terminal`
    to the supervisor  {"stop": signal, "grace": seconds}   {"signal": number}
    to the exporter    {"started": pid}   {"failed": errno, "what": text}   {"exited": code}
                       {"denied": pid}

When the program itself ends, the supervisor ends its descendants too. It exits when none is left.

    state       left by
    RUNNING     stop, the program's end, or the exporter's end: the signal is sent, ENDING
    ENDING      the grace is over: KILLING
    KILLING     -
    any         no child is left: the supervisor exits

A service manager signals all processes of a service, so the supervisor starts with all signals
blocked, and only SIGKILL can end it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import select
import signal
import sys
import termios
import time
from collections.abc import Iterator
from typing import Any

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

_CONTROL = 3
_PDEATHSIG, _CHILD_SUBREAPER = 1, 36  # of prctl(2)
_AGAIN = 0.05  # seconds between two rounds of SIGKILL, for children of children that were killed
_DENIED_AGAIN = 1.0  # the same, once a process may not be killed
_SIZE = 64 * 1024


def _prctl(option: int, value: int) -> None:
    """Call prctl(2), where the system has it."""
    function = getattr(ctypes.CDLL(None, use_errno=True), "prctl", None)
    if function is not None:
        function(option, value, 0, 0, 0)


class Supervisor:  # pragma: no cover - it runs in a process of its own
    """Runs the program.

    Args:
        parent: The exporter's process id.
    """

    def __init__(self, parent: int) -> None:
        os.set_inheritable(_CONTROL, False)
        os.set_blocking(_CONTROL, True)
        self._parent = parent
        self._poll = select.poll()
        self._input = b""
        self._child = 0  # the program's process id, until it was reaped
        self._deadline: float | None = None  # of the grace, or of the next round of SIGKILL
        self._killing = False
        self._denied: set[int] = set()
        self._stop: tuple[int, float] = (signal.SIGTERM, 0.0)
        self._pidfile: tuple[str, int] | None = None

    def run(self) -> None:
        """Start the program, and return when it and all its descendants have ended."""
        spec = self._first_line()
        if spec is None:
            return
        self._stop = spec["signal"], spec["grace"]
        _prctl(_CHILD_SUBREAPER, 1)
        self._watch()
        try:
            self._child = self._start(spec)
        except OSError as exc:
            self._tell({"failed": exc.errno or errno.EIO, "what": exc.filename or ""})
        else:
            self._tell({"started": self._child})
            _give_up_standard_streams()
            self._obey()  # what was read together with the first line
            while self._reap():
                self._step()
        if self._pidfile is not None:
            with contextlib.suppress(OSError):
                os.unlink(self._pidfile[0])  # noqa: PTH108 - pathlib takes 10 ms to import

    # --- the exporter ---

    def _first_line(self) -> dict[str, Any] | None:
        while b"\n" not in self._input:
            data = os.read(_CONTROL, _SIZE)
            if not data:
                return None
            self._input += data
        line, _, self._input = self._input.partition(b"\n")
        spec: dict[str, Any] = json.loads(line)
        return spec

    def _watch(self) -> None:
        """Have `poll` return when the exporter says something or ends, and when a child ends."""
        self._poll.register(_CONTROL, select.POLLIN)
        self._watched = [_CONTROL]
        with contextlib.suppress(AttributeError, OSError):  # Linux before 5.3, or it has ended
            self._watched.append(os.pidfd_open(self._parent))
            self._poll.register(self._watched[-1], select.POLLIN)
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        os.set_blocking(reader, False)
        self._poll.register(reader, select.POLLIN)
        self._reader = reader
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})

    def _tell(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # the exporter has ended
            os.write(_CONTROL, json.dumps(message).encode() + b"\n")

    def _step(self) -> None:
        """Wait until something happens, and react to it."""
        # Each time, before it waits: a pidfd that was opened too late is another process's.
        if os.getppid() != self._parent:
            self._exporter_ended()
        wait = None if self._deadline is None else max(0.0, self._deadline - time.monotonic())
        ready = {number for number, _ in self._poll.poll(None if wait is None else wait * 1000 + 1)}
        if self._reader in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._reader, _SIZE)
        if _CONTROL in ready:
            self._listen()
        if self._deadline is not None and time.monotonic() >= self._deadline:
            self._kill()

    def _listen(self) -> None:
        data = b""
        with contextlib.suppress(OSError):  # ECONNRESET: as the end
            data = os.read(_CONTROL, _SIZE)
        if not data:
            self._exporter_ended()
        self._input += data
        self._obey()

    def _obey(self) -> None:
        *lines, self._input = self._input.split(b"\n")
        for line in lines:
            message = json.loads(line)
            if "stop" in message:
                self._stop = message["stop"], message["grace"]
                self._end()
            elif self._child:
                with contextlib.suppress(OSError):
                    os.killpg(self._child, message["signal"])

    def _exporter_ended(self) -> None:
        self._parent = os.getppid()  # reported once
        while self._watched:  # they stay readable
            self._poll.unregister(self._watched.pop())
        self._end()

    # --- the program ---

    def _start(self, spec: dict[str, Any]) -> int:
        """Start the program, and return its process id.

        Raises:
            OSError: It cannot be started; `filename` is what the system refused.
        """
        lock = _lock_pidfile(spec["pidfile"]) if spec["pidfile"] else None
        supervisor = os.getpid()
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            try:
                _become(spec, supervisor)
            except OSError as exc:
                os.write(writer, f"{exc.errno} {exc.filename or spec['words'][0]}".encode())
            finally:
                os._exit(127)
        os.close(writer)
        failure = b""
        while data := os.read(reader, _SIZE):  # until execve(2) closes the other end
            failure += data
        os.close(reader)
        if lock is not None:
            self._pidfile = spec["pidfile"], lock
        if failure:
            os.waitpid(child, 0)
            number, _, what = failure.decode(errors="surrogateescape").partition(" ")
            raise OSError(int(number), os.strerror(int(number)), what)
        if lock is not None:
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"{child}\n".encode(), 0)
        return child

    def _reap(self) -> bool:
        """Reap the children that have ended, and return whether any is left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if not pid:
                return True
            if pid == self._child:
                self._child = 0
                self._tell({"exited": os.waitstatus_to_exitcode(status)})
                self._end()

    def _end(self) -> None:
        """Send the signal that ends the program to all of its descendants, once."""
        if self._deadline is None:
            number, grace = self._stop
            self._deadline = time.monotonic() + grace
            for pid in self._descendants():
                self._send(pid, number)
                self._send(pid, signal.SIGCONT)  # a stopped process gets the other signal then

    def _kill(self) -> None:
        """Kill all descendants. Those that they leave behind are killed in the next round."""
        self._deadline = time.monotonic() + (_DENIED_AGAIN if self._denied else _AGAIN)
        self._killing = True
        for pid in self._descendants():
            self._send(pid, signal.SIGKILL)

    def _send(self, pid: int, number: int) -> None:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass
        except PermissionError:  # it runs as another user
            if self._killing and pid not in self._denied:
                self._denied.add(pid)
                self._tell({"denied": pid})

    def _descendants(self) -> list[int]:
        """List the processes that descend from this one; without /proc, those of the group."""
        try:
            parents = dict(_parents())
        except OSError:
            return [-self._child] if self._child else []
        found, todo = [], [os.getpid()]
        while todo:
            parent = todo.pop()
            children = [pid for pid, above in parents.items() if above == parent]
            found += children
            todo += children
        return found


def _parents() -> Iterator[tuple[int, int]]:  # pragma: no cover - in a process of its own
    """Yield the id of each process that runs, and of its parent."""
    for name in os.listdir("/proc"):  # noqa: PTH208 - pathlib takes 10 ms to import
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:  # noqa: PTH123
                state, parent, *_ = file.read().rpartition(b")")[2].split()
                if state not in {b"Z", b"X"}:
                    yield int(name), int(parent)


def _become(spec: dict[str, Any], supervisor: int) -> None:  # pragma: no cover - in a child
    """Replace this child by the program.

    Raises:
        OSError: The system refuses it.
    """
    _prctl(_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != supervisor:  # it was killed before prctl()
        os._exit(127)
    os.setsid()
    if spec["terminal"]:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    if spec["directory"]:
        os.chdir(spec["directory"])
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    words = spec["words"]
    try:
        os.execvpe(words[0], words, spec["environment"])  # noqa: S606 - the configuration fixes it
    except OSError as exc:  # it names the last place where the program is not
        raise OSError(exc.errno, exc.strerror, words[0]) from None


def _give_up_standard_streams() -> None:  # pragma: no cover - in a process of its own
    """Close the program's streams here, so that they end with the program."""
    null = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(null, number)
    os.close(null)


def _lock_pidfile(path: str) -> int:  # pragma: no cover - in a process of its own
    """Make a file and lock it, and return its descriptor.

    The lock tells a file that is in use from one that was left behind.

    Raises:
        OSError: It cannot be made, another program has locked it (EBUSY), or it is a symbolic link
            (ELOOP).
    """
    while True:
        # In a directory like /tmp, others can make links, and the file is overwritten.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), path) from None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.lstat(path)):
                return descriptor
        os.close(descriptor)  # its owner has just removed it


if __name__ == "__main__":
    Supervisor(int(sys.argv[1])).run()
