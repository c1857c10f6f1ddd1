"""Redirect the exporter's stdout and stderr, so that drivers and their programs never block.

stdout carries one line, which says that the exporter is ready. All other output to stdout and
stderr, by any code in the process or by a child that has inherited them, goes into a pipe. A thread
reads the pipe continuously and passes the text to the log's handler for stderr, which loses text
rather than wait. So a driver's `print` never blocks, breaks or fails a call, whether stdout and
stderr are read, full, closed, or a disconnected terminal, and in any encoding.

The price: the output of a child that outlives the exporter is lost, and drivers see no terminal on
stdout and stderr.
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

from .fork import close_without_fork, no_fork
from .log_lines import LineFormatter
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
_PIPE: Final = 1024 * 1024  # bytes; other code may write them while this thread waits for the GIL
_LAST_PIECES: Final = 32  # read at the end, in case something goes on writing
_CLOSE_TIMEOUT: Final = 1.0  # seconds


@contextlib.contextmanager
def standard_streams(
    level: int | str, line: LineFormatter, *, until_exit: bool
) -> Iterator[StandardStreams]:
    """Send the log and all output to stderr, for the length of a `with` block.

    For a program's start, in its main thread.

    Args:
        level: The lowest level that is logged.
        line: Formats the lines of the log.
        until_exit: After the block, stdout and stderr lead to the null device, so that the
            interpreter's exit waits for neither. Otherwise they are restored.
    """
    with logging_to_stderr(level, line) as handler:
        streams = StandardStreams(handler, until_exit=until_exit)
        try:
            yield streams
        finally:
            streams.close()


class StandardStreams:
    """Replace stdout and stderr until `close`."""

    def __init__(self, handler: StderrHandler | None, *, until_exit: bool) -> None:
        self._handler = handler
        self._until_exit = until_exit
        self._announcer: threading.Thread | None = None
        stdout_closed = _is_closed(_STDOUT)
        for number in (_STDIN, _STDOUT, _STDERR):
            _occupy(number)
        self._numbers = [_STDOUT] * (sys.stdout is not None or stdout_closed)
        self._numbers += [_STDERR] * (handler is not None)
        self._real = {number: Descriptor.copy_of(number) for number in self._numbers}
        self._stdout = None if stdout_closed else self._real.get(_STDOUT)
        with no_fork():
            reader, writer = os.pipe()
            # Closed in children, or one would wait for itself to read.
            self._reader = Descriptor(reader)
        self._wake_reader, self._wake = os.pipe()
        with contextlib.suppress(OSError, AttributeError):  # then it keeps its size
            fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, _PIPE)
        self._pump = start_daemon_thread(self._run, "stdout and stderr")
        _flush()
        for number in self._numbers:
            os.dup2(writer, number)
        names = {_STDOUT: "stdout", _STDERR: "stderr"}
        self._undo_texts = [_text(names[number], number) for number in self._numbers]
        os.close(writer)
        if until_exit and faulthandler.is_enabled() and _STDERR in self._real:
            # It writes while the process dies, when the forwarding thread has ended.
            faulthandler.enable(self._real[_STDERR].fileno())

    def write_line(self, text: str) -> None:
        """Write a line to stderr without the prefix that logging adds."""
        if self._handler is not None:
            _flush()
            self._handler.write_line(text)

    def use(self, line: LineFormatter) -> None:
        """Write the lines that follow in another form."""
        if self._handler is not None:
            self._handler.use(line)

    @property
    def lost_lines(self) -> int:
        """The number of lines of the log that stderr did not take so far. In any thread."""
        return 0 if self._handler is None else self._handler.lost

    def announce(self, text: str) -> None:
        """Write a line to stdout. Does not wait; a failure is logged."""
        # In the file system's encoding, so that a path in the line can be used.
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
        """Forward all output written so far, and restore stdout and stderr, or detach them."""
        if self._announcer is not None:
            self._announcer.join(_CLOSE_TIMEOUT)
        _flush()
        os.write(self._wake, b"x")
        self._pump.join()
        if self._until_exit:
            nowhere = os.open(os.devnull, os.O_RDWR)
            for number in self._numbers:
                os.dup2(nowhere, number)
            return  # the process's exit closes all else
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
        """Read the pipe until it is empty and `close` was called."""
        poll, left, reader = select.poll(), _LAST_PIECES, self._reader.fileno()
        poll.register(reader, select.POLLIN)
        poll.register(self._wake_reader, select.POLLIN)
        while left:
            ready = {number for number, _ in poll.poll()}
            if self._wake_reader in ready:
                left = left - 1 if reader in ready else 0
            if reader in ready and left:
                data = os.read(reader, _PIECE)
                if self._handler is not None:
                    self._handler.write_raw(data)
        if self._handler is not None:
            self._handler.end_output()


def _is_closed(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return True
    return False


def _occupy(number: int) -> None:
    """Open the null device at a closed number, which a socket would get otherwise."""
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
    """Replace a stream of `sys` by one that accepts any character and flushes each line.

    Returns:
        A function that undoes it.
    """
    names = (name, f"__{name}__")
    before = [getattr(sys, each) for each in names]  # kept: collecting them would close the number
    text = open(  # noqa: SIM115 - it stays until it is undone
        number, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False
    )
    for each in names:
        setattr(sys, each, text)

    def undo() -> None:
        for each, old in zip(names, before, strict=True):
            setattr(sys, each, old)

    return undo
