"""Mistakes that are easily made in a driver's class, each told with what to do about it.

A driver's class is the author's own, and Python has no word against a forgotten decorator or a
`super()` that is not called: what comes of it is an AttributeError somewhere else. Here such an
error is given its reason. Nothing in this file is run for a class that has no mistake in it, but
for a look at its annotations when an instance is made.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import types
from collections.abc import Iterator, Mapping
from typing import Any, Final, NoReturn

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = [
    "check_class",
    "explain_missing_attributes",
    "hidden_export",
    "unmade",
    "why_missing",
    "why_unbound",
    "why_unsendable",
]

_MADE_BY_INIT: Final = ("uuid", "labels", "children", "resources")
_MADE_BY_POST_INIT: Final = ("logger",)
_FIX: Final = "put @dataclass(kw_only=True) (from dataclasses) above the class"
_CLIENT: Final = """it has no client(), which names the class of its client. Add this to it:

    @classmethod
    def client(cls) -> str:
        return "jumpstarter.client.DriverClient"
"""
_ABSENT: Final = object()
_LOOKED_AT: Final = 1000  # values of a result, in search of the one that cannot be sent


def check_class(cls: type, arguments: Mapping[str, object]) -> None:
    """Look at a driver's class when an instance is made.

    Args:
        cls: That.
        arguments: The keyword arguments for the instance.

    Raises:
        TypeError: It has no `client`, or has fields and is no dataclass, or takes no such argument.
    """
    if "client" in getattr(cls, "__abstractmethods__", ()):
        raise TypeError(f"{cls.__name__}: {_CLIENT}")
    for name, owner in _undeclared(cls).items():
        is_field = isinstance(inspect.getattr_static(cls, name, None), dataclasses.Field)
        if is_field or (name in arguments and _is_generated(cls)):
            text = f"{owner.__name__} declares the field {name!r} and is no dataclass"
            raise TypeError(f"{text}: {_FIX} {owner.__name__}")
        if inspect.getattr_static(cls, name, _ABSENT) is _ABSENT:  # None may be its value
            setattr(owner, name, _MissingAttribute(name))
    _check_arguments(cls, arguments)


def _check_arguments(cls: type, arguments: Mapping[str, object]) -> None:
    """Raise for a keyword argument that a class does not take, and list those that it takes.

    The error of Python itself does not list them.
    """
    code = getattr(inspect.getattr_static(cls, "__init__"), "__code__", None)
    if not isinstance(code, types.CodeType) or code.co_flags & inspect.CO_VARKEYWORDS:
        return  # a wrapper, or pydantic's: any argument may be one of its own
    accepted = code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount]
    for name in arguments:
        if name not in accepted:
            text = f"{cls.__name__}() got an unexpected keyword argument {name!r}"
            raise TypeError(f"{text}; it takes {', '.join(accepted)}")


class _MissingAttribute:
    """Stands in a class for an attribute that its instances should have set, and explains why not.

    An attribute of the instance hides it, since it has no `__set__`. A `__getattr__` of the class
    could explain the same, but Python also asks that one when a property raises AttributeError, and
    forgets the property's error.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, instance: object, owner: type) -> NoReturn:
        name = self._name
        if instance is None:
            text = f"type object {owner.__name__!r} has no attribute {name!r}"
            raise AttributeError(text, name=name, obj=owner)
        text = why_missing(type(instance), vars(instance), name)
        raise AttributeError(text, name=name, obj=instance)


def explain_missing_attributes(base: type) -> None:
    """Make the class of all drivers explain why one of its own attributes is missing."""
    for name in (*_MADE_BY_INIT, *_MADE_BY_POST_INIT):
        setattr(base, name, _MissingAttribute(name))


def why_missing(cls: type, made: Mapping[str, object], name: str) -> str:
    """Say why a driver has no such attribute, for the text of an AttributeError.

    Args:
        cls: Its class.
        made: What the instance has.
        name: The attribute.
    """
    text = f"{cls.__name__!r} object has no attribute {name!r}"
    if name in _MADE_BY_INIT and "uuid" not in made:
        owner = _owner_of("__init__", cls)
        return (
            f"{text}: __init__ of {owner} must call super().__init__() first; better, "
            "make the class a @dataclass(kw_only=True), and do the rest in __post_init__"
        )
    if name in _MADE_BY_POST_INIT:
        how = "__init__" if "uuid" not in made else "__post_init__"
        return f"{text}: {how} of {_owner_of(how, cls)} must call super().{how}() first"
    owner_class = _undeclared(cls).get(name)
    if owner_class is not None:
        text = f"{text}, which {owner_class.__name__} declares: it is no dataclass, so that no"
        return (
            f"{text} field is made of it. {_FIX[0].upper()}{_FIX[1:]}, or set it in __post_init__"
        )
    return text


