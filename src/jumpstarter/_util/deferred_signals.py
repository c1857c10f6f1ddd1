"""Keeps signal handlers out of code that must not be cut in two.

A Python signal handler runs in the main thread, between any two bytecodes, and Ctrl-C's raises
there. Where that would leave a structure half changed, the main thread takes shelter: handlers are
put off, and run when it leaves. While it waits, within the shelter, it can be interrupted: then the
wait ends with `Interrupted`, and whoever waited tidies up and leaves.

All this is for blocking code. In a Trio loop no handler but Trio's own may raise, which is the
program's affair: Trio itself does not survive it everywhere. And none runs in any other thread. So
a broad `except` there takes no handler's exception for another one; in blocking code it stands in
`DeferAllSignals`, or raises again what it has caught.

Only signals that have a Python handler can raise, and only those are put off, so that any other
keeps what it does. Signals whose handlers nobody writes to raise are left alone, as each one that
is looked at has its price.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # the C half of `signal`, of which mypy knows not
import os
import signal
import threading
from collections.abc import Callable
from functools import partial
from itertools import compress
from threading import get_ident
from types import FrameType
from typing import Any, Final, Self, TypeAlias, TypeVar

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["DeferAllSignals", "DeferSignals", "Interrupted", "raised_by_signal_handler"]

T = TypeVar("T")
_Handler: TypeAlias = Callable[[int, FrameType | None], object]

_CATCHABLE: Final = tuple(
    int(signum) for signum in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
)
_SIGNALS: Final = tuple(
    int(signum)
    for signum in (
        signal.SIGINT,
        signal.SIGTERM,
        signal.SIGALRM,
        signal.SIGHUP,
        signal.SIGQUIT,
        signal.SIGUSR1,
        signal.SIGUSR2,
    )
)
# What `signal` wraps: its conversions to and from enums cost ten times what these do.
_get: Final[Callable[[int], Any]] = _signal.getsignal
_set: Final[Callable[[int, Any], Any]] = _signal.signal

_main = threading.main_thread().ident  # handlers run in this thread, and in no other


def _forked() -> None:
    global _main  # noqa: PLW0603
    _main = get_ident()


os.register_at_fork(after_in_child=_forked)


class Interrupted(BaseException):
    """A signal has come while the thread waited; its handler runs when the shelter is left."""


class DeferSignals:
    """A `with` block, for once, in whatever thread: in any but the main one there is no danger.

    Attributes:
        waiting: True while handlers may end the wait.
    """

    # The class's until the main thread takes shelter: all other threads need nothing of their own.
    waiting = False
    _signals = _SIGNALS
    _put_off: list[tuple[int, _Handler]] | tuple[()] = ()
    _came: list[tuple[_Handler, int, FrameType | None]] | tuple[()] = ()

    def __enter__(self) -> Self:
        if get_ident() == _main:
            try:
                self._take()
            except BaseException:
                self.__exit__()
                raise
        return self

    def _take(self) -> None:
        put_off: list[tuple[int, _Handler]] = []
        self._put_off = put_off
        handlers = [*map(_get, self._signals)]
        for signum, handler in compress(
            zip(self._signals, handlers, strict=True), map(callable, handlers)
        ):
            put_off.append((signum, handler))
            _set(signum, partial(self._note, handler))

    def _note(self, handler: _Handler, signum: int, frame: FrameType | None) -> None:
        self._came = [*self._came, (handler, signum, frame)]
        if self.waiting:
            self.waiting = False
            raise Interrupted

    def __exit__(self, *_: object) -> None:
        """Install the handlers again, and run those of all signals that have come.

        Whatever one of them raises meanwhile, none is left out.
        """
        self.waiting = False
        try:
            self._leave()
        finally:
            if self._put_off or self._came:
                self.__exit__()

    def _leave(self) -> None:
        """Loop in a frame of its own: since Python 3.12 a loop's jump may lie outside its `try`."""
        while self._put_off:
            _set(*self._put_off[-1])
            self._put_off.pop()
        while self._came:
            handler, signum, frame = self._came.pop(0)
            handler(signum, frame)

    def wait(self, wait: Callable[[int], T], milliseconds: int) -> T:
        """Give `wait(milliseconds)`, open to signals.

        Raises:
            Interrupted: A signal came, now or before.
        """
        self.waiting = True
        if self._came:
            raise Interrupted
        value = wait(milliseconds)
        self.waiting = False
        return value


class DeferAllSignals(DeferSignals):
    """A `with` block in which whatever is raised is its own, and no signal handler's.

    For code that catches all exceptions of somebody's code, or looks for what is wrong with a
    value. Every signal is put off, so it costs tens of microseconds in the main thread: it is for
    failures, and for what is done once.
    """

    _signals = _CATCHABLE


def raised_by_signal_handler(exc: BaseException) -> bool:
    """Tell if an installed handler raised this: for code too slow for `DeferAllSignals`.

    One that has put another one in its place before it raised is not known any more.
    """
    codes = {_code_of(handler) for handler in map(_get, _CATCHABLE) if callable(handler)}
    trace = exc.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code in codes:
            return True
        trace = trace.tb_next
    return False


def _code_of(handler: Any) -> object:
    while isinstance(handler, partial):
        handler = handler.func
    function = getattr(handler, "__func__", handler)
    if not hasattr(function, "__code__"):
        function = getattr(type(handler), "__call__", None)  # noqa: B004 - its code is wanted
    return getattr(function, "__code__", None)
