"""Forbid copying and pickling, with an error that says what to do instead.

A client, a driver, a portal, a stream or a server belongs to its process: to a connection, a thread
or a device. A copy would have none of these, or copying would fail deep inside the library.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, SupportsIndex, TypeAlias

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["ReduceEx", "no_copies"]

ReduceEx: TypeAlias = Callable[[Any, SupportsIndex], Any]


def no_copies(what: str, instead: str) -> ReduceEx:
    """Make a `__reduce_ex__`, which `copy` and `pickle` call, that raises TypeError.

    A subclass that defines `__reduce__` can still be copied by it.

    Args:
        what: A description of the object, with its article.
        instead: What to do instead.
    """

    def refuse(self: object, protocol: SupportsIndex) -> Any:
        del protocol
        if type(self).__reduce__ is not object.__reduce__:
            return self.__reduce__()
        name = type(self).__name__
        text = f"{what} ({name}) belongs to its process, and cannot be copied or pickled"
        raise TypeError(f"{text}: {instead}")

    return refuse
