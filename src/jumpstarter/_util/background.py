"""Run tasks beside a block of code, and cancel them when it ends.

A nursery around a `yield` would wrap every exception of the body in a group, which callers do not
expect. With `open_background` the body's exception leaves unchanged.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["open_background"]


@asynccontextmanager
async def open_background() -> AsyncIterator[trio.Nursery]:
    """Open a nursery whose tasks are cancelled when the body ends, in whichever way.

    The tasks are this library's and raise nothing. If one does, that is a bug: the body is
    cancelled, and the nursery's exception group leaves instead.
    """
    failure: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            try:
                yield nursery
            except BaseException as exc:
                if _is_cancellation(exc):
                    raise
                failure = exc  # raised again below, outside the nursery
            nursery.cancel_scope.cancel()
    except BaseException as exc:
        if failure is None or not _is_cancellation(exc):
            raise
    if failure is not None:  # even if an outer cancellation has ended the tasks
        raise failure


def _is_cancellation(exc: BaseException) -> bool:
    if isinstance(exc, BaseExceptionGroup):
        return all(_is_cancellation(member) for member in exc.exceptions)
    return isinstance(exc, trio.Cancelled)
