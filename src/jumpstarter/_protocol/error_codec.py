"""Convert exceptions to ERROR payloads, and ERROR payloads to exceptions.

`exception_to_wire` describes an exception that a driver raised, by the table in `errors`.
`exception_from_wire` makes one of the classes listed there, whatever the peer has sent. An
exception group keeps its tree.
"""

from __future__ import annotations

import contextlib
import errno
import sys
import traceback as tb
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
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

# If a driver itself calls an exporter and that call is refused or cancelled, the driver's own call
# was not: it has run. So these codes are replaced when a driver's exception carries them.
_OUTER_CODES: Final = {
    Code.REFUSED: Code.UNAVAILABLE,
    Code.RESOURCE_EXHAUSTED: Code.UNAVAILABLE,
    Code.CANCELLED: Code.UNKNOWN,
    Code.DEADLINE_EXCEEDED: Code.TIMED_OUT,
}
# Paths of the code that calls a driver's: its frames are left out at the top of a traceback.
_PACKAGE: Final = __file__.rpartition("_protocol")[0]
_CALLERS: Final = (f"{_PACKAGE}_", f"{_PACKAGE}driver/", "/trio/", "/outcome/")
_COMPILED: Final = "src/jumpstarter/"  # the path of a compiled module begins so
_CARRIERS: Final = ("trio", "outcome", "anyio")
_SHORT_TEXT: Final = 1000  # characters shown of a text that is too long to be sent
_NO_TEXT: Final = "<its str() failed>"
_TRACEBACK_NOTE: Final = "Traceback on the exporter:\n"
_MAX_DEPTH: Final = 8  # levels of groups and causes; deeper ones are sent as text
_MAX_MEMBERS: Final = 64  # of one group; a note counts the others
_NUMBERS: Final = {symbol: number for number, symbol in errno.errorcode.items()}
_INT32: Final = range(-(2**31), 2**31)
_PYTHON_MODULES: Final = ("builtins", "io")
# Their errno is not the system's, but one of name services and of OpenSSL.
_OWN_ERRNO_MODULES: Final = ("socket", "ssl")
# The code of an ERROR says as much as these.
_SAME_AS_CODE: Final = tuple(
    OSErrorDetails(k) for k in ("OSError", "ConnectionError", "TimeoutError")
)

T = TypeVar("T")


def exception_to_wire(
    exc: BaseException,
    traceback: bool = False,
    codes: Mapping[type[BaseException], Code] | None = None,
    *,
    all_frames: bool = False,
) -> tuple[Code, ErrorBody]:
    """Describe an exception that a driver raised.

    Args:
        exc: The exception. Its own code, such as `__str__`, may fail. A DriverError keeps its wire
            code, so a driver that calls another exporter passes on that one's error, unless the
            code describes the inner call only.
        traceback: Include the formatted traceback, which shows the exporter's paths and source.
        codes: Codes for further classes. They take precedence.
        all_frames: Keep the frames of libraries between those of the driver in the traceback.

    Returns:
        The code and body for `encode_error`. A group with one member, which a nursery makes of any
        exception, is described as that member.
    """
    with DeferAllSignals():  # or `_guarded` could swallow the exception of a signal handler
        formatted = partial(_format_traceback, all_frames=all_frames) if traceback else None
        return _describe(exc, codes or {}, _MAX_DEPTH, formatted)


def _describe(
    exc: BaseException,
    codes: Mapping[type[BaseException], Code],
    depth: int,
    formatted: Callable[[BaseException], str] | None,
) -> tuple[Code, ErrorBody]:
    while isinstance(exc, BaseExceptionGroup) and len(exc.exceptions) == 1:
        exc = exc.exceptions[0]
    notes = _guarded(_notes, exc, None) or []
    lines = _guarded(formatted, exc, None) if formatted is not None else None
    members: list[tuple[int, ErrorBody]] = []
    if isinstance(exc, BaseExceptionGroup) and depth:
        message = exc.message
        kept, rest = exc.exceptions[:_MAX_MEMBERS], exc.exceptions[_MAX_MEMBERS:]
        members = [_describe(member, codes, depth - 1, formatted) for member in kept]
        notes += [f"{len(rest)} more members of the group were omitted"] if rest else []
    else:
        message = truncate(_guarded(str, exc, _NO_TEXT))
    system = _guarded(_os_error_details, exc, None) if isinstance(exc, OSError) else None
    origin = _guarded(_explicit_cause, exc, None) if depth else None
    # Our own traceback includes that of the cause.
    cause = None if origin is None else _describe(origin, codes, depth - 1, None)
    body = ErrorBody(type(exc).__name__, message, notes, lines, members, system, cause)
    return _code(exc, codes), body


def _explicit_cause(exc: BaseException) -> BaseException | None:
    """Return the exception that this one was raised `from`."""
    cause = exc.__cause__
    return cause if isinstance(cause, BaseException) and cause is not exc else None


