"""Name the call whose code runs, for the records that the code logs.

Sessions set it only while something wants to know it, since most calls are shorter than a line of
the log.
"""

from __future__ import annotations

import weakref
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["CallFacts", "current_call", "is_call_wanted", "want_calls"]


@dataclass(frozen=True, slots=True)
class CallFacts:
    """The facts about a call that are known when it begins.

    Attributes:
        driver: The path of the driver; None if there is no such driver, or it is the exporter.
        method: The method that the client asks for. It may be any text that the client has sent.
        number: The number of the call in this process.
    """

    driver: str | None
    method: str
    number: int


# The call that is being answered.
current_call: Final[ContextVar[CallFacts | None]] = ContextVar("jumpstarter_call", default=None)

_wanted_by: Final[weakref.WeakSet[object]] = weakref.WeakSet()


def want_calls(owner: object) -> None:
    """Have the sessions that begin from now on set `current_call`, as long as an object exists."""
    _wanted_by.add(owner)


def is_call_wanted() -> bool:
    """Return True if sessions must set `current_call`."""
    return bool(_wanted_by)
