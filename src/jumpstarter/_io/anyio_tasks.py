"""Run tasks beside a block of code in either kind of loop, by anyio, which must be installed.

The body's exception leaves unchanged, in contrast to a task group of anyio, which wraps it in a
group. `_util.background` does the same for code that only Trio runs.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import anyio
from anyio.abc import TaskGroup

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["open_tasks"]


@asynccontextmanager
async def open_tasks() -> AsyncIterator[TaskGroup]:
    """Open a task group, and wait for its tasks at the end of the block.

    If the body raises, or is cancelled, the tasks are cancelled.

    Raises:
        BaseException: The body's exception. If the body raised none, the exception of a task, not
            in a group if it is the only one.
    """
    failure: BaseException | None = None
    cancelled = anyio.get_cancelled_exc_class()
    try:
        async with anyio.create_task_group() as tasks:
            try:
                yield tasks
            except cancelled:
                raise
            except BaseException as exc:  # noqa: BLE001 - raised again below, outside the group
                failure = exc
                tasks.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        if failure is None:
            errors = list(_leaves(group))
            if len(errors) != 1:
                raise
            failure = errors[0]
    if failure is not None:
        raise failure


def _leaves(exc: BaseException) -> Iterator[BaseException]:
    if isinstance(exc, BaseExceptionGroup):
        for member in exc.exceptions:
            yield from _leaves(member)
    else:
        yield exc
