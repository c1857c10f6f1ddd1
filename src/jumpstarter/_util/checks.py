"""Check arguments, with messages that name the argument, its value and the accepted values.

Each check returns the value or raises. Two kinds of values that pass for numbers in Python are
refused: a `bool`, and NaN, which compares as neither less nor greater, so that a timeout of NaN
would never pass. Messages show only plain values, because the `repr` of another object can be long
or fail.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from numbers import Integral, Real
from pathlib import PurePath
from typing import Any, Final, NoReturn, ParamSpec, TypeAlias, TypeVar

from ..errors import ArgumentTypeError, ArgumentValueError
from .text import sanitize_text

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = [
    "as_bytes",
    "check_callable",
    "check_flag",
    "check_instance",
    "check_int",
    "check_max_bytes",
    "check_number",
    "check_path",
    "check_seconds",
    "check_secret",
    "check_size_hint",
    "check_text",
    "raise_type_error",
    "raise_value_error",
    "refuse_timeout",
]

P = ParamSpec("P")
T = TypeVar("T")
Error: TypeAlias = type[Exception] | None

_PLAIN: Final = (bool, int, float, str, bytes, PurePath)
_LONGEST: Final = 80  # characters of a value that a message shows


def raise_type_error(name: str, value: object, accepted: str, error: Error = None) -> NoReturn:
    """Raise for a value whose type is not accepted."""
    raise (error or ArgumentTypeError)(f"{name} must be {accepted}, not {_shown(value)}")


def raise_value_error(name: str, value: object, accepted: str, error: Error = None) -> NoReturn:
    """Raise for a value that is out of range or otherwise not accepted."""
    raise (error or ArgumentValueError)(f"{name} must be {accepted}, not {_shown(value)}")


def refuse_timeout(what: str, instead: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Decorate a function so that a `timeout=` which it does not have is refused with advice.

    Args:
        what: The function, as its callers write it.
        instead: What to do to limit the time.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(function)
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
            if kwargs and "timeout" in kwargs:
                raise ArgumentTypeError(f"{what} has no parameter timeout: {instead}")
            return function(*args, **kwargs)

        return wrapper

    return decorate


def _shown(value: object) -> str:
    if value is None:
        return "None"
    kind = type(value).__name__
    if isinstance(value, _PLAIN):
        text = value if isinstance(value, str) else repr(value)
        shown = sanitize_text(text, _LONGEST) if isinstance(value, str) else text[:_LONGEST]
        return f"{shown} ({kind})"
    return f"the class {value.__name__}" if isinstance(value, type) else f"an object of type {kind}"


def check_instance(
    name: str, value: object, kind: type[T], accepted: str, error: Error = None
) -> T:
    """Check that a value is an instance of a class."""
    if not isinstance(value, kind):
        raise_type_error(name, value, accepted, error)
    return value


def check_text(name: str, value: object, accepted: str = "a str", error: Error = None) -> str:
    """Check that a value is a str."""
    return check_instance(name, value, str, accepted, error)


def check_secret(name: str, value: object, accepted: str) -> str:
    """Check a str that no message may show. None counts as an empty one."""
    if value is not None and not isinstance(value, str):
        text = f"{name} must be {accepted}, not an object of type {type(value).__name__}"
        raise ArgumentTypeError(text)
    return value or ""


def check_flag(name: str, value: object, error: Error = None) -> bool:
    """Check that a value is a bool. A text such as `"no"` is not one."""
    return check_instance(name, value, bool, "True or False", error)


def check_callable(name: str, value: Any, accepted: str = "a function") -> Callable[..., Any]:
    """Check that a value can be called."""
    if not callable(value):
        raise_type_error(name, value, accepted)
    function: Callable[..., Any] = value
    return function


def check_path(name: str, value: Any, error: Error = None) -> str:
    """Check the path of a file, a str or a Path, and return it as a str."""
    accepted = "a path, as a str or a pathlib.Path"
    path = value.__fspath__() if hasattr(type(value), "__fspath__") else value
    if not isinstance(path, str):
        raise_type_error(name, value, accepted, error)
    if not path or "\0" in path:
        raise_value_error(name, value, f"{accepted}, neither empty nor with a NUL", error)
    return path


def check_number(
    name: str,
    value: Any,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    accepted: str = "",
    error: Error = None,
) -> float:
    """Check that a value is a number within a range. NaN is in no range."""
    accepted = accepted or _range("a number", low, high)
    if not _is(value, Real):
        raise_type_error(name, value, accepted, error)
    try:
        number = float(value)
    except OverflowError:
        number = math.inf if value > 0 else -math.inf
    if not low <= number <= high:
        raise_value_error(name, value, accepted, error)
    return number


def check_seconds(name: str, value: object, *, error: Error = None) -> float:
    """Check that a value is a duration in seconds. `math.inf` is accepted."""
    accepted = "a number of seconds, 0 or more (math.inf: without end)"
    return check_number(name, value, 0, accepted=accepted, error=error)


def check_int(
    name: str,
    value: Any,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    accepted: str = "",
    error: Error = None,
) -> int:
    """Check that a value is an integer within a range."""
    accepted = accepted or _range("a whole number", low, high)
    if not _is(value, Integral):
        raise_type_error(name, value, accepted, error)
    if not low <= value <= high:
        raise_value_error(name, value, accepted, error)
    return int(value)


def _is(value: object, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def check_size_hint(name: str, value: object) -> None:
    """Check that a value is a number of bytes, or None if it is unknown."""
    if value is not None:
        check_int(name, value, 0, accepted="a whole number of bytes, or None")


def as_bytes(data: Any) -> bytes:
    """Return data that is to be sent as bytes."""
    try:
        return bytes(memoryview(data))
    except TypeError:
        raise_type_error("data", data, "bytes, a bytearray or a memoryview; encode a str first")


def check_max_bytes(max_bytes: Any) -> None:
    """Check the `max_bytes` of a receive. Fast, because it runs for each piece of a stream."""
    if max_bytes is not None and (type(max_bytes) is not int or max_bytes < 1):
        check_int("max_bytes", max_bytes, 1, accepted="a whole number, at least 1, or None")


def _range(what: str, low: float, high: float) -> str:
    if low == -math.inf:
        return what if high == math.inf else f"{what}, {high} or less"
    return f"{what}, {low} or more" if high == math.inf else f"{what} from {low} to {high}"
