"""The part of a client that lends streams by `resource_async`, in both of its forms."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Unpack, cast

import trio

from .._io.current_lane import Lane
from ..errors import ArgumentTypeError
from . import _loans as loans
from ._object_loan import (
    ObjectDevice,
    check_encoding,
    is_object_stream,
    total_of,
    transfer_object,
)
from ._raw_streams import open_stream
from ._remote import DriverRef

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["ResourceLending"]


class ResourceLending:
    """The part of a `DriverClient` that lends streams to its driver, for async code."""

    channel: DriverRef

    @asynccontextmanager
    async def resource_async(
        self, stream: Any, content_encoding: str | None = None, **options: Unpack[loans.LoanOptions]
    ) -> AsyncIterator[Any]:
        """Lend a stream to the driver, for the length of an `async with` block.

        It has two forms. A blocking binary stream or a Trio stream is lent in the direction that
        the options say, as the blocking `resource` of `ResourceMixin` does, with the same
        arguments. The handle is a str.

        A stream of anyio without options, or with a `content_encoding`, is lent as the published
        package does: the driver may read it, write it, or both, and the stream is closed at the
        end. The handle is a dict. The size of the transfer has no limit here, and only the
        end of each half marks its end.

        Entering and leaving are checkpoints. If the block is cancelled, the loan is withdrawn: the
        driver's read or write fails.

        Args:
            stream: The stream.
            content_encoding: How the bytes of a stream of anyio are compressed: `"gzip"`, `"xz"`,
                `"bz2"` or `"zstd"`. The driver reads them decompressed, and what it writes gets to
                the stream compressed. By default they are passed on as they are.
            options: Keyword arguments, as for `local_file` of `ResourceMixin`.

        Yields:
            The handle. It can be used once, by a call of this client to its driver.

        Raises:
            ArgumentError: It is not such a stream, or another argument cannot be used.
            Exception: Any exception that the stream has raised.
            DriverError: (on leaving) The driver has not written everything, or has failed with it.
            MissingExtra: It takes an extra that is not installed here.
            RuntimeError: (on entering) The client belongs to another Trio loop, or none runs here.
        """
        lane = self.channel.channel.check_loop(type(self).__name__, "resource_async")
        encoding = check_encoding(content_encoding)
        if encoding and options:
            text = "resource_async() takes content_encoding for a stream of anyio, without"
            raise ArgumentTypeError(f"{text} {', '.join(options)}; use compress= for others")
        if encoding or (not options and is_object_stream(stream)):
            async with _lend_object(self.channel, lane, stream, encoding) as handle:
                yield handle
        else:
            loan = loans.resource(stream, **options)
            async with loans.lend_async(cast("Any", self), loan) as name:
                yield name


@asynccontextmanager
async def _lend_object(
    ref: DriverRef, lane: Lane | None, stream: Any, encoding: str
) -> AsyncIterator[dict[str, str | None]]:
    """Lend a stream of the calling loop, and close it at the end."""
    device, total = ObjectDevice(stream), total_of(stream)
    try:
        if lane is None:
            async with _lend_device(ref, device, encoding, total) as handle:
                yield handle
        else:
            manager = _lend_across(ref, lane, device, encoding, total)
            async with lane.hold_in_trio(manager) as handle:
                yield handle
    finally:
        if lane is not None:
            await device.aclose()
        else:
            with trio.move_on_after(ref.channel.limits.cancel_grace, shield=True):
                await device.aclose()


@asynccontextmanager
async def _lend_device(
    ref: DriverRef, device: ObjectDevice, encoding: str, total: int | None
) -> AsyncIterator[dict[str, str | None]]:
    """Lend a stream of the Trio loop."""
    raw = await open_stream(ref.channel, ref.loan_request("both", encoding))
    async with transfer_object(raw, device, encoding, total) as handle:
        yield handle


@asynccontextmanager
async def _lend_across(
    ref: DriverRef, lane: Lane, device: ObjectDevice, encoding: str, total: int | None
) -> AsyncIterator[dict[str, str | None]]:
    """Lend a stream of the lane's loop, from the Trio loop."""
    from .._io.lane_streams import open_asyncio_stream  # noqa: PLC0415 - it imports asyncio

    async with (
        open_asyncio_stream(cast("Any", lane), device) as side,
        _lend_device(ref, ObjectDevice(side), encoding, total) as handle,
    ):
        yield handle
