"""How a call has failed: what its client is told, and what the exporter's log says.

What a driver raised is told as it was, with its type; what the session itself refuses is told in
its own words and is nobody's failure. This file knows no connection.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import Any, Final, NoReturn

import trio

from .._faults import describe, without_traceback
from .._journal import Journal
from .._messages import ErrorBody
from .._shelter import Undisturbed
from .._text import indented, named
from ..errors import Code
from ._lanes import NoThreadError

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["Failures", "Refusal", "check_fit", "refuse"]

_logger = logging.getLogger("jumpstarter.exporter")

_NO_ASYNCIO: Final = ("no running event loop",)  # as asyncio says it
_TRIO_CODES: Final[dict[type[BaseException], Code]] = {
    trio.TooSlowError: Code.TIMED_OUT,
    trio.BrokenResourceError: Code.UNAVAILABLE,
    trio.ClosedResourceError: Code.UNAVAILABLE,
}


class Failures:
    """Describes what calls have raised, and logs it, for one client.

    Args:
        journal: Takes the lines.
        send_tracebacks: Tell the client the driver's traceback as well.
    """

    def __init__(self, journal: Journal, *, send_tracebacks: bool) -> None:
        self.journal = journal
        self._send_tracebacks = send_tracebacks

    def of(self, exc: BaseException, title: str) -> tuple[int, ErrorBody] | None:
        """Give code and body of the ERROR that ends a call; None for a cancellation alone.

        Args:
            exc: What it raised, or what the session has raised in its stead.
            title: What was called.
        """
        failure = without_cancelled(exc)
        if failure is None:
            return None
        try:
            return self._of(failure, title)
        finally:
            _let_go(failure)

    def tell(self, exc: BaseException, title: str) -> None:
        """Log what was raised where no client waits for an answer."""
        _, error = describe(exc, traceback=True)
        what = indented(error.traceback or error.message)
        text = "%s raised %s: %s"
        self.journal.log(_logger, logging.ERROR, text, title, named(error.type), what)
        _let_go(exc)

    def _of(self, failure: BaseException, title: str) -> tuple[int, ErrorBody]:
        if isinstance(failure, Refusal):
            return failure.code, ErrorBody("", str(failure))
        if isinstance(failure, NoThreadError):
            self.journal.log(_logger, logging.ERROR, "%s was refused: %s", title, failure)
            return Code.RESOURCE_EXHAUSTED, ErrorBody("", str(failure))
        return self._of_driver(failure, title)

    def _of_driver(self, exc: BaseException, title: str) -> tuple[int, ErrorBody]:
        if type(exc) is RuntimeError and exc.args[:1] == _NO_ASYNCIO:
            exc.add_note("async methods of drivers run in Trio: use trio or anyio, not asyncio")
        level = logging.INFO if isinstance(exc, Exception) else logging.ERROR
        logged = self.journal.takes(_logger, level)  # to format what is left out costs too much
        traceback = self._send_tracebacks or logged
        code, error = describe(exc, traceback=traceback, codes=_TRIO_CODES)
        if logged:
            # As it was described, since to format it again would run the driver's own code again.
            what = indented(error.traceback or error.message)
            self.journal.write(_logger, level, "%s raised %s: %s", title, named(error.type), what)
        return code, error if self._send_tracebacks else without_traceback(error)


def _let_go(exc: BaseException) -> None:
    """Take the traceback from what a call has failed with, now that it is told.

    Trio's way out of a thread has the outcome in frames that its traceback knows: a circle, which
    would hold the arguments, an image perhaps, until the garbage collector comes by.
    """
    rest: list[BaseException | None] = [exc]
    while rest:
        each = rest.pop()
        if each is not None and each.__traceback__ is not None:
            each.__traceback__ = None
            rest += [each.__cause__, each.__context__]


class Refusal(Exception):
    """The session itself answers a call with an error."""

    def __init__(self, code: Code, text: str) -> None:
        super().__init__(text)
        self.code = code


def refuse(code: Code, text: str) -> NoReturn:
    raise Refusal(code, text)


def check_fit(method: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]) -> None:
    """Tell arguments that do not fit the method from a TypeError of the driver's own."""
    try:
        signature = inspect.signature(method)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(*args, **kwargs)
    except TypeError as exc:
        refuse(Code.INVALID_ARGUMENT, f"its arguments do not fit: {exc}; it takes {signature}")


def without_cancelled(exc: BaseException) -> BaseException | None:
    """Give what a driver has raised beside a cancellation, which is nobody's failure."""
    if isinstance(exc, trio.Cancelled):
        return None
    if isinstance(exc, BaseExceptionGroup):
        with Undisturbed():
            try:
                return exc.split(trio.Cancelled)[1]
            except BaseException:  # noqa: BLE001 - a group of the driver's making, or too deep a one
                return exc
    return exc
