"""Let a thread wait for something of its own on a connection, and read it itself if it can.

`begin` starts a call, or a wait for bytes or items, in one locked section. If the thread became the
reader, it leads: it reads for everybody until its own is there, for at most 2 ms. Then, or if
another is the reader, it waits passively, on a baton that the loop or a thread that reads passes.
It never leads again for the same wait, so a call of an hour keeps no other caller from the socket.
The role goes back to the loop, never to another thread: a waiter that leaves by an exception can
then not take the role with it.

The interpreter runs signal handlers in the main thread between two bytecodes, and they may raise.
So the main thread defers them (`DeferSignals`) from before it takes the lock until it has given up
the lock and the role; that takes 2 ms at most. This module is compiled, but the handlers of
generators and streams, which it calls, are not. A passive wait can be interrupted at any time.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from typing import Final, Protocol, TypeVar

import trio

from .. import _nonblocking
from .._util.deferred_signals import DeferSignals
from ..errors import DriverError
from .connection import Connection
from .ownership import Reader

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["Awaited", "begin", "clean_up", "collect", "is_usable", "send"]

_PATIENCE_MS: Final = 2  # leading does not speed up a longer wait, and others may want to lead

_NONE: Final = Reader.NONE
# The exceptions of `start`, `queue` and `collect` that leave the connection's state consistent.
_REFUSALS: Final = (
    DriverError,
    trio.BrokenResourceError,
    trio.BusyResourceError,
    trio.ClosedResourceError,
)


class Awaited(Protocol):
    """Something that one thread waits for: an answer, items, or bytes.

    Attributes:
        baton: On which the thread waits; None while it leads.
    """

    baton: _nonblocking.Baton | None

    @property
    def may_be_there(self) -> bool:
        """True if it may be there already when the wait starts."""

    def collect(self) -> bool:
        """Take what has arrived for the thread. With the lock, and signals deferred.

        It is stored where an exception of a signal handler, which may be raised as soon as the lock
        is released, does not lose it. It may queue frames.

        Returns:
            False if there is nothing yet. Once this was True, it is not called again.
        """


A = TypeVar("A", bound=Awaited)


def begin(
    connection: Connection, awaited: A, start: Callable[[A, float], bool], seconds: float
) -> bool:
    """Start to wait in the calling thread, and lead for up to 2 ms if nothing else reads.

    Args:
        connection: The connection.
        awaited: What the thread waits for. If it has no baton when this returns, it was collected.
        start: Called as `start(awaited, seconds)`, with the lock. Returns False to leave all of it
            to the loop. An exception of it must have changed nothing.
        seconds: For `start`.

    Returns:
        False if nothing was started: threads cannot read this connection, the loop must look at it
        first, or `start` says so.

    Raises:
        Exception: Raised by `start`.
        BaseException: Raised by a signal handler, once the lock and the role were given up.
    """
    ownership = connection.ownership
    if ownership.watch is None:
        ownership.ask_for_watch()
        return False
    if ownership.held_here():
        return False
    rules = connection.rules
    with DeferSignals():
        ownership.acquire()
        leads = False
        try:
            # Before it sends anything: the loop must not wake for the answer.
            leads = not rules.unprocessed and ownership.take_role()
            if leads and ownership.finds_bytes():
                # Read first what is there already: it may be the peer's GOAWAY.
                connection.act_on(connection.reader.take())
            started = is_usable(connection) and start(awaited, seconds)
            # Only once: collecting takes it away.
            over = not started or (awaited.may_be_there and awaited.collect())
            connection.writer.flush_now()
            if leads and (over or rules.unprocessed):
                leads = False
                ownership.give_up(connection.reader.needs_loop)
            if not over and not leads:
                awaited.baton = _nonblocking.Baton()
        except BaseException as exc:
            clean_up(connection, exc)
            raise
        finally:
            ownership.release()
        if leads:
            _lead(connection, awaited)
    return started


def _lead(connection: Connection, awaited: Awaited) -> None:
    """Read until the thread's own is there, or its time is up. Without the lock."""
    ownership, reader, rules = connection.ownership, connection.reader, connection.rules
    patience = _PATIENCE_MS
    until = _nonblocking.monotonic() + patience / 1000
    over = False
    while not over:
        readable = ownership.poll(patience)
        ownership.acquire()
        try:
            # The connection may have ended meanwhile, and its descriptor be another file's.
            if readable and ownership.reader is not _NONE:
                connection.act_on(reader.take())
            over = awaited.collect()
            if over:
                if rules.send_queue:
                    connection.writer.flush_now()
            elif (
                not readable
                or ownership.at_end
                or ownership.reader is _NONE
                or rules.unprocessed  # the loop shares out floods fairly
                or (patience := ceil((until - _nonblocking.monotonic()) * 1000)) <= 0
            ):
                over = True
                # Before the role goes back: the loop may find the answer immediately.
                awaited.baton = _nonblocking.Baton()
            if over:
                ownership.give_up(reader.needs_loop)
        except BaseException as exc:
            clean_up(connection, exc)
            raise
        finally:
            ownership.release()


def is_usable(connection: Connection) -> bool:
    """Return whether frames can be sent: nothing has ended, or is about to. With the lock."""
    ownership = connection.ownership
    return not (
        ownership.at_end or connection.ended is not None or connection.rules.failure is not None
    )


def clean_up(connection: Connection, exc: BaseException) -> None:
    """Give the role up; and end the connection if its state is unknown. With the lock."""
    ownership = connection.ownership
    if not isinstance(exc, _REFUSALS):
        text = f"the connection to {connection.name} was cut off by an exception in the midst of"
        ownership.lose()
        ownership.defer(connection.end, ConnectionError(f"{text} a call"))
    elif ownership.leads_here():
        ownership.give_up(connection.reader.needs_loop)


def send(connection: Connection, queue: Callable[[], bool]) -> bool:
    """Queue something and write it, in the calling thread, without waiting.

    Args:
        connection: The connection.
        queue: Called with the lock, queues frames. Returns False to leave it to the loop. An
            exception of it must have changed nothing.

    Returns:
        False if nothing was queued.

    Raises:
        Exception: Raised by `queue`.
        BaseException: Raised by a signal handler, once the lock was released.
    """
    ownership = connection.ownership
    if ownership.watch is None or ownership.held_here():
        return False
    with DeferSignals():
        ownership.acquire()
        try:
            queued = is_usable(connection) and queue()
            if queued:
                connection.writer.flush_now()
        except BaseException as exc:
            clean_up(connection, exc)
            raise
        finally:
            ownership.release()
    return queued


def collect(
    connection: Connection, awaited: Awaited, end: Callable[[], object] = lambda: None
) -> None:
    """Collect after a passive wait, if it is ready, and stop waiting.

    Args:
        connection: The connection.
        awaited: What the thread has waited for.
        end: Called with the lock at the end, in any case.

    Raises:
        BaseException: Raised by a signal handler. If that was before the signals were deferred,
            `end` was not called, and the caller tries again.
    """
    ownership = connection.ownership
    with DeferSignals():
        ownership.acquire()
        try:
            awaited.baton = None
            awaited.collect()
            connection.writer.flush_now()
        except BaseException as exc:
            clean_up(connection, exc)
            raise
        finally:
            end()
            ownership.release()
