"""Compare the arguments that a configuration gives to a driver's class with those that it takes.

Nothing is constructed, since a driver may access its device when it is made.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from .._util.extras import requires_extra
from ._nearest import did_you_mean, nearest_word

with requires_extra("cli", "jumpstarter.config"):
    from pydantic import TypeAdapter, ValidationError

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["ArgumentFault", "unfit_arguments", "unfit_values"]

# Types of YAML that a class is certain to expect where it is annotated with them. A class may
# convert anything else, such as a number that it accepts for a date.
_PLAIN: Final = frozenset({bool, int, float, str, types.NoneType})


class ArgumentFault(NamedTuple):
    """An argument that a class does not take as it is given.

    Attributes:
        name: The argument.
        text: What is wrong.
    """

    name: str
    text: str


def unfit_arguments(
    make: Callable[..., object], given: Mapping[str, Any]
) -> Iterator[ArgumentFault]:
    """Yield the arguments that a class does not take, and those that it needs and does not get."""
    try:
        parameters = inspect.signature(make).parameters
    except (TypeError, ValueError):  # callables of C code may have no signature
        return
    kinds = {each.kind for each in parameters.values()}
    title = getattr(make, "__name__", "it")
    named = {
        name: each
        for name, each in parameters.items()
        if each.kind in {each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY}
    }
    meant: set[str | None] = set()  # an argument that is mistyped is not reported as missing too
    if inspect.Parameter.VAR_KEYWORD not in kinds:
        for name in given:
            if name not in named:
                meant.add(nearest_word(name, named))
                text = f"{title}() got an unexpected keyword argument {name!r}"
                yield ArgumentFault(name, text + did_you_mean(name, named, "it takes"))
    for name, each in named.items():
        if each.default is each.empty and name not in given and name not in meant:
            yield ArgumentFault(name, f"{title}() needs the argument {name!r}")


def unfit_values(make: Callable[..., object], given: Mapping[str, Any]) -> Iterator[ArgumentFault]:
    """Yield the arguments that a class annotates with a plain type, and that have another one."""
    try:
        hints = typing.get_type_hints(make)
    except Exception:  # noqa: BLE001 - names that exist for type checkers only, or anything else
        return
    for name, value in given.items():
        if name in hints and _is_plain(hints[name]):
            try:
                TypeAdapter(hints[name]).validate_python(value)
            except ValidationError as exc:
                wanted = exc.errors(include_url=False)[0]["msg"]
                wanted = wanted[:1].lower() + wanted[1:]
                yield ArgumentFault(name, f"{name} is {value!r:.100}: {wanted}")


def _is_plain(hint: Any) -> bool:
    if typing.get_origin(hint) in {typing.Union, types.UnionType}:
        return all(_is_plain(each) for each in typing.get_args(hint))
    return isinstance(hint, type) and hint in _PLAIN
