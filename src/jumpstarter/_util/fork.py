"""Close the library's file descriptors in forked children.

A child inherits a copy of each descriptor that its parent has open. While the child lives, the
kernel keeps the file or socket open: the peer of a killed process does not learn of its end, an
address stays in use, a device stays locked. So a child closes its copies before its own code runs,
whether it was forked by `os.fork`, `os.forkpty`, `pty.fork` or `multiprocessing`. `exec` already
closes the descriptors that Python makes.

Only the child's copies are closed. The connection is not shut down and no file is removed. Each
descriptor then refers to `/dev/null`. So a Python object that owns it can be used and collected
without affecting another file, and the epoll instance that the child shares with its parent
rejects it.

A fork waits while a thread is within `no_fork()`, so no child inherits a descriptor between its
creation and `close_in_children`. Opening or closing a file may block without end, and would then
hold up all forks. That is done within `close_path_in_children()`: a child forked there finds the
descriptor by its path. A C library that forks without Python runs none of this.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol
from weakref import WeakSet

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = [
    "FORK_TRIES",
    "close_in_children",
    "close_path_in_children",
    "close_without_fork",
    "fork_count",
    "is_child",
    "no_fork",
]

FORK_TRIES: Final = 10  # to connect while no child is forked; storms of forks need several


class HasFileno(Protocol):
    """An object that owns a descriptor: a socket, a file, a stream."""

    def fileno(self) -> int:
        """Return the descriptor, or -1 or raise once it is closed."""


class Closable(Protocol):
    """An object that closes without waiting: a socket, a file."""

    def close(self) -> object:
        """Close it."""


# Reentrant: a finalizer or a signal handler may fork in the thread that holds it.
_lock: Final = threading.RLock()
_resources: Final[WeakSet[Any]] = WeakSet()
_forks = 0
_FDS: Final = Path("/proc/self/fd")  # exists on Linux only


class _Transit(NamedTuple):
    """A file that a thread is opening or closing.

    Attributes:
        paths: Its path, with all links resolved, in each form that the kernel may report it in.
        mode: Its access mode.
        others: The descriptors of other code that stood for this path before.
    """

    paths: frozenset[str]
    mode: int
    others: frozenset[int]


_transits: Final[list[_Transit]] = []


def close_in_children(*resources: HasFileno) -> None:
    """Close descriptors in each child that is forked from now on. Any thread; no checkpoint.

    Args:
        resources: The owners of the descriptors. A fork asks each for its number, so nothing needs
            to be done when one is closed or collected.
    """
    with _lock:
        _resources.update(resources)


def close_without_fork(resource: Closable) -> None:
    """Close a resource while no fork can happen. Any thread; no checkpoint.

    A fork in the middle of `close()` would leave the child a copy: the object has already forgotten
    the descriptor, and the kernel still has it open.
    """
    with _lock:
        resource.close()


def no_fork() -> contextlib.AbstractContextManager[Any]:
    """Hold up all forks of this process within a `with` block, which must not wait.

    The thread itself may fork within the block, and blocks may be nested.
    """
    return _lock


@contextlib.contextmanager
def close_path_in_children(mode: int, *paths: str | os.PathLike[str]) -> Iterator[None]:
    """Have a file closed in children that are forked while the block opens or closes it.

    Between the return of `open(2)` and `close_in_children`, and between the first step of a Python
    object's `close` and the return of `close(2)`, only the kernel knows the descriptor. A child
    that is forked in between finds it by the file's path. Other systems than Linux do not report
    the path: there, a child forked at such a moment keeps its copy.

    Any thread; blocks as long as resolving the path does. Holds up no fork.

    Args:
        mode: `os.O_RDONLY`, `os.O_WRONLY` or `os.O_RDWR`.
        paths: The file that the block opens or closes, and where the file may be moved soon: a
            child looks for it a moment after the fork.
    """
    names = [os.path.realpath(path) for path in paths]
    real = frozenset([*names, *(f"{name} (deleted)" for name in names)])
    with _lock:
        # Not ours: the number of one that is closed meanwhile may be given to this file.
        ours = {_number_of(each) for each in list(_resources)}
        others = frozenset(_descriptors_of(real, mode)) - ours
        for transit in _transits:
            if transit[:2] == (real, mode):  # those that other threads open now are ours as well
                others &= transit.others
        entry = _Transit(real, mode, others)
        _transits.append(entry)
    try:
        yield
    finally:
        with _lock, contextlib.suppress(ValueError):  # a child has forgotten all of them
            _transits.remove(entry)


def _descriptors_of(paths: frozenset[str], mode: int) -> Iterator[int]:
    try:
        links = list(_FDS.iterdir())
    except OSError:
        return
    for link in links:
        number = int(link.name)
        with contextlib.suppress(OSError):  # of the listing itself, or closed meanwhile
            opened = fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE
            if opened == mode and str(link.readlink()) in paths:
                yield number


def fork_count() -> int:
    """Return a number that changes with each fork, in the parent."""
    return _forks


def is_child(process: int) -> bool:
    """Return whether this process was forked from the one with the given id."""
    return os.getpid() != process


def _in_parent() -> None:
    global _forks  # noqa: PLW0603 - it belongs to the process
    _forks += 1
    _lock.release()


def _in_child() -> None:
    try:
        numbers = [number for each in list(_resources) if (number := _number_of(each)) >= 0]
        for paths, mode, others in _transits:
            numbers += (each for each in _descriptors_of(paths, mode) if each not in others)
        if numbers:
            _replace(numbers)
        _resources.clear()
        _transits.clear()
    finally:
        _lock.release()


def _number_of(resource: HasFileno) -> int:
    try:
        return int(resource.fileno())
    except Exception:  # noqa: BLE001 - closed, or broken: close the others all the same
        return -1


def _replace(numbers: list[int]) -> None:
    try:
        null = os.open(os.devnull, os.O_RDWR)
    except OSError:  # The table is full. To be rid of the descriptors matters more.
        for number in numbers:
            os.close(number)
        return
    for number in numbers:
        with contextlib.suppress(OSError):
            os.dup2(null, number, inheritable=False)
    os.close(null)


os.register_at_fork(before=_lock.acquire, after_in_parent=_in_parent, after_in_child=_in_child)
