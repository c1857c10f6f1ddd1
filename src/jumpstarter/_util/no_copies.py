"""What cannot be copied says so, and what to do instead.

A client, a driver, a portal, a stream or a server belongs to its process: to a connection, a
thread, a device. `copy`, `deepcopy` and `pickle` would give something that has none of these, or
fail in the midst of our internals. Knows nothing of the library.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, SupportsIndex, TypeAlias

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["ReduceEx", "no_copies"]

ReduceEx: TypeAlias = Callable[[Any, SupportsIndex], Any]


def no_copies(what: str, instead: str) -> ReduceEx:
    """Make a `__reduce_ex__`, by which `copy` and `pickle` ask, that refuses.

    A subclass that has a `__reduce__` of its own knows better, and is asked.

    Args:
        what: What it is, with its article.
        instead: What to do.
    """

    def refuse(self: object, protocol: SupportsIndex) -> Any:
        del protocol
        if type(self).__reduce__ is not object.__reduce__:
            return self.__reduce__()
        name = type(self).__name__
        text = f"{what} ({name}) belongs to its process, and cannot be copied or pickled"
        raise TypeError(f"{text}: {instead}")

    return refuse
