"""What a driver offers: the two decorators, and the table of what a class has exported.

The table is built from the class, with `getattr_static`, once: an override that is not exported
hides what it overrides, and no name from the wire ever reaches `getattr` on an instance, so a
property is never evaluated because a peer named it. This file knows no connection and no other
room.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any, Final, TypeVar
from weakref import WeakKeyDictionary

import msgspec

from .._messages import Kind

__all__ = ["Exported", "export", "exports_of", "exportstream"]

_MARK: Final = "__jumpstarter_export__"

F = TypeVar("F", bound=Callable[..., Any])


def export(function: F) -> F:
    """Let clients call a driver's method, by its name.

    A plain or `async` method is called by `DriverClient.call`, one that yields (plain or `async`)
    by `DriverClient.streamingcall`. Plain methods and generators run in a worker thread, so they
    may block; `async` ones run in a Trio task. Arguments and results are what MessagePack carries.

    Args:
        function: The method. It comes back unchanged, with a mark on it.

    Raises:
        TypeError: It is no method that a class defines: a property, or a builtin.
    """
    inner = inspect.unwrap(getattr(function, "raw_function", function))
    yields = inspect.isgeneratorfunction(inner) or inspect.isasyncgenfunction(inner)
    return _mark(function, Kind.GENERATOR if yields else Kind.UNARY)


def exportstream(function: F) -> F:
    """Let clients open a raw byte stream, by the method's name.

    The method is an `asynccontextmanager` that yields a Trio stream or an anyio one. It is entered
    when a client opens the stream and left when both directions have ended, the client has closed
    it, or either side is gone. A half-close is passed on where the stream has a `send_eof`.

    Args:
        function: The method. It comes back unchanged, with a mark on it.

    Raises:
        TypeError: It is no method that a class defines: a property, or a builtin.
    """
    return _mark(function, Kind.STREAM)


def _mark(function: F, kind: Kind) -> F:
    if _binds(function):
        with suppress(AttributeError):  # a property takes no mark
            setattr(function, _MARK, kind)
            return function
    text = f"a {type(function).__name__} cannot be exported; write a method, and export that"
    raise TypeError(text)


class Exported(msgspec.Struct, frozen=True):
    """One exported method of a class."""

    name: str
    kind: Kind
    function: Any  # the attribute as it stands in the class: a function, or another descriptor

    def bind(self, instance: object) -> Callable[..., Any]:
        """Give the method bound to a driver."""
        bound: Callable[..., Any] = self.function.__get__(instance, type(instance))
        return bound


_tables: WeakKeyDictionary[type, Mapping[str, Exported]] = WeakKeyDictionary()


def exports_of(cls: type) -> Mapping[str, Exported]:
    """Give what a class has exported, by name."""
    table = _tables.get(cls)
    if table is None:
        table = _tables[cls] = MappingProxyType(_build(cls))
    return table


def _build(cls: type) -> dict[str, Exported]:
    table: dict[str, Exported] = {}
    for name in sorted({name for base in cls.__mro__ for name in vars(base)}):
        attribute = inspect.getattr_static(cls, name)
        kind = _kind_of(attribute)
        if kind is not None:
            table[name] = Exported(name, kind, attribute)
    return table


def _kind_of(attribute: object) -> Kind | None:
    """Find the mark without running code of the attribute's: it can be anything."""
    kind = inspect.getattr_static(attribute, _MARK, None)
    if kind is None and isinstance(attribute, (staticmethod, classmethod)):
        kind = inspect.getattr_static(attribute.__func__, _MARK, None)
    return kind if _binds(attribute) else None


def _binds(attribute: object) -> bool:
    """Tell if what is called through an instance is given that instance, as a method is.

    A partial is not, though from Python 3.13 on it has a `__get__`, which warns that it will be.
    """
    return hasattr(type(attribute), "__get__") and not isinstance(attribute, functools.partial)
