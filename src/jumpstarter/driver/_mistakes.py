"""Explain common mistakes in the class of a driver, and how to correct them.

Python accepts a class without its decorator, or an `__init__` that does not call `super()`. The
result is an AttributeError somewhere else. The functions here add the reason to such errors. For a
class without mistakes, they only read its annotations when an instance is made.
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

_MADE_BY_INIT: Final = ("uuid", "labels", "children", "resources", "methods_description")
_MADE_BY_POST_INIT: Final = ("logger",)
_FIX: Final = "put @dataclass(kw_only=True) (from dataclasses) above the class"
_CLIENT: Final = """it has no client(), which names the class of its client. Add this to it:

    @classmethod
    def client(cls) -> str:
        return "jumpstarter.client.DriverClient"
"""
_ABSENT: Final = object()
_MAX_SEARCHED: Final = 1000  # values of a result that are searched for one that cannot be sent


def check_class(cls: type, arguments: Mapping[str, object]) -> None:
    """Check the class of a driver when an instance is made.

    Args:
        cls: The class.
        arguments: The keyword arguments for the instance.

    Raises:
        TypeError: The class has no `client`, has fields and is not a dataclass, or has no field for
            an argument.
    """
    if "client" in getattr(cls, "__abstractmethods__", ()):
        raise TypeError(f"{cls.__name__}: {_CLIENT}")
    for name, owner in _undeclared(cls).items():
        is_field = isinstance(inspect.getattr_static(cls, name, None), dataclasses.Field)
        if is_field or (name in arguments and _is_generated(cls)):
            text = f"{owner.__name__} declares the field {name!r} and is not a dataclass"
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
    """Class attribute in place of an instance attribute; explains why the instance lacks it.

    The instance's attribute hides it, since it has no `__set__`. A `__getattr__` of the class could
    explain the same, but Python also calls that when a property raises AttributeError, and then
    discards the property's error.
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
    """Explain why a driver lacks an attribute, for the text of an AttributeError.

    Args:
        cls: The driver's class.
        made: The attributes that the instance has.
        name: The missing attribute.
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
        text = f"{text}, which {owner_class.__name__} declares: it is not a dataclass, so no"
        return (
            f"{text} field is made of it. {_FIX[0].upper()}{_FIX[1:]}, or set it in __post_init__"
        )
    return text


def unmade(driver: object) -> str:
    """Return the name of the first attribute of the base class that a driver lacks, or ""."""
    made, cls = vars(driver), type(driver)
    for name in (*_MADE_BY_INIT, *_MADE_BY_POST_INIT):
        if name not in made and isinstance(inspect.getattr_static(cls, name), _MissingAttribute):
            return name
    return ""


def _owner_of(method: str, cls: type) -> str:
    return next(base.__name__ for base in cls.__mro__ if method in vars(base))


def _is_generated(cls: type) -> bool:
    """Return True if a class has an `__init__` generated by `dataclass`, for fields only."""
    owner = next(base for base in cls.__mro__ if "__init__" in vars(base))
    return "__dataclass_params__" in vars(owner)


def _undeclared(cls: type) -> dict[str, type]:
    """Return the annotated names of a class that are not fields, with the class that has each."""
    fields = getattr(cls, "__dataclass_fields__", {})
    found: dict[str, type] = {}
    for base in cls.__mro__:
        if "__dataclass_fields__" in vars(base) or not hasattr(base, "__dataclass_fields__"):
            continue  # a dataclass, whose annotations are fields; or a mixin, which may be anything
        for name, annotation in _annotations_of(base).items():
            if name not in fields and "ClassVar" not in str(annotation):
                found.setdefault(name, base)
    return found


def _annotations_of(cls: type) -> Mapping[str, object]:
    """Return a class's own annotations. Since Python 3.14, reading them runs the author's code."""
    try:
        return inspect.get_annotations(cls)
    except Exception:  # noqa: BLE001 - for example a name that is imported for type checkers only
        return {}


# ------------------------------------------------------------------------------- what is exported


def hidden_export(attribute: object) -> Iterator[tuple[object, str]]:
    """Yield the functions inside a descriptor that is not a method, with the error if exported."""
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
    """Explain what is wrong with the first parameter of an exported method; "" if nothing is."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # a decorator may have replaced it by any object
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
    """Explain which mistake makes a value unsendable; "" if unknown. Closes a coroutine.

    Args:
        value: The value that a method has returned or yielded.
        base: The base class of drivers.
    """
    waiting = [value]
    for _ in range(_MAX_SEARCHED):
        if not waiting:
            break
        each = waiting.pop()
        if isinstance(each, base):
            text = f"it is a driver ({type(each).__name__}), which stays on its exporter: return"
            return f"{text} None, or plain values; what clients are to use goes into `children`"
        if inspect.iscoroutine(each):
            each.close()  # otherwise Python warns later that it was never awaited
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
