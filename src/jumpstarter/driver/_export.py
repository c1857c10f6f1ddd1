"""Define the two decorators for exported methods, and build the table of a class's exports.

The table is built once per class, with `getattr_static`. So an override that is not exported hides
the exported method, and no name from the wire is passed to `getattr` on an instance: a peer cannot
evaluate a property by sending its name.
"""

from __future__ import annotations

import enum
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from types import FunctionType, MappingProxyType
from typing import Any, Final, TypeVar, overload
from weakref import WeakKeyDictionary

import msgspec

from .._protocol.frames import Kind
from .._util.checks import check_flag, check_seconds
from ..errors import ArgumentValueError, ConfigurationError
from ._mistakes import hidden_export, why_unbound
from ._signature import ArgumentConverter, build_converter, doc_of, signature_of, text_of

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = [
    "MARKER_DRIVERCALL",
    "MARKER_MAGIC",
    "MARKER_STREAMCALL",
    "MARKER_STREAMING_DRIVERCALL",
    "Exported",
    "export",
    "exports_of",
    "exportstream",
    "is_exported",
]

_MARK: Final = "__jumpstarter_export__"
# The attributes by which the published package marks exported methods. We only set them.
MARKER_MAGIC: Final = "07c9b9cc"
MARKER_DRIVERCALL: Final = "marker_drivercall"
MARKER_STREAMCALL: Final = "marker_streamcall"
MARKER_STREAMING_DRIVERCALL: Final = "marker_streamingdrivercall"
_MARKERS: Final = {
    Kind.UNARY: MARKER_DRIVERCALL,
    Kind.GENERATOR: MARKER_STREAMING_DRIVERCALL,
    Kind.STREAM: MARKER_STREAMCALL,
}
_UNBOUND: Final = (staticmethod, classmethod)
_MAX_LAYERS: Final = 100  # decorators around one function that are examined

F = TypeVar("F", bound=Callable[..., Any])


class _Omitted(enum.Enum):
    """The default of an argument for which None is a mistake."""

    OMITTED = enum.auto()


_OMITTED: Final = _Omitted.OMITTED


@overload
def export(function: F) -> F: ...
@overload
def export(
    *, strict: bool = False, drain: float | None = None, read_only: bool = False
) -> Callable[[F], F]: ...
def export(
    function: F | _Omitted = _OMITTED,
    *,
    strict: bool = False,
    drain: float | None = None,
    read_only: bool = False,
) -> F | Callable[[F], F]:
    """Let clients call a driver's method by its name.

    Clients call a plain or `async` method with `DriverClient.call`, and a generator (plain or
    `async`) with `DriverClient.streamingcall`. Plain methods and generators run in a worker thread,
    so they may block; `async` ones run in a Trio task.

    If a parameter is annotated with a rich type, its argument is converted to it: a dataclass,
    Struct, attrs class, pydantic model, enum, UUID, Decimal, date, time, path, tuple, set, or a
    list, dict or union with such parts. An argument that does not fit is refused, and the method
    does not run. Plain annotations (`int`, `str`, `list`, ...) are not checked, since existing
    drivers accept more than their annotations say.

    Args:
        function: The method. It is returned unchanged, with a mark on it.
        strict: Check plain annotations too, as in `@export(strict=True)`. An annotation that cannot
            be checked is a ConfigurationError when the driver is served. Results are not checked.
        drain: For a generator, how many seconds it may continue after a drain has begun, before it
            is cancelled. The default is 5, since its client only receives; there is no limit while
            a driver uses a loan of the same client. Pass `math.inf` for work that has to be
            finished, such as flashing. The exporter's own grace always applies. A generator that
            checks `draining()` ends by itself. Methods always have the exporter's grace.
        read_only: The method changes nothing. If the exporter is in exclusive use, all clients may
            call it, and not only the one that holds the exporter. It may run at any time, also
            beside the driver's `reset()`.

    Returns:
        The function, or a decorator if only keywords were given.

    Raises:
        TypeError: The function is not a method that a class defines, but a property or a builtin,
            for example; or `drain` was given for a method that is not a generator.
        ArgumentError: `drain` is not a number of seconds >= 0, or the function is None. It is a
            ValueError too.
    """
    check_flag("strict", strict)
    check_flag("read_only", read_only)
    if drain is not None:
        drain = check_seconds("drain", drain)

    def mark(function: F) -> F:
        inner = inspect.unwrap(getattr(function, "raw_function", function))
        yields = inspect.isgeneratorfunction(inner) or inspect.isasyncgenfunction(inner)
        if drain is not None and not yields:
            name = getattr(inner, "__name__", "a method")
            raise TypeError(f"drain= is for generators, and {name} is not one: a method may finish")
        kind = Kind.GENERATOR if yields else Kind.UNARY
        return _mark(function, _Mark(kind, strict, drain, read_only))

    return mark if function is _OMITTED else mark(function)


