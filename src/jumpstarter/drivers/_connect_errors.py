"""Explain why a server near the exporter cannot be reached."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["explain_connect_errors"]


@contextmanager
def explain_connect_errors(address: str) -> Iterator[None]:
    """Make an error name the server's address, and keep the system's error number."""
    try:
        yield
    except OSError as exc:
        first: BaseException | None = exc.__cause__
        while isinstance(first, BaseExceptionGroup):  # Trio adds one error per address of a name
            first = first.exceptions[0]
        why = first if exc.errno is None and isinstance(first, OSError) else exc
        if why.errno is None:
            raise OSError(f"{address}: {why}") from exc
        # Numbers below 0 are the resolver's (socket.gaierror), which os.strerror does not know.
        text = os.strerror(why.errno) if why.errno > 0 else why.strerror
        if why.errno in {errno.ENOENT, errno.ECONNREFUSED}:
            text = f"{text} (no server listens there)"
        raise OSError(why.errno, text, address) from exc
