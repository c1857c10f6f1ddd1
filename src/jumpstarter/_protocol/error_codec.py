"""An exception as an ERROR says it, and an ERROR as an exception: both directions, in one place.

What a driver raises is described once, here, by the table in `errors`; what an exporter answers
becomes one of the classes listed there, whatever the peer wrote. A driver's exception group keeps
its tree. Knows no connection.
"""

from __future__ import annotations

import errno
import traceback as tb
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import dropwhile
from typing import Final, TypeVar

import msgspec

from .._util.deferred_signals import DeferAllSignals
from .._util.text import sanitize_name
from ..errors import (
    ERROR_CLASSES,
    SYSTEM_ERROR_CLASSES,
    Code,
    DriverError,
    DriverErrorGroup,
    code_for,
)
from .codec import truncate
from .frames import MAX_TEXT, ErrorBody, OSErrorDetails

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["exception_from_wire", "exception_to_wire", "without_traceback"]

# What an exporter says of its own call, a driver may not say of a call that it has made itself: the
# inner one was refused or cancelled, the outer one has run.
_OF_ONE_CALL: Final = {
    Code.REFUSED: Code.UNAVAILABLE,
    Code.RESOURCE_EXHAUSTED: Code.UNAVAILABLE,
    Code.CANCELLED: Code.UNKNOWN,
    Code.DEADLINE_EXCEEDED: Code.TIMED_OUT,
}
# Where the code is that calls a driver's, on the way from an event loop or a thread to it.
_PACKAGE: Final = __file__.rpartition("_protocol")[0]
_CALLERS: Final = (f"{_PACKAGE}_", f"{_PACKAGE}driver/", "/trio/", "/outcome/")
_GLANCE: Final = 1000  # characters of a text that is too long to be shown
_NO_TEXT: Final = "<its str() failed>"
_TRACEBACK_NOTE: Final = "Traceback on the exporter:\n"
_MAX_DEPTH: Final = 8  # levels of an exception group that keep their tree; deeper ones are text
_MAX_MEMBERS: Final = 64  # of one group; the others are counted in a note
_NUMBERS: Final = {symbol: number for number, symbol in errno.errorcode.items()}
_INT32: Final = range(-(2**31), 2**31)
# What a code alone says of an OSError.
_OF_PYTHON: Final = ("builtins", "io")
_OWN_NUMBERS: Final = ("socket", "ssl")  # of name services, and of OpenSSL
_TOLD_BY_CODE: Final = tuple(
    OSErrorDetails(k) for k in ("OSError", "ConnectionError", "TimeoutError")
)

T = TypeVar("T")


def exception_to_wire(
    exc: BaseException,
    *,
    traceback: bool = False,
    codes: Mapping[type[BaseException], Code] | None = None,
) -> tuple[Code, ErrorBody]:
    """Describe what a driver raised.

    Args:
        exc: The exception; its own code, such as `__str__`, may fail. A DriverError keeps its wire
            code (a driver that calls another exporter passes on what that one said) unless that
            speaks of the inner call only.
        traceback: Send the formatted traceback, which shows the exporter's paths and source.
        codes: Codes for further classes, looked at first.

    Returns:
        The code and body for `encode_error`. A group of one, which is what a nursery makes of any
        exception, is described as that one.
    """
    with DeferAllSignals():  # as `_guarded` keeps what it gets from whoever waits for it
        return _describe(exc, codes or {}, _MAX_DEPTH, traceback=traceback)


def _describe(
    exc: BaseException, codes: Mapping[type[BaseException], Code], depth: int, *, traceback: bool
) -> tuple[Code, ErrorBody]:
    while isinstance(exc, BaseExceptionGroup) and len(exc.exceptions) == 1:
        exc = exc.exceptions[0]
    notes = _guarded(_notes, exc, None) or []
    lines = _guarded(_lines, exc, None) if traceback else None
    members: list[tuple[int, ErrorBody]] = []
    if isinstance(exc, BaseExceptionGroup) and depth:
        message = exc.message
        kept, rest = exc.exceptions[:_MAX_MEMBERS], exc.exceptions[_MAX_MEMBERS:]
        members = [_describe(member, codes, depth - 1, traceback=traceback) for member in kept]
        notes += [f"{len(rest)} more members of the group were left out"] if rest else []
    else:
        message = truncate(_guarded(str, exc, _NO_TEXT))
    system = _guarded(_system_fault, exc, None) if isinstance(exc, OSError) else None
    origin = _guarded(_origin, exc, None) if depth else None
    # Without its traceback, which is in ours.
    cause = None if origin is None else _describe(origin, codes, depth - 1, traceback=False)
    body = ErrorBody(type(exc).__name__, message, notes, lines, members, system, cause)
    return _code(exc, codes), body


def _origin(exc: BaseException) -> BaseException | None:
    """Give what an exception was raised `from`."""
    cause = exc.__cause__
    return cause if isinstance(cause, BaseException) and cause is not exc else None


def _system_fault(exc: OSError) -> OSErrorDetails | None:
    """Give what an OSError says beyond its text and code, if it says more."""
    classes = type(exc).__mro__
    kinds = (kind.__name__ for kind in classes if kind.__module__ in _OF_PYTHON)
    number = exc.errno if isinstance(exc.errno, int) and exc.errno in _INT32 else None
    text = exc.strerror if isinstance(exc.strerror, str) else None
    own_table = any(kind.__module__ in _OWN_NUMBERS for kind in classes)
    symbol = "" if own_table or number is None else errno.errorcode.get(number, "")
    names: list[str | bytes | int | None] = []
    undecodable = 0
    for bit, value in enumerate((exc.filename, exc.filename2)):
        name = _file_name(value)
        if isinstance(name, str) and (encoded := _encode_undecodable(name)) is not None:
            name = encoded
            undecodable |= 1 << bit
        names.append(name)
    fault = OSErrorDetails(next(kinds), number, symbol, text, names[0], names[1], undecodable)
    return None if fault in _TOLD_BY_CODE else fault