@overload
def exportstream(function: F) -> F: ...
@overload
def exportstream(*, drain: float | None = None, read_only: bool = False) -> Callable[[F], F]: ...
def exportstream(
    function: F | _Omitted = _OMITTED, *, drain: float | None = None, read_only: bool = False
) -> F | Callable[[F], F]:
    """Let clients open a raw byte stream by the method's name.

    The method is an `asynccontextmanager` that yields a Trio stream or an anyio stream. It is
    entered when a client opens the stream, and left when both directions have ended, the client has
    closed it, or the connection is lost. The client's half-close is passed on if the stream has a
    `send_eof`.

    Args:
        function: The method. It is returned unchanged, with a mark on it.
        drain: How many seconds a stream may continue after a drain has begun, before it is
            cancelled. By default it continues as long as its client sends something every 5
            seconds, and is not only receiving. With `math.inf`, only the exporter's grace limits
            it.
        read_only: The stream changes nothing, also by what the client sends; as for `export`.

    Returns:
        The function, or a decorator if only keywords were given.

    Raises:
        TypeError: The function is not a method that a class defines, but a property or a builtin,
            for example.
        ArgumentError: `drain` is not a number of seconds >= 0, or the function is None. It is a
            ValueError too.
    """
    check_flag("read_only", read_only)
    if drain is not None:
        drain = check_seconds("drain", drain)

    def mark(function: F) -> F:
        return _mark(function, _Mark(Kind.STREAM, drain=drain, read_only=read_only))

    return mark if function is _OMITTED else mark(function)


class _Mark(msgspec.Struct, frozen=True):
    """The mark that a decorator puts on a method."""

    kind: Kind
    strict: bool = False
    drain: float | None = None
    read_only: bool = False


def is_exported(attribute: object) -> bool:
    """Return True if an attribute of a class has one of the two decorators."""
    return _mark_of(attribute) is not None


def _mark(function: F, mark: _Mark) -> F:
    if function is None:  # to a type checker, it is not
        raise ArgumentValueError("only a method can be exported, not None")
    if _binds(function):
        with suppress(AttributeError):  # a property takes no mark
            setattr(function, _MARK, mark)
            setattr(function, _MARKERS[mark.kind], MARKER_MAGIC)
            return function
    text = f"a {type(function).__name__} cannot be exported; write a method, and export that"
    raise TypeError(text)


class Exported(msgspec.Struct, frozen=True):
    """One exported method of a class.

    Attributes:
        name: The name by which clients call it.
        kind: The kind of call.
        function: The attribute of the class: a function, or another descriptor.
        converter: Converts arguments; None if no annotation asks for it.
        signature: The signature as text; empty if it is unknown.
        doc: The docstring.
        is_async: True for an `async` method, which runs in Trio from beginning to end.
        drain: Seconds that it may go on in a drain; None if that depends on the client.
        read_only: True if clients may use it that do not hold an exporter in exclusive use.
        is_wrapper: False for a function that stands for no other one: if arguments do not fit, the
            call itself raises a TypeError. A wrapper may raise it later.
    """

    name: str
    kind: Kind
    function: Any
    converter: ArgumentConverter | None = None
    signature: str = ""
    doc: str = ""
    is_async: bool = False
    drain: float | None = None
    read_only: bool = False
    is_wrapper: bool = True

    def bind(self, instance: object) -> Callable[..., Any]:
        """Bind the method to a driver."""
        bound: Callable[..., Any] = self.function.__get__(instance, type(instance))
        return bound


_tables: WeakKeyDictionary[type, Mapping[str, Exported]] = WeakKeyDictionary()


