"""Keep two processes from serving one configuration, if one of them is in exclusive use.

Each resets the drivers when it starts, and the second one would do that under the clients of the
first. So a process locks the configuration (`flock`) while it serves the drivers: alone if it is in
exclusive use, and otherwise together with others of that kind, since the drivers may be virtual.

The kernel releases the lock however the process ends. It belongs to the file, whichever path or
link leads there; a copy is another file, and so is one that an editor has put in its place.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import IO, Final

from .._util.file_locks import lockers_of, name_of_process
from .._util.fork import close_in_children, close_path_in_children, close_without_fork
from .._util.text import escape_text
from ..errors import ConfigurationError

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["in_use"]

_ADDRESSES: Final = ("--address", "--tls-grpc-listener")
_PROGRAMS: Final = ("jumpstarter", "jmp", "j")  # those of this library
_PLUGIN: Final = "--jumpstarter-"  # how options of the pytest plugin begin


@contextmanager
def in_use(path: Path | None, *, exclusive: bool) -> Iterator[list[str]]:
    """Lock a configuration for the length of a block, in which its drivers are served.

    Args:
        path: The file. Nothing is locked for None, and for what is not a file, such as a pipe.
        exclusive: Whether the drivers are in exclusive use.

    Yields:
        The other processes that serve it, in words.

    Raises:
        ConfigurationError: (on entering) Another process serves it, and one of the two is in
            exclusive use.
    """
    file = None if path is None else _open(path)
    if path is None or file is None:
        yield []
        return
    try:
        try:
            fcntl.flock(file, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigurationError(_refusal(path, _lockers(file))) from None
        except OSError:  # a file system without such locks
            yield []
            return
        yield _others(file)
    finally:
        close_without_fork(file)


def _open(path: Path) -> IO[bytes] | None:
    with suppress(OSError):  # reading it has failed before, or it was removed since
        if stat.S_ISREG(path.stat().st_mode):
            with close_path_in_children(os.O_RDONLY, path):
                file = path.open("rb")
                close_in_children(file)
                return file
    return None


def _lockers(file: IO[bytes]) -> list[int]:
    """Return the processes that have the lock of a file, as far as this user can see them."""
    return lockers_of(os.fstat(file.fileno()))


def _others(file: IO[bytes]) -> list[str]:
    """Describe the other processes that have the lock of a file."""
    return [_describe(each) for each in _lockers(file) if each != os.getpid()]


def _describe(process: int) -> str:
    address = _address_of(process)
    text = f"process {process}{name_of_process(process)}{address and ' at '}{address}"
    return escape_text(text)


def _command_line(process: int) -> list[str]:
    """Return the words of a process's command line; none if it has ended, or cannot be seen."""
    try:
        return Path(f"/proc/{process}/cmdline").read_text(errors="replace").split("\0")
    except OSError:
        return []


def _address_of(process: int) -> str:
    """Return where an exporter listens, as its command line says; empty if it says nothing."""
    for word, following in pairwise(_command_line(process)):
        option, has_value, value = word.partition("=")
        if option in _ADDRESSES:
            return value if has_value else following
    return ""


def _serves(process: int) -> bool:
    """Return whether a process serves the file, and has not just locked it."""
    return process == os.getpid() or any(
        Path(word).name in _PROGRAMS or word.startswith(_PLUGIN) for word in _command_line(process)
    )


def _refusal(path: Path, lockers: list[int]) -> str:
    names = " and ".join(_describe(each) for each in lockers if each != os.getpid())
    if any(map(_serves, lockers)):
        first = names or "another exporter"
        return (
            f"{path} is served already, by {first}, and one of the two is in exclusive use: each "
            "would reset the drivers under the clients of the other. Connect to that one, or end "
            "it; for drivers of its own, such as virtual ones, copy the file"
        )
    first = names or "a process that this user cannot see (as root, lslocks shows it)"
    return (
        f"{path} is locked by {first}. An exporter in exclusive use needs this lock (flock), and "
        "its drivers may be served by that process. End it, if it is not an exporter or a test run "
        "of yours. Each user who can read the file can lock it, so let only the exporter's user "
        "and root read it"
    )
