"""Implement `ResourceMixin`: the two kinds of loans, and how a client lends one."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, Protocol, TypedDict, Unpack

from .._io.portal import BlockingPortal
from .._util.checks import check_flag, check_path, check_size_hint
from .._util.tracebacks import hidden_contextmanager
from ..errors import ArgumentTypeError
from ._lending import Loan
from ._loan_ends import file_sink, file_source, sink_of, source_of
from ._progress import Progress
from ._raw_streams import open_stream
from ._remote import DriverRef
from ._runner import limited, portal_for, runner_for
from ._streams import open_blocking_stream

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["FILE_BATCH", "LoanOptions", "lend", "lend_async", "local_file", "resource"]

FILE_BATCH: Final = 8  # chunks that are written to a file together


class _Client(Protocol):
    """The part of a client that lending uses."""

    channel: DriverRef
    portal: BlockingPortal | None


class LoanOptions(TypedDict, total=False):
    """How something is lent: the keyword arguments of `ResourceMixin`'s methods.

    Attributes:
        write: True if the driver writes it, False (the default) if the driver reads it.
        size: How many bytes will be transferred, for the progress display, if the file does not
            show it.
        compress: Compress the bytes with zstd on the wire. It requires the extra `zstd` at both
            ends, and is worthwhile if the network is slower than about 200 MB/s. False by default.
        progress: A function that is called with the number of bytes transferred so far, and with
            the total (None if unknown). It is called in the client's loop, so it must be quick. Or
            True for a bar on stderr, False for none. By default there is a bar if stderr is a
            terminal, the extra `progress` is installed, and the transfer takes longer than a
            second.
        max_bytes: How many bytes the driver may write, after decompression. 64 GiB by default.
    """

    write: bool
    size: int | None
    compress: bool
    progress: Progress
    max_bytes: int


def local_file(path: str | os.PathLike[str], **options: Unpack[LoanOptions]) -> Loan:
    """Make a loan of a local file.

    Args:
        path: Of the file.
        options: See `LoanOptions`.

    Raises:
        ArgumentError: An argument cannot be used.
    """
    path = Path(check_path("path", path))
    write, size, others = _split("local_file", options)
    if write:
        sink = file_sink(path)
        return Loan(title=path.name, sink=sink, size=size, batch_size=FILE_BATCH, **others)
    return Loan(title=path.name, source=file_source(path), **others)


def resource(stream: Any, **options: Unpack[LoanOptions]) -> Loan:
    """Make a loan of a stream.

    Args:
        stream: A blocking binary stream, or a Trio stream.
        options: See `LoanOptions`.

    Raises:
        ArgumentError: An argument cannot be used.
    """
    write, size, others = _split("resource", options)
    title = str(getattr(stream, "name", "stream"))
    if write:
        return Loan(title=title, sink=sink_of(stream), size=size, **others)
    return Loan(title=title, source=source_of(stream, size), **others)


def _split(method: str, options: LoanOptions) -> tuple[bool, int | None, dict[str, Any]]:
    """Check the options; return `write`, `size` and the others."""
    others: dict[str, Any] = {**options}
    for name in others.keys() - LoanOptions.__annotations__.keys():
        hint = ": use `with client.timeout(seconds):` around it" if name == "timeout" else ""
        text = f"{method}() got an unexpected keyword argument {name!r}{hint}"
        raise ArgumentTypeError(f"{text}; it takes {', '.join(LoanOptions.__annotations__)}")
    write = check_flag("write", others.pop("write", False))
    size = others.pop("size", None)
    check_size_hint("size", size)
    return write, size, others


@hidden_contextmanager
def lend(client: _Client, loan: Loan) -> Iterator[str]:
    """Lend something to the client's driver, for the length of a `with` block; yields the handle.

    Blocks while it is entered and left; see `Loan.transfer`.
    """
    request = client.channel.loan_request(loan.mode, loan.encoding)
    runner = runner_for(client, "resource", request)
    stream = open_blocking_stream(runner, client.channel.channel, request, _forget_nothing)
    transfer = limited(loan.transfer(stream.detach()), "lending to the driver")
    portal = portal_for(client, "resource", "resource_async")
    with portal.wrap_async_context_manager(transfer) as handle:
        yield handle


def _forget_nothing(_: object) -> None:
    """Do nothing: the transfer closes the stream, so the client need not keep track of it."""


@asynccontextmanager
async def lend_async(client: _Client, loan: Loan) -> AsyncIterator[str]:
    """Lend something to the client's driver, for the length of an `async with` block.

    In code of either kind of loop.
    """
    lane = client.channel.channel.check_loop(type(client).__name__, "resource_async")
    manager = _lend_in_trio(client, loan)
    async with manager if lane is None else lane.hold_in_trio(manager) as handle:
        yield handle


@asynccontextmanager
async def _lend_in_trio(client: _Client, loan: Loan) -> AsyncIterator[str]:
    request = client.channel.loan_request(loan.mode, loan.encoding)
    stream = await open_stream(client.channel.channel, request)
    async with loan.transfer(stream) as handle:
        yield handle
