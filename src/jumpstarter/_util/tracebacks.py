"""Which frames an error shows: the caller's, the driver's, ours; and not those in between.

pytest leaves out the frames of each file that says `__tracebackhide__`, as all of this package do.
What remains are those of contextlib, trio and outcome, through which an error goes on its way from
the portal's loop to the thread that asked: they say nothing of the error, and are taken out where
it is raised for that thread. Knows nothing of the library.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Final, ParamSpec, TypeVar

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["bare", "block", "trimmed"]

P = ParamSpec("P")
T = TypeVar("T")
E = TypeVar("E", bound=BaseException)

_PLUMBING: Final = frozenset({"contextlib", "outcome", "trio"})


def trimmed(exc: E) -> E:
    """Take the frames of the plumbing out of an exception's traceback."""
    frames = []
    traceback = exc.__traceback__
    while traceback is not None:
        module = traceback.tb_frame.f_globals.get("__name__", "")
        if module.partition(".")[0] not in _PLUMBING:
            frames.append(traceback)
        traceback = traceback.tb_next
    for each in reversed(frames):
        traceback = TracebackType(traceback, each.tb_frame, each.tb_lasti, each.tb_lineno)
    exc.__traceback__ = traceback
    return exc


def bare(exc: E) -> E:
    """Take all frames out of an exception, and out of what it has come from.

    For the cause of an error which says in its text what the cause was.
    """
    each: BaseException | None = exc
    while each is not None:
        each.__traceback__ = None
        if isinstance(each, BaseExceptionGroup):
            for member in each.exceptions:
                bare(member)
        each = each.__cause__ or each.__context__
    return exc


def block(
    function: Callable[P, Iterator[T]],
) -> Callable[P, AbstractContextManager[T, bool | None]]:
    """Make a `contextlib.contextmanager`, whose own frames no error shows."""
    managed = contextlib.contextmanager(function)

    @functools.wraps(function)
    def make(*args: P.args, **kwargs: P.kwargs) -> AbstractContextManager[T, bool | None]:
        return _Block(managed(*args, **kwargs))

    return make


class _Block(AbstractContextManager[T, "bool | None"]):
    def __init__(self, managed: AbstractContextManager[T, bool | None]) -> None:
        self._managed = managed

    def __enter__(self) -> T:
        try:
            return self._managed.__enter__()
        except BaseException as exc:
            trimmed(exc)
            raise

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        try:
            return self._managed.__exit__(exc_type, exc, traceback)
        except BaseException as raised:
            trimmed(raised)
            raise
