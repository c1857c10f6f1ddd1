"""Writes that are complete, or an error which names its subject.

A `write` may take fewer bytes than it was given: because of a signal, a full buffer, or because it
is not a file but an object of a user's. What it returns is looked at here, once for all that this
library writes to and did not make itself.
"""

from __future__ import annotations

import errno
import operator
from collections.abc import Iterator
from contextlib import contextmanager
from io import RawIOBase
from typing import Any

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["check_sent", "check_write_count", "name_os_errors", "write_all"]


def check_write_count(answer: object, size: int, what: str) -> int:
    """Tell how many bytes a write took, by what it returned.

    Args:
        answer: What it returned. None stands for all of them, as `write` of many objects returns
            nothing and raises where it fails.
        size: How many it was given; at least one.
        what: What was called, for the error.

    Returns:
        At least one, so that a loop which writes the rest makes progress.

    Raises:
        OSError: It took none, or the answer cannot be the number of bytes that it took.
    """
    if answer is None:
        return size
    try:
        count = 0 if isinstance(answer, bool) else operator.index(answer)  # type: ignore[arg-type]
    except TypeError:
        count = -1
    if 0 < count <= size:
        return count
    given = f"of the {size} bytes that it was given"
    if answer == 0 and not isinstance(answer, bool):
        raise OSError(errno.EIO, f"{what} took none {given}, and raised no error")
    text = f"{what} returned {answer!r:.60}, where it must return how many {given} it took"
    raise OSError(errno.EIO, text)


def check_sent(answer: object, size: int, what: str) -> None:
    """Check what a stream's `send_all` or `send` returned, which is to send all, or raise.

    Raises:
        OSError: It says that it took fewer, or returned what cannot be.
    """
    if answer is not None and (count := check_write_count(answer, size, what)) < size:
        raise OSError(errno.EIO, f"{what} took {count} of {size} bytes; it must take all, or raise")


def write_all(stream: Any, data: bytes | bytearray | memoryview) -> None:
    """Write all of it to a blocking stream, however little of it each `write` takes.

    Raises:
        BlockingIOError: It is an unbuffered file that does not block, and takes nothing now.
        OSError: What `write` raised; or it took nothing, or returned what cannot be.
    """
    rest = memoryview(data)
    while rest:
        answer = stream.write(rest)
        if answer is None and isinstance(stream, RawIOBase):
            text = f"{_named(stream)} takes no more now, and does not block; lend one that blocks"
            raise BlockingIOError(errno.EAGAIN, text)
        rest = rest[check_write_count(answer, len(rest), f"{_named(stream)}.write()") :]


@contextmanager
def name_os_errors(subject: str) -> Iterator[None]:
    """Have an error of the system say what it is of, where it does not.

    Args:
        subject: A path or an address.
    """
    try:
        yield
    except OSError as exc:
        if exc.errno is None and subject not in str(exc):
            exc.args = (f"{subject}: {exc}",)
        elif exc.errno is not None and exc.filename is None:
            exc.filename = subject
        raise


def _named(stream: object) -> str:
    name = getattr(stream, "name", None)
    kind = type(stream).__name__
    return kind if name is None else f"{kind} {name!r:.100}"
