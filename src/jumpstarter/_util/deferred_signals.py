"""Defer signal handlers while code runs that they must not interrupt.

A Python signal handler runs in the main thread, between any two bytecodes, and the one for Ctrl-C
raises there. Where that would leave a structure half changed, the main thread enters
`DeferSignals`, and handlers are deferred until it leaves.

This is for blocking code. In a Trio loop only Trio's own handler may raise, since Trio itself does
not survive an exception everywhere. Handlers never run in other threads. So a broad `except` in
those places does not catch a handler's exception by mistake. In blocking code it stands inside
`DeferAllSignals`, or re-raises what it has caught.

Only signals with a Python handler can raise, and only those are deferred; all others keep their
effect. `DeferSignals` ignores signals whose handlers rarely raise, because each one costs time.

Reinstalling a handler undoes `signal.siginterrupt(signum, False)`, and Python offers no way to read
that flag. So a program that has called it for a signal with a Python handler must expect system
calls to be interrupted by that signal again. `never_defer` exempts a handler that does not raise.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # the C half of `signal`, unknown to mypy
import os
import signal
import threading
from collections.abc import Callable
from functools import partial
from threading import get_ident
from types import FrameType
from typing import Any, Final, Self, TypeAlias

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = [
    "DeferAllSignals",
    "DeferSignals",
    "never_defer",
    "raised_by_signal_handler",
]

_Handler: TypeAlias = "Callable[[int, FrameType | None], object]"

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
# The functions that `signal` wraps: its conversions to and from enums take ten times as long.
_get: Final[Callable[[int], Any]] = _signal.getsignal
_set: Final[Callable[[int, Any], Any]] = _signal.signal

_main = threading.main_thread().ident  # handlers run only in this thread


def _forked() -> None:
    global _main  # noqa: PLW0603
    _main = get_ident()


os.register_at_fork(after_in_child=_forked)


_never_deferred: Final[set[object]] = set()


def never_defer(handler: _Handler) -> None:
    """Leave this handler installed within `DeferAllSignals`. It must not raise."""
    _never_deferred.add(handler)


def _may_raise(handler: Any) -> bool:
    return callable(handler) and handler not in _never_deferred


class DeferSignals:
    """A `with` block, used once, that defers the handlers of common signals. In any thread.

    In other threads than the main one it does nothing: no handler runs there.
    """

    # Class attributes, so that other threads than the main one need no state of their own.
    _signals = _SIGNALS
    _is_deferred: Callable[[Any], bool] = staticmethod(callable)
    _deferred: list[tuple[int, _Handler]] | tuple[()] = ()
    _arrived: list[tuple[_Handler, int, FrameType | None]] | tuple[()] = ()

    def __enter__(self) -> Self:
        if get_ident() == _main:
            try:
                self._defer()
            except BaseException:
                self.__exit__()
                raise
        return self

    def _defer(self) -> None:
        deferred: list[tuple[int, _Handler]] = []
        self._deferred = deferred
        is_deferred = self._is_deferred
        for signum in self._signals:
            handler = _get(signum)
            if is_deferred(handler):
                deferred.append((signum, handler))
                _set(signum, partial(self._record, handler))

    def _record(self, handler: _Handler, signum: int, frame: FrameType | None) -> None:
        self._arrived = [*self._arrived, (handler, signum, frame)]

    def __exit__(self, *_: object) -> None:
        """Reinstall the handlers, and run those of all signals that have arrived.

        All of them are reinstalled and run, even if one of them raises.
        """
        try:
            self._leave()
        finally:
            if self._deferred or self._arrived:
                self.__exit__()

    def _leave(self) -> None:
        """Loop in a frame of its own: since Python 3.12 a loop's jump may lie outside its `try`."""
        while self._deferred:
            _set(*self._deferred[-1])
            self._deferred.pop()
        while self._arrived:
            handler, signum, frame = self._arrived.pop(0)
            handler(signum, frame)


class DeferAllSignals(DeferSignals):
    """A `with` block whose exceptions are its own, and never a signal handler's.

    For code that catches all exceptions of user code, or searches a value for a fault. It defers
    every signal, which costs tens of microseconds in the main thread, so it is for failures and for
    work that is done once.
    """

    _signals = _CATCHABLE
    _is_deferred = staticmethod(_may_raise)


def raised_by_signal_handler(exc: BaseException) -> bool:
    """Return whether an installed handler raised this: for code too slow for `DeferAllSignals`.

    A handler that has replaced itself before it raised is not recognized.
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