def _file_name(name: object) -> str | bytes | int | None:
    if hasattr(name, "__fspath__"):
        name = name.__fspath__()
    if isinstance(name, int):
        return int(name) if name in _INT32 else None
    return name if isinstance(name, str | bytes) else None


def _encode_undecodable(name: str) -> bytes | None:
    """Return the bytes of a name that is not valid UTF-8; None for any other name."""
    try:
        name.encode()
    except UnicodeEncodeError:
        with suppress(UnicodeEncodeError):  # it did not come from bytes, so none stand for it
            return name.encode(errors="surrogateescape")
    return None


def _code(exc: BaseException, codes: Mapping[type[BaseException], Code]) -> Code:
    code = next((code for kind, code in codes.items() if isinstance(exc, kind)), None)
    if code is not None:
        return code
    if not isinstance(exc, DriverError):
        return code_for(exc)
    code = _guarded(Code, exc.code, Code.UNKNOWN)
    return _OF_ONE_CALL.get(code, code)


def _notes(exc: BaseException) -> list[str]:
    notes = [_guarded(str, note, _NO_TEXT) for note in getattr(exc, "__notes__", ())]
    # Another exporter's traceback is in ours already, or not for whoever may not see ours.
    return [note for note in notes if not note.startswith(_TRACEBACK_NOTE)]


def _lines(exc: BaseException) -> str:
    if len(text := str(exc)) > MAX_TEXT:  # to format that takes seconds, and a gigabyte
        frames = [each for each in tb.extract_tb(exc.__traceback__) if not _is_a_callers(each)]
        return "".join(
            [*tb.format_list(frames), f"{type(exc).__name__}: {truncate(text, _GLANCE)}"]
        )
    exception = tb.TracebackException.from_exception(exc)
    _begin_with_the_driver(exception)
    return "".join(exception.format())


def _begin_with_the_driver(exception: tb.TracebackException) -> None:
    """Leave out how the driver's code was called, of what it raised and of what led to that."""
    rest: list[tb.TracebackException | None] = [exception]
    while rest:
        if (each := rest.pop()) is not None:
            frames = list(dropwhile(_is_a_callers, each.stack)) or each.stack[-1:]
            each.stack = tb.StackSummary.from_list(frames)
            rest += [each.__cause__, each.__context__, *(each.exceptions or ())]


def _is_a_callers(frame: tb.FrameSummary) -> bool:
    return any(place in frame.filename for place in _CALLERS)


def _guarded(function: Callable[..., T], argument: object, otherwise: T) -> T:
    """Call what may run a driver's own code: to describe a failure must not be one."""
    try:
        return function(argument)
    except BaseException:  # noqa: BLE001 - whatever that code raises; undisturbed, see `describe`
        return otherwise


def without_traceback(body: ErrorBody) -> ErrorBody:
    """Leave the traceback out, of an exception group's members too."""
    members = [(code, without_traceback(member)) for code, member in body.members]
    return msgspec.structs.replace(body, traceback=None, members=members)


def exception_from_wire(code: int, body: ErrorBody, context: str) -> DriverError:
    """Make the exception that an ERROR stands for.

    Args:
        code: The wire code; one that is not in the table becomes a plain DriverError.
        body: What came with it. Nothing in it is ever looked up or imported.
        context: What was called, for the text.
    """
    error = _group(body, context) if body.members else _single(code, body, context)
    if body.cause is not None:
        error.__cause__ = exception_from_wire(*body.cause, "")
    for note in body.notes:
        error.add_note(note)
    if body.traceback:
        error.add_note(_TRACEBACK_NOTE + body.traceback.rstrip())
    return error


def _single(code: int, body: ErrorBody, context: str) -> DriverError:
    kind = ERROR_CLASSES.get(code, DriverError)
    known = Code.of(code, Code.UNKNOWN)
    if body.system is not None:
        kind = SYSTEM_ERROR_CLASSES.get((kind, body.system.kind), kind)
    error = kind(
        body.message,
        code=known,
        remote_type=_type_name(body),
        remote_traceback=body.traceback,
        context=context,
    )
    if body.system is not None and isinstance(error, OSError):
        _put_fault(error, body.system)
    return error


def _put_fault(error: OSError, fault: OSErrorDetails) -> None:
    error.errno = _NUMBERS.get(fault.symbol, fault.errno)
    error.strerror = fault.strerror
    for bit, attribute in enumerate(("filename", "filename2")):
        name = _file_name(getattr(fault, attribute))
        if isinstance(name, bytes) and fault.undecodable >> bit & 1:
            name = name.decode(errors="surrogateescape")
        setattr(error, attribute, name)


def _type_name(body: ErrorBody) -> str:
    """Give the name that stands in the frame of the text: a word, whatever the peer has sent."""
    return sanitize_name(body.type) if body.type else ""


def _group(body: ErrorBody, context: str) -> DriverErrorGroup:
    return DriverErrorGroup(
        body.message,
        [exception_from_wire(code, member, "") for code, member in body.members],
        remote_type=_type_name(body),
        remote_traceback=body.traceback,
        context=context,
    )
