"""The exporter's stdout and stderr, for drivers and the programs that they run: nobody waits there.

stdout has one line, which says that the exporter is ready. Everything else that anything in the
process writes to stdout or stderr, and that a child writes which has inherited them, goes into a
pipe. A thread empties it, always, and hands it on to the log's way to stderr, where text is lost
rather than waited for. So no `print` of a driver's blocks, breaks or fails a call, whether stdout
and stderr are read or not, full, closed, or a terminal that hung up, and whatever encoding the
environment asks for.

It costs this: a child that outlives the exporter has nobody to write to, and stdout and stderr are
no terminal for drivers.
"""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import logging
import os
import select
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Final

from .fork import close_without_fork
from .stderr_log import (
    Descriptor,
    StderrHandler,
    logging_to_stderr,
    start_daemon_thread,
    write_pieces,
)

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["StandardStreams", "standard_streams"]

_logger = logging.getLogger("jumpstarter.cli")

_STDIN, _STDOUT, _STDERR = range(3)
_PIECE: Final = 64 * 1024
_PIPE: Final = 1024 * 1024  # bytes; code that holds the GIL for long may write them meanwhile
_LAST_PIECES: Final = 32  # that are read at the end, if something goes on writing
_FAREWELL: Final = 1.0  # seconds


@contextlib.contextmanager
def standard_streams(level: int | str, line: str, *, until_exit: bool) -> Iterator[StandardStreams]:
    """Send the log, and what is printed, to stderr, for the length of a `with` block.

    For a program's start, in its main thread.

    Args:
        level: Of the log, from which on.
        line: How a line of the log looks, as `logging.Formatter` takes it.
        until_exit: Behind the block stdout and stderr lead nowhere, so that the interpreter's end
            waits for neither. Otherwise they are again what they were.
    """
    with logging_to_stderr(level, line) as outlet:
        streams = StandardStreams(outlet, until_exit=until_exit)
        try:
            yield streams
        finally:
            streams.close()


class StandardStreams:
    """Stands in for stdout and stderr until it is closed."""

    def __init__(self, outlet: StderrHandler | None, *, until_exit: bool) -> None:
        self._outlet = outlet
        self._until_exit = until_exit
        self._announcer: threading.Thread | None = None
        stdout_closed = _is_closed(_STDOUT)
        for number in (_STDIN, _STDOUT, _STDERR):
            _occupy(number)
        self._numbers = [_STDOUT] * (sys.stdout is not None or stdout_closed)
        self._numbers += [_STDERR] * (outlet is not None)
        self._real = {number: Descriptor.copy_of(number) for number in self._numbers}
        self._stdout = None if stdout_closed else self._real.get(_STDOUT)
        reader, writer = os.pipe()
        self._reader = Descriptor(reader)  # or a forked child would wait for itself to read
        self._wake_reader, self._wake = os.pipe()
        with contextlib.suppress(OSError, AttributeError):  # it stays smaller
            fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, _PIPE)
        self._pump = start_daemon_thread(self._run, "stdout and stderr")
        _flush()
        for number in self._numbers:
            os.dup2(writer, number)
        names = {_STDOUT: "stdout", _STDERR: "stderr"}
        self._undo_texts = [_text(names[number], number) for number in self._numbers]
        os.close(writer)
        if until_exit and faulthandler.is_enabled() and _STDERR in self._real:
            # It writes as the process dies, when the thread is gone that would hand it on.
            faulthandler.enable(self._real[_STDERR].fileno())

    def say(self, text: str) -> None:
        """Write a line to stderr, in which nothing stands that logging adds."""
        if self._outlet is not None:
            _flush()
            self._outlet.say(text)

    def announce(self, text: str) -> None:
        """Write a line to stdout. Does not wait; that it cannot be written is a line in the log."""
        # As the file system has it, so that a path in it can be used whatever the encoding is.
        try:
            line = os.fsencode(f"{text}\n")
        except UnicodeEncodeError:
            line = f"{text}\n".encode(errors="backslashreplace")

        def write() -> None:
            try:
                if self._stdout is None:
                    raise OSError("it is closed")
                for _ in write_pieces(self._stdout.fileno(), line):
                    pass
            except OSError as exc:
                _logger.warning("stdout did not take %r: %s", text, exc.strerror or exc)

        self._announcer = start_daemon_thread(write, "announcement")

    def close(self) -> None:
        """Hand on what was written until now, and give stdout and stderr back, or away."""
        if self._announcer is not None:
            self._announcer.join(_FAREWELL)
        _flush()
        os.write(self._wake, b"x")
        self._pump.join()
        if self._until_exit:
            nowhere = os.open(os.devnull, os.O_RDWR)
            for number in self._numbers:
                os.dup2(nowhere, number)
            return  # what else is open goes with the process
        for undo in self._undo_texts:
            undo()
        for number, real in self._real.items():
            os.dup2(real.fileno(), number)
            if self._announcer is None or not self._announcer.is_alive():
                close_without_fork(real)
        close_without_fork(self._reader)
        for number in (self._wake_reader, self._wake):
            os.close(number)

    def _run(self) -> None:
        """Empty the pipe until there is nothing more to come."""
        poll, left, reader = select.poll(), _LAST_PIECES, self._reader.fileno()
        poll.register(reader, select.POLLIN)
        poll.register(self._wake_reader, select.POLLIN)
        while left:
            ready = {number for number, _ in poll.poll()}
            if self._wake_reader in ready:
                left = left - 1 if reader in ready else 0
            if reader in ready and left:
                data = os.read(reader, _PIECE)
                if self._outlet is not None:
                    self._outlet.pour(data)


def _is_closed(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return True
    return False


def _occupy(number: int) -> None:
    """Open the null device at a number that is free, which a socket would get otherwise."""
    if _is_closed(number):
        opened = os.open(os.devnull, os.O_RDWR)
        if opened != number:
            os.dup2(opened, number)
            os.close(opened)
        os.set_inheritable(number, True)


def _flush() -> None:
    for text in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # AttributeError: None
            text.flush()


def _text(name: str, number: int) -> Callable[[], None]:
    """Have a stream of `sys` take any character, and every line immediately.

    Returns:
        What undoes it.
    """
    names = (name, f"__{name}__")
    before = [getattr(sys, each) for each in names]  # which are kept: their end closes the number
    text = open(  # noqa: SIM115 - it stays until it is undone
        number, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False
    )
    for each in names:
        setattr(sys, each, text)

    def undo() -> None:
        for each, old in zip(names, before, strict=True):
            setattr(sys, each, old)

    return undo
