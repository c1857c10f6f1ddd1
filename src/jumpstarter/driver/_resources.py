"""Let drivers open the resources that clients name to them: loans, URLs, presigned requests.

`_loan` has the exporter's side of a loan. This module knows neither connections nor the base class
of drivers.
"""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from types import TracebackType
from typing import Any, BinaryIO, Final, TypeAlias, cast
from uuid import UUID

import trio

from .._io.current_lane import Lane, current_lane
from .._io.transfer import MAX_BYTES, CompressingWriter, DecompressingReader
from .._util.checks import check_int, check_seconds
from ..errors import MissingExtra, ResourceError
from ._caller import current_connection
from ._handles import PresignedRequest, Url, read_handle
from ._http import IDLE, open_url
from ._loan import Loan
from ._presigned import open_presigned
from ._stream import ResourceFile, ResourceStream

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["LONGEST", "Handle", "Resource"]

Handle: TypeAlias = str | UUID | Mapping[str, Any]

LONGEST: Final = 7200.0  # seconds for a presigned request: a large image over a slow network
_BUFFER: Final = 256 * 1024  # bytes per read or write of a driver's blocking code


class Resource:
    """A resource to open with `async with` in a Trio task, or with `with` in a plain method.

    `Driver.resource` makes it, and documents it.
    """

    def __init__(
        self,
        resources: dict[UUID, Any],
        handle: Handle,
        *,
        max_bytes: int = MAX_BYTES,
        timeout: float | None = None,
    ) -> None:
        self._resources = resources
        self._handle = handle
        self._max_bytes = check_int("max_bytes", max_bytes, 0)
        self._timeout = None if timeout is None else check_seconds("timeout", timeout)
        self._open = AsyncExitStack()
        self._raw: ResourceFile
        self._file: io.BufferedIOBase

    async def __aenter__(self) -> ResourceStream:
        lane = current_lane()
        manager: AbstractAsyncContextManager[Any]
        match read_handle(self._handle):
            case PresignedRequest() as request:
                timeout = LONGEST if self._timeout is None else self._timeout
                manager = open_presigned(request, self._max_bytes, timeout)
            case Url() as url:
                manager = self._fetch(url)
            case _ if lane is not None:
                manager = self._through(lane)
            case handle:
                manager = self._borrow(self._find(handle))
        stream: ResourceStream = await self._open.enter_async_context(manager)
        return stream

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._open.__aexit__(exc_type, exc, traceback)

    @asynccontextmanager
    async def _fetch(self, url: str) -> AsyncIterator[ResourceStream]:
        silence = IDLE if self._timeout is None else self._timeout
        async with open_url(url, self._max_bytes, silence) as receive:
            stream = ResourceStream(DecompressingReader(receive, max_bytes=self._max_bytes))
            try:
                yield stream
            finally:
                stream.shut()

    def _through(self, lane: Lane) -> AbstractAsyncContextManager[Any]:
        """Open it in the Trio loop, for asyncio code in a lane."""
        from .._io.lane_streams import hold_trio_stream  # noqa: PLC0415 - it imports asyncio

        inner = Resource(
            self._resources, self._handle, max_bytes=self._max_bytes, timeout=self._timeout
        )
        return hold_trio_stream(cast("Any", lane), inner)

    def _find(self, handle: UUID) -> Loan:
        loan = self._resources.get(handle)
        if not isinstance(loan, Loan):
            text = f"there is no resource {handle} at this driver"
            why = "it was lent to another one, or was taken back: pass it on within its block"
            raise ResourceError(f"{text}; {why}")
        if loan.owner is not current_connection.get():
            raise ResourceError(f"the resource {handle} was lent by another client")
        return loan

    @asynccontextmanager
    async def _borrow(self, loan: Loan) -> AsyncIterator[ResourceStream]:
        stream = self._stream_of(loan)
        loan.take()
        failure: BaseException | None = None
        try:
            yield stream
            await stream.send_eof()
        except BaseException as exc:
            failure = exc
            if isinstance(exc, Exception):
                await stream.give_up()
            raise
        finally:
            stream.shut()
            loan.release(failure)

    def _stream_of(self, loan: Loan) -> ResourceStream:
        below, encoding, is_file = loan.stream, loan.encoding, loan.mode == "both"
        reader = writer = end = None
        try:
            if loan.mode != "write":
                reader = DecompressingReader(
                    below.receive_some, encoding, self._max_bytes, is_file=is_file
                )
            if loan.mode != "read":
                writer = CompressingWriter(below.send_all, encoding, is_file=is_file)
                end = below.send_eof
        except MissingExtra as exc:
            raise MissingExtra(f"on the exporter {exc}") from exc
        return ResourceStream(reader, writer, end)

    def __enter__(self) -> BinaryIO:
        if trio.lowlevel.in_trio_run():
            text = "`with self.resource(...)` blocks, and would block the exporter's Trio loop"
            raise RuntimeError(f"{text}; in an async method use `async with`")
        stream = trio.from_thread.run(self.__aenter__)
        self._raw = raw = ResourceFile(stream)
        if not raw.writable():
            self._file = io.BufferedReader(raw, _BUFFER)
        elif not raw.readable():
            self._file = io.BufferedWriter(raw, _BUFFER)
        else:
            self._file = io.BufferedRWPair(raw, raw, _BUFFER)
        return cast("BinaryIO", self._file)

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc is not None:  # send the client the bytes written so far, and then the failure
            # Any exception can be suppressed: `exc` is raised, and no signal handler runs in a
            # worker thread.
            with suppress(Exception, trio.Cancelled):
                self._file.flush()
            self._raw.discards = True
        try:
            self._file.close()
        except BaseException as failure:
            trio.from_thread.run(self.__aexit__, type(failure), failure, None)
            raise
        trio.from_thread.run(self.__aexit__, exc_type, exc, traceback)