def _os_error_details(exc: OSError) -> OSErrorDetails | None:
    """Return the fields of an OSError, or None if its code alone says as much."""
    classes = type(exc).__mro__
    kinds = (kind.__name__ for kind in classes if kind.__module__ in _PYTHON_MODULES)
    number = exc.errno if isinstance(exc.errno, int) and exc.errno in _INT32 else None
    text = exc.strerror if isinstance(exc.strerror, str) else None
    own_table = any(kind.__module__ in _OWN_ERRNO_MODULES for kind in classes)
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
    return None if fault in _SAME_AS_CODE else fault


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
        # Not made from bytes by os.fsdecode: no bytes stand for it.
        with suppress(UnicodeEncodeError):
            return name.encode(errors="surrogateescape")
    return None


def _code(exc: BaseException, codes: Mapping[type[BaseException], Code]) -> Code:
    code = next((code for kind, code in codes.items() if isinstance(exc, kind)), None)
    if code is not None:
        return code
    if not isinstance(exc, DriverError):
        return code_for(exc)
    code = _guarded(Code, exc.code, Code.UNKNOWN)
    return _OUTER_CODES.get(code, code)


def _notes(exc: BaseException) -> list[str]:
    notes = [_guarded(str, note, _NO_TEXT) for note in getattr(exc, "__notes__", ())]
    # Drop another exporter's traceback: ours includes it, or the client may not see tracebacks.
    return [note for note in notes if not note.startswith(_TRACEBACK_NOTE)]


def _format_traceback(exc: BaseException, *, all_frames: bool) -> str:
    if len(text := str(exc)) > MAX_TEXT:  # formatting it would take seconds and a gigabyte
        frames = _shown_frames(tb.extract_tb(exc.__traceback__), all_frames=all_frames)
        return "".join(
            [*tb.format_list(frames), f"{type(exc).__name__}: {truncate(text, _SHORT_TEXT)}"]
        )
    exception = tb.TracebackException.from_exception(exc)
    rest: list[tb.TracebackException | None] = [exception]
    while rest:
        if (each := rest.pop()) is not None:
            frames = _shown_frames(each.stack, all_frames=all_frames)
            each.stack = tb.StackSummary.from_list(frames)
            rest += [each.__cause__, each.__context__, *(each.exceptions or ())]
    return "".join(exception.format())


def _shown_frames(stack: tb.StackSummary, *, all_frames: bool) -> list[tb.FrameSummary]:
    """Remove the frames of the code that called the driver, and of libraries between its own."""
    frames = list(dropwhile(_is_caller_frame, stack))
    if not all_frames:
        libraries = _libraries()
        frames = [each for each in frames if not each.filename.startswith(libraries)]
    return frames or stack[-1:]


def _libraries() -> tuple[str, ...]:
    """Return where the libraries are that carry a driver's code from task to task and thread."""
    found = [sys.modules.get(name) for name in _CARRIERS]
    files = [each.__file__ for each in found if each is not None and each.__file__]
    return (
        _PACKAGE,
        _COMPILED,
        contextlib.__file__,
        *(each.rpartition("__init__")[0] for each in files),
    )


def _is_caller_frame(frame: tb.FrameSummary) -> bool:
    file = frame.filename
    return file.startswith(_COMPILED) or any(place in file for place in _CALLERS)


def _guarded(function: Callable[..., T], argument: object, default: T) -> T:
    """Call code that may be the driver's own. Describing a failure must not fail itself."""
    try:
        return function(argument)
    except BaseException:  # noqa: BLE001 - of the driver's code; signal handlers are deferred
        return default


def without_traceback(body: ErrorBody) -> ErrorBody:
    """Return a copy without the tracebacks, those of a group's members included."""
    members = [(code, without_traceback(member)) for code, member in body.members]
    return msgspec.structs.replace(body, traceback=None, members=members)


def exception_from_wire(code: int, body: ErrorBody, context: str) -> DriverError:
    """Make the exception that an ERROR describes.

    Args:
        code: The wire code. A code that is not in the table makes a plain DriverError.
        body: The content of the ERROR. Nothing in it is looked up or imported.
        context: The method that was called, for the message.
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
        _set_os_error_fields(error, body.system)
    return error


def _set_os_error_fields(error: OSError, fault: OSErrorDetails) -> None:
    error.errno = _NUMBERS.get(fault.symbol, fault.errno)
    error.strerror = fault.strerror
    for bit, attribute in enumerate(("filename", "filename2")):
        name = _file_name(getattr(fault, attribute))
        if isinstance(name, bytes) and fault.undecodable >> bit & 1:
            name = name.decode(errors="surrogateescape")
        setattr(error, attribute, name)


def _type_name(body: ErrorBody) -> str:
    """Return the remote type's name for the message: one word, whatever the peer has sent."""
    return sanitize_name(body.type) if body.type else ""


def _group(body: ErrorBody, context: str) -> DriverErrorGroup:
    return DriverErrorGroup(
        body.message,
        [exception_from_wire(code, member, "") for code, member in body.members],
        remote_type=_type_name(body),
        remote_traceback=body.traceback,
        context=context,
    )
