"""Find resources that a test has leaked: open files, threads, and calls in progress.

`conftest.py` takes a look before and after each test. A look is cheap. Only if the two differ does
`nothing_leaks` collect garbage and wait for a moment before it looks again. Coroutines that were
never awaited, and unraisable exceptions, are found by pytest, where warnings are errors.
"""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from jumpstarter._io.connection import Connection
from jumpstarter._io.file_operations import abandoned_threads
from jumpstarter._io.keepalive import Keepalive

__all__ = [
    "Look",
    "leaked_since",
    "look",
    "nothing_leaks",
    "open_connections",
    "register_connections",
]

SETTLE: Final = 30.0  # seconds that a thread or a process has for its last steps
_POLL: Final = 0.01
_IDLE: Final = "Trio thread"  # the name of a worker thread that waits for its next job

_connections: weakref.WeakSet[Connection] = weakref.WeakSet()


@dataclass(frozen=True)
class Look:
    """The resources that are open at one moment.

    Attributes:
        files: Each file descriptor with the file that it refers to.
        threads: All threads except idle worker threads, and threads that the operating system
            blocks in a file operation (docs/guarantees.md states this exception).
    """

    files: frozenset[tuple[str, str]]
    threads: frozenset[threading.Thread]


def look() -> Look:
    """Return the resources that are open now."""
    threads = {thread for thread in threading.enumerate() if not thread.name.startswith(_IDLE)}
    return Look(frozenset(_files()), frozenset(threads - abandoned_threads))


def _files() -> Iterator[tuple[str, str]]:
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            yield descriptor.name, str(descriptor.readlink())
        except FileNotFoundError:  # the descriptor of this listing
            continue


def register_connections() -> Callable[[], None]:
    """Record each new connection, for as long as it exists.

    Returns:
        A function that ends the recording.
    """
    original = Keepalive.__init__  # each connection makes one; a compiled class is immutable

    def init(self: Keepalive, connection: Connection) -> None:
        original(self, connection)
        _connections.add(connection)

    Keepalive.__init__ = init  # type: ignore[assignment, method-assign]

    def undo() -> None:
        Keepalive.__init__ = original  # type: ignore[method-assign]

    return undo


def open_connections() -> list[Connection]:
    """Return the connections that exist, of both ends."""
    return list(_connections)


def _unfinished() -> list[str]:
    """Describe connections with calls that will never end."""
    found = []
    for connection in _connections:
        busy = connection.rules.busy_slots
        if connection.ended is None and busy:
            found.append(f"the connection to {connection.name} is open, with {busy} slots in use")
        elif connection.ended is not None and connection.handlers:
            left = len(connection.handlers)
            found.append(
                f"the connection to {connection.name} has ended, and {left} calls have not"
            )
    return found


def leaked_since(before: Look) -> list[str]:
    """Describe the resources that are open now and were not before, without waiting."""
    now = look()
    # A connection gets its watch with the first call of a thread, and closes it when it ends. One
    # that a wider fixture has opened may get it during a test.
    watches = {str(each.ownership.fileno()) for each in _connections if each.ended is None}
    files = [
        f"file descriptor {number}: {what}"
        for number, what in now.files - before.files
        if number not in watches
    ]
    threads = [f"thread {thread.name!r}" for thread in now.threads - before.threads]
    return sorted(files) + sorted(threads) + _unfinished()


@contextmanager
def nothing_leaks() -> Iterator[None]:
    """Fail if the block leaks a resource.

    Raises:
        AssertionError: The block leaked the resources that the message lists.
    """
    before = look()
    yield
    leaked = leaked_since(before)
    if leaked:
        gc.collect()
        patience = time.monotonic() + SETTLE
        while (leaked := leaked_since(before)) and time.monotonic() < patience:
            time.sleep(_POLL)
    if leaked:
        raise AssertionError("this test leaks:\n  " + "\n  ".join(leaked))