def exports_of(cls: type) -> Mapping[str, Exported]:
    """Return the exported methods of a class by name."""
    table = _tables.get(cls)
    if table is None:
        table = _tables[cls] = MappingProxyType(_build(cls))
    return table


def _build(cls: type) -> dict[str, Exported]:
    table: dict[str, Exported] = {}
    for name in sorted({name for base in cls.__mro__ for name in vars(base)}):
        attribute = inspect.getattr_static(cls, name)
        mark = _mark_of(attribute)
        for beneath, text in hidden_export(attribute) if mark is None else ():
            if _mark_of(beneath) is not None:
                raise ConfigurationError(f"{_title(cls, name)}: {text}")
        if mark is not None:
            table[name] = _exported(cls, name, attribute, mark)
    return table


def _title(cls: type, name: str) -> str:
    return f"{name!r} of {cls.__module__}.{cls.__qualname__}"


def _exported(cls: type, name: str, attribute: Any, mark: _Mark) -> Exported:
    function = attribute.__func__ if isinstance(attribute, _UNBOUND) else attribute
    function = getattr(function, "raw_function", function)
    title = _title(cls, name)
    if text := why_unbound(attribute, function):
        raise ConfigurationError(f"{title}: {text}")
    _check_kind(function, mark.kind, title)
    signature = signature_of(function, takes_self=not isinstance(attribute, staticmethod))
    names = next(vars(base) for base in cls.__mro__ if name in vars(base))
    converter = build_converter(
        inspect.unwrap(function), signature, names, title, strict=mark.strict
    )
    doc = doc_of(function) if callable(function) else ""  # a partialmethod has its class's
    is_async = mark.kind is Kind.UNARY and inspect.iscoroutinefunction(function)
    return Exported(
        name,
        mark.kind,
        attribute,
        converter,
        text_of(signature),
        doc,
        is_async,
        mark.drain,
        mark.read_only,
        is_wrapper=type(attribute) is not FunctionType or not _WRAPS.isdisjoint(vars(attribute)),
    )


# Where `inspect.signature` finds that a function stands for another one.
_WRAPS: Final = frozenset(("__wrapped__", "__signature__"))


def _no_context() -> Any: ...


# Code objects of the functions that contextlib's decorators make, to recognize such functions.
_ASYNC_CONTEXT: Final = asynccontextmanager(_no_context).__code__
_CONTEXT: Final = contextmanager(_no_context).__code__


def _check_kind(function: Any, kind: Kind, title: str) -> None:
    """Check that a method has the decorator for its kind.

    Raises: ConfigurationError: It does not, so no client could use it.
    """
    codes = [getattr(each, "__code__", None) for each in _layers(function)]
    is_generator = inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function)
    text = ""
    if _CONTEXT in codes:
        text = "a context manager for blocking code cannot be exported; a raw stream is an "
        text += "`async def` with @exportstream above @asynccontextmanager"
    elif kind is Kind.STREAM and is_generator and _ASYNC_CONTEXT not in codes:
        text = "@exportstream takes a context manager: put @asynccontextmanager below it, and "
        text += "`yield` the stream in an `async def`; a generator takes @export"
    elif kind is not Kind.STREAM and _ASYNC_CONTEXT in codes:
        text = (
            "an asynccontextmanager cannot be called; a raw stream takes @exportstream, not @export"
        )
    if text:
        raise ConfigurationError(f"{title}: {text}")


def _layers(function: Any) -> Iterator[Any]:
    """Yield a function and the functions that its decorators have wrapped."""
    yield function
    for _ in range(_MAX_LAYERS):
        function = getattr(function, "__wrapped__", None)
        if function is None:
            return
        yield function


def _mark_of(attribute: object) -> _Mark | None:
    """Find the mark of an attribute without running its code: it may be any object."""
    mark = inspect.getattr_static(attribute, _MARK, None)
    if mark is None and isinstance(attribute, _UNBOUND):
        mark = inspect.getattr_static(attribute.__func__, _MARK, None)
    return mark if _binds(attribute) else None


def _binds(attribute: object) -> bool:
    """Return True if an attribute binds to its instance when called, as a method does.

    A partial does not. Since Python 3.13 it has a `__get__` that warns of a later change.
    """
    return hasattr(type(attribute), "__get__") and not isinstance(attribute, functools.partial)
