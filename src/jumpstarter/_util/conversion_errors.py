"""Find out why a conversion failed: because of the value, or because of a signal handler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from ..errors import ArgumentError
from .deferred_signals import DeferAllSignals

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["ModelError", "as_argument_error", "exception_from", "is_model_error"]


class ModelError(ValueError):
    """A model's validation error, with a message of limited length."""


def is_model_error(exc: Any) -> bool:
    """Return whether this is a validation error of pydantic, by its methods."""
    return callable(getattr(exc, "errors", None)) and callable(getattr(exc, "error_count", None))


def as_argument_error(
    exc: Exception, attempt: Callable[[], object], text: Callable[[], str]
) -> ArgumentError:
    """Return the error for an attempt that failed because of a value or a type.

    A conversion runs code of the value's class, which may raise anything, and a signal handler may
    raise in the middle of it. To tell the two apart, the attempt is repeated while signal handlers
    are deferred. They stay deferred while `text` is called, which makes further attempts.

    Args:
        exc: The exception that the attempt raised.
        attempt: Repeats it.
        text: Makes the message of the error.

    Raises:
        Exception: The signal handler's exception, unchanged, if the repeated attempt ends
            differently.
    """
    with DeferAllSignals():
        original = _unwrapped(exc)
        again = exception_from(attempt)
        try:
            if again is not None and type(_unwrapped(again)) is type(original):
                error = ArgumentError(text())
                error.explains_cause = True
                return error
            raise original
        finally:
            del again, original  # their tracebacks refer to this frame


def _unwrapped(exc: Any) -> Exception:
    """Return the original exception, which msgspec or pydantic may have wrapped."""
    seen: set[int] = set()  # an exception may be its own cause
    while isinstance(exc, msgspec.MsgspecError | ModelError) or _is_pydantics(exc):
        if id(exc) in seen:
            break
        seen.add(id(exc))
        details = exc.errors() if is_model_error(exc) else []
        wrapped = [each.get("ctx", {}).get("error") for each in details]
        within = [each for each in [exc.__cause__, *wrapped] if isinstance(each, Exception)]
        if not within:
            break
        exc = within[0]
    return exc  # type: ignore[no-any-return]  # both it and the wrapped one are exceptions


def _is_pydantics(exc: Exception) -> bool:
    return type(exc).__module__.partition(".")[0] in {"pydantic", "pydantic_core"}


def exception_from(attempt: Callable[[], object]) -> Exception | None:
    """Call a function and return the exception that it raises, or None."""
    try:
        attempt()
    except Exception as exc:  # noqa: BLE001 - of a value's own code; signal handlers are deferred
        return exc
    return None
