"""Pass Ctrl-C on to the program if it was raised in code whose exceptions stay within a call."""

from __future__ import annotations

import signal

import trio

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["pass_on_ctrl_c"]


@trio.lowlevel.enable_ki_protection  # so that the main task raises it, and not this code
def pass_on_ctrl_c(exc: BaseException) -> None:
    """Have Trio's main task raise KeyboardInterrupt if Ctrl-C has led to an exception.

    Without effect on an exception that other code than Trio's signal handler has raised.
    """
    if not isinstance(exc, Exception) and _comes_from_trio(exc):
        signal.raise_signal(signal.SIGINT)


def _comes_from_trio(exc: BaseException) -> bool:
    """Return whether Trio's handler of SIGINT has raised it, or an exception of its group."""
    if isinstance(exc, BaseExceptionGroup):
        return any(map(_comes_from_trio, exc.exceptions))
    handler = signal.getsignal(signal.SIGINT)
    if str(getattr(handler, "__module__", "")).partition(".")[0] != "trio":
        return False  # another one may count how often the key was pressed
    code = None
    traceback = exc.__traceback__
    while traceback is not None:
        code = traceback.tb_frame.f_code
        traceback = traceback.tb_next
    return code is getattr(handler, "__code__", handler)
