"""A terminal in raw mode, which is restored however the program ends.

SIGKILL is the exception: no program can handle it. After it, `stty sane` or `reset` restores the
terminal, typed blindly.
"""

from __future__ import annotations

import os
import signal
import termios
import threading
import tty
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from types import FrameType
from typing import Any, Final

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["RawTerminal", "exit_on_signals", "signals_restore"]

_ENDING: Final = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class RawTerminal:
    """Switches a terminal to raw mode and back. For one thread at a time.

    Args:
        fd: Its descriptor, or that of something else, on which nothing has any effect.

    Attributes:
        is_terminal: Whether it is a terminal.
        raw: Whether it is in raw mode.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.is_terminal: bool = os.isatty(fd)
        self.raw: bool = False
        self._saved: list[Any] = []

    def set_raw(self) -> None:
        """Switch to raw mode, and remember the mode before. Does nothing in raw mode.

        Raises:
            OSError: The terminal is gone.
        """
        if not self.is_terminal or self.raw:
            return
        try:
            self._saved = termios.tcgetattr(self._fd)
            self.raw = True  # first: a signal's handler must restore what the next line changes
            # TCSANOW does not wait, as others do for a terminal whose output is stopped.
            tty.setraw(self._fd, termios.TCSANOW)
        except termios.error as exc:
            raise OSError(*exc.args, "the terminal") from exc

    def restore(self) -> None:
        """Switch back to the mode before. Does nothing if the terminal is gone."""
        if self.raw:
            with suppress(termios.error):
                termios.tcsetattr(self._fd, termios.TCSANOW, self._saved)
            self.raw = False


@contextmanager
def signals_restore(terminal: RawTerminal) -> Iterator[None]:
    """Restore a terminal when a signal ends or stops this process, within the block.

    SIGTERM, SIGHUP and SIGQUIT restore it immediately, and raise SystemExit with 128 + N. SIGTSTP
    restores it, and stops the process; SIGCONT switches to raw mode again, also after SIGSTOP.
    Signals that are ignored stay ignored. SIGINT raises KeyboardInterrupt as always, and leaving
    the block restores the terminal. Outside the main thread, only leaving the block does.

    Args:
        terminal: The terminal, which the block may switch to raw mode.
    """
    with ExitStack() as stack:
        stack.callback(terminal.restore)
        if threading.current_thread() is threading.main_thread():
            for number in _ENDING:
                stack.enter_context(_handled(number, lambda number, _: _end(terminal, number)))
            if terminal.is_terminal:
                stop = _Stop(terminal)
                stack.enter_context(_handled(signal.SIGTSTP, stop.stop))
                stack.enter_context(_handled(signal.SIGCONT, stop.proceed))
        yield


@contextmanager
def exit_on_signals(codes: Mapping[signal.Signals, int]) -> Iterator[None]:
    """Let signals raise SystemExit within the block, so that it is left in order.

    Signals that are ignored stay ignored.

    Args:
        codes: The exit code for each signal.
    """

    def leave(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(codes[signal.Signals(number)])

    with ExitStack() as stack:
        if threading.current_thread() is threading.main_thread():
            for number in codes:
                stack.enter_context(_handled(number, leave))
        yield


def _end(terminal: RawTerminal, number: int) -> None:
    terminal.restore()  # before anything that may take time
    raise SystemExit(128 + number)


class _Stop:  # pragma: no cover - tests stop other processes
    """The handlers of job control."""

    def __init__(self, terminal: RawTerminal) -> None:
        self._terminal = terminal
        self._was_raw = False  # when the process stopped

    def stop(self, number: int, _frame: FrameType | None) -> None:
        """Stop this process, with its terminal restored; return when it continues."""
        self._was_raw = self._terminal.raw
        self._terminal.restore()
        handler = signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)  # the process stops here
        signal.signal(number, handler)
        self._resume()

    def proceed(self, _number: int, _frame: FrameType | None) -> None:
        """Switch to raw mode again: the shell may have restored the mode after a SIGSTOP."""
        if self._terminal.raw:
            self._was_raw = True
            self._terminal.restore()
        self._resume()

    def _resume(self) -> None:
        if self._was_raw:
            self._was_raw = False
            with suppress(OSError):  # the terminal is gone: reading reports that
                self._terminal.set_raw()


@contextmanager
def _handled(
    number: signal.Signals, handler: Callable[[int, FrameType | None], None]
) -> Iterator[None]:
    """Install a handler for the block, unless the signal is ignored."""
    before = signal.getsignal(number)
    if before is signal.SIG_IGN:
        yield
        return
    signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)
