"""Write all bytes or raise, and name the file or address in system errors.

A `write` may accept fewer bytes than it was given: because of a signal, because a buffer is full,
or because the object is a user's and not a file. This module checks the return values of all
objects that the library writes to and has not made itself.
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
    """Return how many bytes a write accepted, judging by its return value.

    Args:
        answer: The return value. None counts as all bytes, because `write` of many objects returns
            nothing and raises if it fails.
        size: How many bytes it was given; at least one.
        what: The function that was called, for the message.

    Returns:
        At least one, so that a loop that writes the rest makes progress.

    Raises:
        OSError: It accepted no byte, or the return value cannot be a number of bytes.
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
    """Check the return value of a stream's `send_all` or `send`, which must send all or raise.

    Raises:
        OSError: It reports fewer bytes, or the return value cannot be a number of bytes.
    """
    if answer is not None and (count := check_write_count(answer, size, what)) < size:
        raise OSError(errno.EIO, f"{what} took {count} of {size} bytes; it must take all, or raise")


def write_all(stream: Any, data: bytes | bytearray | memoryview) -> None:
    """Write all bytes to a blocking stream, in as many calls of `write` as it needs.

    Raises:
        BlockingIOError: The stream is an unbuffered file in non-blocking mode, and is full.
        OSError: `write` raised it, accepted no byte, or returned an impossible value.
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
    """Add the subject to an OSError that leaves the block, unless it has one.

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
