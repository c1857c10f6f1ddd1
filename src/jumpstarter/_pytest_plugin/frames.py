"""Remove the frames of libraries from the tracebacks of a failed test.

pytest itself hides the frames of this library, but shows those of pexpect, and `--tb=native` hides
none. So the frames are removed from the tracebacks. The ones of pytest, in front of the test, stay.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Final

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["remove_frames"]

_LIBRARIES: Final = frozenset(
    {"_jumpstarter_pytestplugin", "contextlib", "jumpstarter", "outcome", "pexpect", "trio"}
)


def remove_frames(exc: BaseException) -> None:
    """Remove libraries' frames from an exception, its causes, its contexts and their members."""
    for each in _related(exc):
        each.__traceback__ = _without(each.__traceback__)


def _related(exc: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    rest: list[BaseException | None] = [exc]
    while rest:
        each = rest.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        rest += [each.__cause__, each.__context__]
        if isinstance(each, BaseExceptionGroup):
            rest += each.exceptions
        yield each


def _without(traceback: TracebackType | None) -> TracebackType | None:
    """Unlink frames in place: pytest holds the same objects, and shows these."""
    while traceback is not None and _is_of_library(traceback):
        traceback = traceback.tb_next
    kept = traceback
    while kept is not None:
        following = kept.tb_next
        while following is not None and _is_of_library(following):
            following = following.tb_next
        kept.tb_next = following
        kept = following
    return traceback


def _is_of_library(traceback: TracebackType) -> bool:
    module: object = traceback.tb_frame.f_globals.get("__name__")
    return isinstance(module, str) and module.partition(".")[0] in _LIBRARIES
