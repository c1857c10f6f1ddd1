"""An exception as an ERROR says it, and an ERROR as an exception: both directions, in one place.

What a driver raises is described once, here, by the table in `errors`; what an exporter answers
becomes one of the classes listed there, whatever the peer wrote. A driver's exception group keeps
its tree. Knows no connection.
"""

from __future__ import annotations

import traceback as tb
from collections.abc import Mapping
from typing import Final

from ._messages import ErrorBody
from .errors import (
    ERROR_CLASSES,
    Code,
    DriverError,
    DriverErrorGroup,
    code_for,
)

__all__ = ["describe", "revive"]

# What an exporter says of its own call, a driver may not say of a call that it has made itself: the
# inner one was refused or cancelled, the outer one has run.
_OF_ONE_CALL: Final = {
    Code.REFUSED: Code.UNAVAILABLE,
    Code.RESOURCE_EXHAUSTED: Code.UNAVAILABLE,
    Code.CANCELLED: Code.UNKNOWN,
    Code.DEADLINE_EXCEEDED: Code.TIMED_OUT,
}
# Nothing in it may fail: a driver's exception can have a __str__ that raises.
_NO_TEXT = "<its str() failed>"
_TRACEBACK_NOTE = "Traceback on the exporter:\n"


def describe(
    exc: BaseException,
    *,
    traceback: bool = False,
    codes: Mapping[type[BaseException], Code] | None = None,
) -> tuple[Code, ErrorBody]:
    """Describe what a driver raised.

    Args:
        exc: The exception. A DriverError keeps its own code (a driver that calls another exporter
            passes on what that one said) unless that speaks of the inner call only.
        traceback: Send the formatted traceback, which shows the exporter's paths and source.
        codes: Codes for further classes, looked at first.

    Returns:
        The code and body for `encode_error`. A group of one, which is what a nursery makes of any
        exception, is described as that one.
    """
    while isinstance(exc, BaseExceptionGroup) and len(exc.exceptions) == 1:
        exc = exc.exceptions[0]
    code = next((code for kind, code in (codes or {}).items() if isinstance(exc, kind)), None)
    if code is None:
        code = exc.code if isinstance(exc, DriverError) else code_for(exc)
        code = _OF_ONE_CALL.get(code, code)
    members: list[tuple[int, ErrorBody]] = []
    if isinstance(exc, BaseExceptionGroup):
        members = [describe(member, traceback=traceback, codes=codes) for member in exc.exceptions]
        message = exc.message
    else:
        message = _text(exc)
    # Another exporter's traceback is in ours already, or not for whoever may not see ours.
    notes = [str(note) for note in getattr(exc, "__notes__", ())]
    notes = [note for note in notes if not note.startswith(_TRACEBACK_NOTE)]
    lines = "".join(tb.format_exception(exc)) if traceback else None
    return code, ErrorBody(type(exc).__name__, message, notes, lines, members)


def _text(exc: BaseException) -> str:
    try:
        return str(exc)
    except Exception:  # noqa: BLE001 - any driver's __str__
        return _NO_TEXT


def revive(code: int, body: ErrorBody, context: str) -> DriverError:
    """Make the exception that an ERROR stands for.

    Args:
        code: The wire code; one that is not in the table becomes a plain DriverError.
        body: What came with it. Nothing in it is ever looked up or imported.
        context: What was called, for the text.
    """
    error = _group(body, context) if body.members else _single(code, body, context)
    for note in body.notes:
        error.add_note(note)
    if body.traceback:
        error.add_note(_TRACEBACK_NOTE + body.traceback.rstrip())
    return error


def _single(code: int, body: ErrorBody, context: str) -> DriverError:
    kind = ERROR_CLASSES.get(code, DriverError)
    known = Code(code) if code in Code._value2member_map_ else Code.UNKNOWN
    return kind(
        body.message,
        code=known,
        remote_type=body.type,
        remote_traceback=body.traceback,
        context=context,
    )


def _group(body: ErrorBody, context: str) -> DriverErrorGroup:
    return DriverErrorGroup(
        body.message,
        [revive(code, member, "") for code, member in body.members],
        remote_type=body.type,
        remote_traceback=body.traceback,
        context=context,
    )
