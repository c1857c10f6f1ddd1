"""Whose fault it is that something cannot be converted: its own, or a signal handler's.

This module knows errors, msgspec's and pydantic's among them, and no types or values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from ..errors import ArgumentError
from .deferred_signals import DeferAllSignals

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["ModelError", "as_argument_error", "exception_from", "is_model_error"]


class ModelError(ValueError):
    """A model's validation error, in words that are not too many."""


def is_model_error(exc: Any) -> bool:
    return callable(getattr(exc, "errors", None)) and callable(getattr(exc, "error_count", None))


def as_argument_error(
    exc: Exception, attempt: Callable[[], object], text: Callable[[], str]
) -> ArgumentError:
    """Give the error for an attempt that has failed because of a value, or of a type.

    These run code of their own, which raises anything; and a signal handler can have raised amid
    that. So it is tried again where no handler runs. None disturbs the search for the text either,
    which tries further, or is lost in it.

    Args:
        exc: What it failed with.
        attempt: Does it once more.
        text: Makes the text of the error.

    Raises:
        Exception: What a handler has raised, as it is: without it, the attempt ends otherwise.
    """
    with DeferAllSignals():
        came = _unwrapped(exc)
        again = exception_from(attempt)
        try:
            if again is not None and type(_unwrapped(again)) is type(came):
                return ArgumentError(text())
            raise came
        finally:
            del again, came  # whose tracebacks have this frame


def _unwrapped(exc: Any) -> Exception:
    """Give what was raised amid a conversion, of what msgspec or pydantic has made of it."""
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
    return exc  # type: ignore[no-any-return]  # it was one, and what it wraps was checked


def _is_pydantics(exc: Exception) -> bool:
    return type(exc).__module__.partition(".")[0] in {"pydantic", "pydantic_core"}


def exception_from(attempt: Callable[[], object]) -> Exception | None:
    try:
        attempt()
    except Exception as exc:  # noqa: BLE001 - of a value's own code; callers are undisturbed
        return exc
    return None
