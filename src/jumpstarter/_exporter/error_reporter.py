"""Convert the exception of a call to an error for its client, and to a line of the log.

An exception of the driver keeps its type and text. A call that the session itself rejects gets the
session's own text, and is not logged, since nothing has failed.

The log has the traceback of what a driver raised, except of an expected refusal, which has one line
at level INFO: an OSError (a port in use, a device that is gone) or an exception of this library (an
argument that does not fit). At level DEBUG these have their traceback too.

A traceback, in the log or for the client, has the frames of the driver and of what it uses, and not
those of this library, Trio and contextlib; at level DEBUG it has those too.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn

import trio

from .._protocol.error_codec import exception_to_wire, without_traceback
from .._protocol.frames import ErrorBody
from .._util.async_library import is_in_wrong_loop
from .._util.deferred_signals import DeferAllSignals
from .._util.log_limit import RateLimitedLogger
from .._util.log_records import FACTS
from .._util.text import indent_text, sanitize_name, sanitize_text
from ..errors import Code, JumpstarterException
from .executor import NoThreadError

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["CallRejected", "ErrorReporter", "blame_arguments", "reject"]

_logger = logging.getLogger("jumpstarter.exporter")

_EXPECTED: Final = (OSError, JumpstarterException)  # their text is enough for an operator
_TRIO_CODES: Final[dict[type[BaseException], Code]] = {
    trio.TooSlowError: Code.TIMED_OUT,
    trio.BrokenResourceError: Code.UNAVAILABLE,
    trio.ClosedResourceError: Code.UNAVAILABLE,
}


class ErrorReporter:
    """Report exceptions of the calls of one client, to the client and to the log.

    Args:
        event_log: Writes the lines.
        send_tracebacks: Send the driver's traceback to the client as well.
    """

    def __init__(self, event_log: RateLimitedLogger, *, send_tracebacks: bool) -> None:
        self.event_log: RateLimitedLogger = event_log
        self._send_tracebacks = send_tracebacks

    def report(
        self, exc: BaseException, title: str, advice: Callable[[], str] | None = None
    ) -> tuple[int, ErrorBody] | None:
        """Log an exception, and return the code and body of the ERROR that ends the call.

        Args:
            exc: The exception that the call has raised.
            title: The method, for the log.
            advice: Explains in which loop the method runs, if it is the wrong one.

        Returns:
            None for a cancellation alone, which is not logged.
        """
        failure = without_cancelled(exc)
        if failure is None:
            return None
        try:
            return self._report_failure(failure, title, advice)
        finally:
            _drop_tracebacks(failure)

    def log(self, exc: BaseException, title: str) -> None:
        """Log an exception of code whose end no client waits for."""
        debugged = _logger.isEnabledFor(logging.DEBUG)
        _, error = exception_to_wire(exc, traceback=True, all_frames=debugged)
        self._write(logging.ERROR, error, title)
        _drop_tracebacks(exc)

    def _report_failure(
        self, failure: BaseException, title: str, advice: Callable[[], str] | None
    ) -> tuple[int, ErrorBody]:
        if isinstance(failure, CallRejected):
            return failure.code, ErrorBody("", str(failure))
        if isinstance(failure, NoThreadError):
            self.event_log.log(_logger, logging.ERROR, "%s was refused: %s", title, failure)
            return Code.RESOURCE_EXHAUSTED, ErrorBody("", str(failure))
        if advice is not None and is_in_wrong_loop(failure):
            failure.add_note(advice())
        return self._report_driver(failure, title)

    def _report_driver(self, exc: BaseException, title: str) -> tuple[int, ErrorBody]:
        level = logging.INFO if isinstance(exc, Exception) else logging.ERROR
        # First: formatting is expensive.
        is_logged = self.event_log.allows(_logger, level)
        is_debugged = _logger.isEnabledFor(logging.DEBUG)
        is_short = isinstance(exc, _EXPECTED) and not is_debugged
        traceback = self._send_tracebacks or (is_logged and not is_short)
        code, error = exception_to_wire(
            exc, traceback=traceback, codes=_TRIO_CODES, all_frames=is_debugged
        )
        if is_logged:
            # Reuse the description: formatting the exception again would run the driver's code
            # again.
            known = {"outcome": "raised", "exception": f"{error.type}: {error.message}"}
            extra = {FACTS: known}
            self._write(level, without_traceback(error) if is_short else error, title, extra)
        return code, error if self._send_tracebacks else without_traceback(error)

    def _write(
        self, level: int, error: ErrorBody, title: str, extra: Mapping[str, object] | None = None
    ) -> None:
        what = indent_text(error.traceback) if error.traceback else sanitize_text(error.message)
        name = sanitize_name(error.type)
        text = "%s raised %s: %s"
        self.event_log.write(_logger, level, text, title, name, what, extra=extra)


def _drop_tracebacks(exc: BaseException) -> None:
    """Remove the tracebacks of a reported exception, and of the exceptions that led to it.

    Trio keeps the outcome of a thread in frames to which the traceback refers. This cycle would
    keep the arguments (perhaps an image) alive until the garbage collector runs.
    """
    rest: list[BaseException | None] = [exc]
    while rest:
        each = rest.pop()
        if each is not None and each.__traceback__ is not None:
            each.__traceback__ = None
            rest += [each.__cause__, each.__context__]


class CallRejected(Exception):
    """Raised when the session itself answers a call with an error."""

    def __init__(self, code: Code, text: str) -> None:
        super().__init__(text)
        self.code = code


def reject(code: Code, text: str) -> NoReturn:
    """End a call with an error of the session's own.

    Raises:
        CallRejected: Always.
    """
    raise CallRejected(code, text)


def blame_arguments(
    exc: TypeError, method: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]
) -> Exception:
    """Return what a method's TypeError is to its client: arguments that do not fit, or itself.

    Only the arguments can tell: a method with decorators raises it from within itself.
    """
    try:
        signature = inspect.signature(method)
    except (TypeError, ValueError):
        return exc
    try:
        signature.bind(*args, **kwargs)
    except TypeError as misfit:
        text = f"its arguments do not fit: {misfit}; it takes {signature}"
        rejected = CallRejected(Code.INVALID_ARGUMENT, text)
        rejected.__context__ = exc
        return rejected
    return exc


def without_cancelled(exc: BaseException) -> BaseException | None:
    """Remove cancellations from an exception group; return None if nothing else is left."""
    if isinstance(exc, trio.Cancelled):
        return None
    if isinstance(exc, BaseExceptionGroup):
        with DeferAllSignals():
            try:
                return exc.split(trio.Cancelled)[1]
            except BaseException:  # noqa: BLE001 - a driver's own class of groups, or too deep a one
                return exc
    return exc