def unmade(driver: object) -> str:
    """Give the first attribute that a driver should have and has not, or nothing."""
    made, cls = vars(driver), type(driver)
    for name in (*_MADE_BY_INIT, *_MADE_BY_POST_INIT):
        if name not in made and isinstance(inspect.getattr_static(cls, name), _MissingAttribute):
            return name
    return ""


def _owner_of(method: str, cls: type) -> str:
    return next(base.__name__ for base in cls.__mro__ if method in vars(base))


def _is_generated(cls: type) -> bool:
    """Tell if the `__init__` of a class is a dataclass's, and takes fields only."""
    owner = next(base for base in cls.__mro__ if "__init__" in vars(base))
    return "__dataclass_params__" in vars(owner)


def _undeclared(cls: type) -> dict[str, type]:
    """Give the annotated names of a class that are no fields, with the class that has each."""
    fields = getattr(cls, "__dataclass_fields__", {})
    found: dict[str, type] = {}
    for base in cls.__mro__:
        if "__dataclass_fields__" in vars(base) or not hasattr(base, "__dataclass_fields__"):
            continue  # its own annotations are fields; or it is a mixin, which may be anything
        for name, annotation in _annotations_of(base).items():
            if name not in fields and "ClassVar" not in str(annotation):
                found.setdefault(name, base)
    return found


def _annotations_of(cls: type) -> Mapping[str, object]:
    """Give a class's own annotations. From Python 3.14 on, to read them runs the author's code."""
    try:
        return inspect.get_annotations(cls)
    except Exception:  # noqa: BLE001 - a name that is imported for type checkers only, for one
        return {}


# ------------------------------------------------------------------------------- what is exported


def hidden_export(attribute: object) -> Iterator[tuple[object, str]]:
    """Give what is beneath a descriptor that is no method, and the error if that is exported."""
    if isinstance(attribute, staticmethod | classmethod):
        attribute = attribute.__func__
    beneath: list[Any] = []
    if isinstance(attribute, property):
        beneath = [attribute.fget, attribute.fset, attribute.fdel]
    elif isinstance(attribute, functools.cached_property | functools.partial):
        beneath = [attribute.func]
    kind = type(attribute).__name__
    text = f"@export below a {kind} exports nothing: remove @{kind}; a client calls the method"
    for each in beneath:
        if each is not None:
            yield each, text


def why_unbound(attribute: object, function: Any) -> str:
    """Say what is wrong with the first parameter of an exported method, or nothing."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # a decorator can have put anything there
        return ""
    first = parameters[0] if parameters else None
    named_self = first is not None and first.name == "self"
    if isinstance(attribute, staticmethod):
        text = "a staticmethod is given no `self`: remove @staticmethod"
        return text if named_self else ""
    if isinstance(attribute, classmethod):
        text = "a classmethod is given the class as its `self`, not the driver: remove @classmethod"
        return text if named_self else ""
    is_method = inspect.isroutine(function) and not isinstance(function, types.MethodType)
    without = first is None or first.kind in {first.KEYWORD_ONLY, first.VAR_KEYWORD}
    text = "it has no parameter for the driver itself: make `self` its first"
    return text if is_method and without else ""


# -------------------------------------------------------------------------- results and items


def why_unsendable(value: object, base: type) -> str:
    """Say which mistake a value is that cannot be sent, or nothing; end it if it wants an end.

    Args:
        value: What a method has returned, or yielded.
        base: The class of drivers.
    """
    waiting = [value]
    for _ in range(_LOOKED_AT):
        if not waiting:
            break
        each = waiting.pop()
        if isinstance(each, base):
            text = f"it is a driver ({type(each).__name__}), which stays on its exporter: return"
            return f"{text} None, or plain values; what clients are to use goes into `children`"
        if inspect.iscoroutine(each):
            each.close()  # or Python warns of it where nobody looks
            return f"it is the coroutine {each.__qualname__}(): an `await` is missing before it"
        if inspect.isgenerator(each):
            text = f"it is the generator {each.__qualname__}(), which was returned: write"
            return f"{text} `yield from` in the method, for streamingcall(), or return a list of it"
        if inspect.isasyncgen(each):
            text = f"it is the async generator {each.__qualname__}(), which was returned: write"
            return f"{text} `async for ...: yield ...` in an `async` method, for streamingcall()"
        if inspect.isroutine(each):
            return f"it is the function {each.__qualname__}: were its parentheses forgotten?"
        if isinstance(each, list | tuple | set | frozenset):
            waiting.extend(each)
        elif isinstance(each, dict):
            waiting.extend(each.values())
    return ""
