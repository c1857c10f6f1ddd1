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

from .._protocol.error_codec import exception_to_wire, without_traceback
from .._protocol.frames import ErrorBody
from .._util.log_limit import RateLimitedLogger
from .._util.shelter import Undisturbed
from .._util.text import indented, sanitize_name
from ..errors import Code
from .executor import NoThreadError

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["CallRejected", "ErrorReporter", "check_fit", "reject"]

_logger = logging.getLogger("jumpstarter.exporter")

_NO_ASYNCIO: Final = ("no running event loop",)  # as asyncio says it
_TRIO_CODES: Final[dict[type[BaseException], Code]] = {
    trio.TooSlowError: Code.TIMED_OUT,
    trio.BrokenResourceError: Code.UNAVAILABLE,
    trio.ClosedResourceError: Code.UNAVAILABLE,
}


class ErrorReporter:
    """Describes what calls have raised, and logs it, for one client.

    Args:
        journal: Takes the lines.
        send_tracebacks: Tell the client the driver's traceback as well.
    """

    def __init__(self, event_log: RateLimitedLogger, *, send_tracebacks: bool) -> None:
        self.event_log = event_log
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

    def log(self, exc: BaseException, title: str) -> None:
        """Log what was raised where no client waits for an answer."""
        _, error = exception_to_wire(exc, traceback=True)
        what = indented(error.traceback or error.message)
        text = "%s raised %s: %s"
        self.event_log.log(_logger, logging.ERROR, text, title, sanitize_name(error.type), what)
        _let_go(exc)

    def _of(self, failure: BaseException, title: str) -> tuple[int, ErrorBody]:
        if isinstance(failure, CallRejected):
            return failure.code, ErrorBody("", str(failure))
        if isinstance(failure, NoThreadError):
            self.event_log.log(_logger, logging.ERROR, "%s was refused: %s", title, failure)
            return Code.RESOURCE_EXHAUSTED, ErrorBody("", str(failure))
        return self._of_driver(failure, title)

    def _of_driver(self, exc: BaseException, title: str) -> tuple[int, ErrorBody]:
        if type(exc) is RuntimeError and exc.args[:1] == _NO_ASYNCIO:
            exc.add_note("async methods of drivers run in Trio: use trio or anyio, not asyncio")
        level = logging.INFO if isinstance(exc, Exception) else logging.ERROR
        logged = self.event_log.allows(_logger, level)  # to format what is left out costs too much
        traceback = self._send_tracebacks or logged
        code, error = exception_to_wire(exc, traceback=traceback, codes=_TRIO_CODES)
        if logged:
            # As it was described, since to format it again would run the driver's own code again.
            what = indented(error.traceback or error.message)
            self.event_log.write(
                _logger, level, "%s raised %s: %s", title, sanitize_name(error.type), what
            )
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


class CallRejected(Exception):
    """The session itself answers a call with an error."""

    def __init__(self, code: Code, text: str) -> None:
        super().__init__(text)
        self.code = code


def reject(code: Code, text: str) -> NoReturn:
    raise CallRejected(code, text)


def check_fit(method: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]) -> None:
    """Tell arguments that do not fit the method from a TypeError of the driver's own."""
    try:
        signature = inspect.signature(method)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(*args, **kwargs)
    except TypeError as exc:
        reject(Code.INVALID_ARGUMENT, f"its arguments do not fit: {exc}; it takes {signature}")


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
