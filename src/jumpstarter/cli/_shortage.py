"""Recognize a failure to start that comes from a lack of file descriptors or threads."""

from __future__ import annotations

import errno
import resource
from collections.abc import Iterator
from typing import Final

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["explain_shortage"]

_DESCRIPTORS: Final = {errno.EMFILE, errno.ENFILE}
_NO_THREAD: Final = "can't start new thread"  # CPython raises a plain RuntimeError with this text


def explain_shortage(exc: BaseException) -> str:
    """Return what the process lacks and what to do, or an empty string for any other failure.

    Args:
        exc: The failure. Its causes, contexts and the members of groups count too, since Trio and
            cleanup code wrap the first error.
    """
    for each in _chain(exc):
        if isinstance(each, OSError) and each.errno in _DESCRIPTORS:
            soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
            text = f"cannot start: {each.strerror}: this process may have {soft}"
            return f"{text}; allow it more with `ulimit -n`, or with LimitNOFILE= in systemd"
        if isinstance(each, RuntimeError) and str(each) == _NO_THREAD:
            text = "cannot start: the system starts no more threads for this process"
            return f"{text}; allow it more with `ulimit -u` and `ulimit -v`, or with TasksMax="
    return ""


def _chain(exc: BaseException) -> Iterator[BaseException]:
    waiting: list[BaseException | None] = [exc]
    seen: set[int] = set()
    while waiting:
        each = waiting.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        waiting += [each.__cause__, each.__context__]
        if isinstance(each, BaseExceptionGroup):
            waiting += each.exceptions
