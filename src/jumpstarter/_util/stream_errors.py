"""Let code that was written for anyio use our streams, without importing anyio.

The errors are anyio's as well as Trio's if anyio was imported, since such code catches anyio's
classes. The classes that are both are made when the first of them is raised. A process that never
imports anyio pays nothing.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import trio

from ..errors import EndOfStream

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["NoAttributes", "broken", "busy", "closed", "end_of_stream"]

E = TypeVar("E", bound=Exception)

_NOTHING: Final = object()  # the default of a parameter that has none


def broken(text: str) -> trio.BrokenResourceError:
    """Make the error of a stream whose other end is gone."""
    return _class_of(trio.BrokenResourceError)(text)


def closed(text: str) -> trio.ClosedResourceError:
    """Make the error of a stream that was closed here."""
    return _class_of(trio.ClosedResourceError)(text)


def busy(text: str) -> trio.BusyResourceError:
    """Make the error of a stream that another task uses in the same direction."""
    return _class_of(trio.BusyResourceError)(text)


def end_of_stream(text: str) -> EndOfStream:
    """Make the exception by which `receive` reports the end."""
    return _class_of(EndOfStream)(text)


class NoAttributes:
    """A stream without typed attributes, of which each anyio stream can have some."""

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """The typed attributes: none."""
        return {}

    def extra(self, attribute: Any, default: Any = _NOTHING) -> Any:
        """Return the default, since the stream has no typed attributes.

        Args:
            attribute: One of anyio's typed attributes.
            default: What to return.

        Raises:
            LookupError: There is no default. It is anyio's `TypedAttributeLookupError` if anyio was
                imported.
        """
        if default is _NOTHING:
            kind = _of_anyio("TypedAttributeLookupError") or LookupError
            raise kind(f"a {type(self).__name__} has no attribute {attribute!r}")
        return default


def _of_anyio(name: str) -> type[Any] | None:
    """Return a class of anyio, or None while anyio is not, or not completely, imported."""
    return getattr(sys.modules.get("anyio"), name, None)


def _class_of(base: type[E]) -> type[E]:
    other = _of_anyio(base.__name__)
    return base if other is None else _both(base, other)  # type: ignore[arg-type]  # classes


@functools.cache
def _both(base: type[E], other: type[Any]) -> type[E]:
    # BusyResourceError of anyio has an `__init__` that makes a text of its own.
    members = {"__init__": base.__init__, "__module__": base.__module__}
    made: type[E] = type(base.__name__, (base, other), {**members, "__doc__": base.__doc__})
    return made
