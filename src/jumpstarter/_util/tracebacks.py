"""Keep the frames of the library out of tracebacks that users read.

pytest hides the frames of each file that sets `__tracebackhide__`, as all files of this package do.
The frames of contextlib, trio and outcome remain, through which an exception travels from the
portal's loop to the calling thread. They do not help to understand the error, so they are removed
where it is raised in that thread.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Final, ParamSpec, TypeVar

from .forgotten_with import ExplainsForgottenWith

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["hidden_contextmanager", "strip_tracebacks", "trim_traceback"]

P = ParamSpec("P")
T = TypeVar("T")
E = TypeVar("E", bound=BaseException)

_PLUMBING: Final = frozenset({"contextlib", "outcome", "trio"})
_NOT_THE_USERS: Final = (
    _PLUMBING | sys.stdlib_module_names | {__name__.partition(".")[0], "msgspec"}
)


def trim_traceback(exc: E) -> E:
    """Remove the frames of contextlib, outcome and trio from an exception's traceback."""
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


def strip_tracebacks(exc: E) -> E:
    """Remove the traceback of an exception, and those of the exceptions that led to it.

    For the cause of an error whose own message already tells the cause. Follows `__cause__` and
    the members of groups, but never `__context__`: that may be an exception which the user's code
    is handling. For the same reason, a cause keeps its traceback if a user's frame is in it.
    """
    exc.__traceback__ = None
    seen = {id(exc)}
    rest = _causes(exc)
    while rest:
        each = rest.pop()
        if id(each) in seen:  # nothing forbids `raise exc from exc`
            continue
        seen.add(id(each))
        rest += _causes(each)
        if not _has_user_frames(each.__traceback__):
            each.__traceback__ = None
    return exc


def _causes(exc: BaseException) -> list[BaseException]:
    members = exc.exceptions if isinstance(exc, BaseExceptionGroup) else ()
    return [*members, *([] if exc.__cause__ is None else [exc.__cause__])]


def _has_user_frames(traceback: TracebackType | None) -> bool:
    while traceback is not None:
        module: object = traceback.tb_frame.f_globals.get("__name__")
        if not isinstance(module, str) or module.partition(".")[0] not in _NOT_THE_USERS:
            return True
        traceback = traceback.tb_next
    return False


def hidden_contextmanager(
    function: Callable[P, Iterator[T]],
) -> Callable[P, AbstractContextManager[T, bool | None]]:
    """Make a `contextlib.contextmanager` whose own frames appear in no traceback."""
    managed = contextlib.contextmanager(function)

    @functools.wraps(function)
    def make(*args: P.args, **kwargs: P.kwargs) -> AbstractContextManager[T, bool | None]:
        return _Block(managed(*args, **kwargs), f"with {function.__name__}(...) as ...:")

    return make


class _Block(ExplainsForgottenWith, AbstractContextManager[T, "bool | None"]):
    def __init__(self, managed: AbstractContextManager[T, bool | None], statement: str) -> None:
        self._managed = managed
        self._statement = statement

    def __enter__(self) -> T:
        try:
            return self._managed.__enter__()
        except BaseException as exc:
            trim_traceback(exc)
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
            trim_traceback(raised)
            raise
