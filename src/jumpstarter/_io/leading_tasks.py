"""Let a task of the loop read its own answer, which saves a switch between two tasks.

As `leading` does for threads. The task waits for the socket itself, as the connection's reader,
while its call is the only one. The read task goes on with the connection when the task has its
answer, is cancelled, or has to leave something to it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import trio

from .connection import Connection
from .leading import Awaited, clean_up, is_usable

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["lead_in_task"]

A = TypeVar("A", bound=Awaited)


@trio.lowlevel.enable_ki_protection
async def lead_in_task(
    connection: Connection, awaited: A, start: Callable[[A, float], bool], seconds: float
) -> bool:
    """Start a call in a task, and read its answer there: this saves a switch between two tasks.

    A checkpoint if it was started. If it is cancelled, or returns before the call has ended, the
    read task goes on with it.

    Args:
        connection: The connection.
        awaited: The call.
        start: Called with the lock, as by `begin`.
        seconds: For `start`.

    Returns:
        False if nothing was started.

    Raises:
        Exception: Raised by `start`.
    """
    ownership, reader = connection.ownership, connection.reader
    with connection.lock:
        if connection.rules.unprocessed or not ownership.take_role_for_task(awaited):
            return False
        started = leads = False
        try:
            if ownership.finds_bytes():
                connection.act_on(reader.take())
            started = is_usable(connection) and start(awaited, seconds)
            connection.writer.flush_now()
            leads = started and not reader.needs_loop
        except BaseException as exc:
            clean_up(connection, exc)
            raise
        finally:
            if not leads:
                ownership.give_up(reader.needs_loop)
    if not leads:
        if started:  # and a thread may read the answer before the task waits for it
            await trio.lowlevel.cancel_shielded_checkpoint()
        return started
    while True:
        try:
            await ownership.wait_for_socket()
        except BaseException:
            leads = False
            raise
        finally:
            with connection.lock:
                leads = _lead_on(connection, awaited, goes_on=leads)
        if not leads:
            return True


def _lead_on(connection: Connection, awaited: Awaited, *, goes_on: bool) -> bool:
    """Read in the task that leads. Return True if it still leads. With the lock."""
    ownership, reader = connection.ownership, connection.reader
    if not ownership.is_led_by(awaited):
        return False
    try:
        if goes_on:
            connection.act_on(reader.take())
    except BaseException as exc:
        clean_up(connection, exc)
        goes_on = False
        raise
    finally:
        # The read task has deadlines for the rest of a message, and shares out floods fairly.
        goes_on = goes_on and not (awaited.collect() or reader.needs_loop)
        if not goes_on:
            ownership.give_up(reader.needs_loop)
    return goes_on
