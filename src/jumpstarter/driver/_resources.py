"""Let drivers read the resources that clients lend to them, or write to them.

A `Loan` is a raw stream that the client opens; the exporter itself answers it, not a method of the
driver. It lasts from when the client lends the resource until the client takes it back. The driver
opens it with the handle that the client passes to it: once, and only while it answers a call of the
same client. A driver that reads never mistakes a lost connection for end-of-file, and if a driver
fails while it writes, the client always gets an error.

    state of a loan   next
    UNUSED            IN_USE, by `take`, when the driver opens it
    IN_USE            RELEASED, by `release`, when the driver leaves the block
    RELEASED          -

Besides that, the client may take a loan back in each state (`client_closed`), which ends `run` as
soon as the driver does not use it. The task that runs the raw stream owns the loan.

This module knows neither connections nor the base class of drivers.
"""

from __future__ import annotations

import enum
import io
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from types import TracebackType
from typing import Any, BinaryIO, Final, cast
from uuid import UUID, uuid4

import trio

from .._io.byte_stream import SlotStream
from .._io.transfer import ENCODINGS, MAX_BYTES, CompressingWriter, DecompressingReader
from .._util.checks import check_int, check_max_bytes, check_seconds
from .._util.stream_errors import closed, end_of_stream
from ..errors import MissingExtra, ResourceError
from ._caller import current_connection
from ._http import IDLE, is_url, open_url

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["Loan", "Resource", "ResourceStream", "loan_request"]

MODES: Final = ("read", "write")  # from the driver's point of view
_BUFFER: Final = 256 * 1024  # bytes per read or write of a driver's blocking code


class LoanState(enum.Enum):
    """How far the driver is with a loan; see the module's docstring."""

    UNUSED = enum.auto()
    IN_USE = enum.auto()
    RELEASED = enum.auto()


class Loan:
    """One resource that a client has lent to one driver.

    Attributes:
        handle: Identifies it; the client passes it to the driver.
        owner: The client's connection.
        mode: `"read"` or `"write"`, for the driver.
        encoding: How the bytes are compressed.
        stream: The stream to the client; set before the client learns the handle.
        excuse: The exception with which the client failed, if it has sent one.
    """

    def __init__(self, mode: str, encoding: str) -> None:
        if mode not in MODES or encoding not in ENCODINGS:
            text = f"a loan is for {' or '.join(MODES)}, compressed by zstd or not at all"
            raise ResourceError(f"{text}, and not for {mode!r:.40} by {encoding!r:.40}")
        self.handle: UUID = uuid4()
        self.owner = current_connection.get()
        self.mode: str = mode
        self.encoding: str = encoding
        self.stream: SlotStream
        self._state = LoanState.UNUSED
        self._released = trio.Event()  # set in state RELEASED
        self._taken_back = trio.Event()
        self._failure: BaseException | None = None
        self.excuse: Exception | None = None

    def take(self) -> None:
        """Begin to use the loan; possible only once.

        Raises:
            ResourceError: It is in use, or was used before.
        """
        if self._state is not LoanState.UNUSED:
            how = "is being used" if self.in_use else "was used already"
            raise ResourceError(f"the resource {self.handle} {how}: each can be used once")
        self._state = LoanState.IN_USE

    @property
    def in_use(self) -> bool:
        """True while the driver reads or writes it."""
        return self._state is LoanState.IN_USE

    def release(self, failure: BaseException | None) -> None:
        """End the driver's use of the loan, with the exception that the driver raised, if any."""
        self._failure = failure
        self._state = LoanState.RELEASED
        self._released.set()

    def client_closed(self) -> None:
        """Note that the client takes the loan back, and reads nothing more. Synchronous."""
        if self.mode == "write":
            self.stream.finish(ConnectionError("the client has taken back what it had lent"))
        self._taken_back.set()

    def arrived(self) -> None:
        """Do nothing: the driver's task waits for the stream itself. Synchronous."""

    async def run(self) -> None:
        """Wait until the client took the loan back and the driver released it. A checkpoint.

        Raises:
            ResourceError: It was lent for writing, and the driver has not written all of it.
        """
        try:
            if self.mode == "write" and await self.stream.receive_some():
                raise ResourceError("bytes have come for a driver that was to write")
            if self.mode == "read":
                await self._taken_back.wait()
            if self._state is not LoanState.UNUSED:
                await self._released.wait()
        except BaseException:
            # Before the slot ends: a reading driver would mistake the slot's end for end-of-file.
            taken_back = ConnectionError("the client has taken back what it had lent")
            self.stream.finish(self.excuse or taken_back)
            raise
        if self.mode == "read":
            return
        if self._failure is not None:
            text = f"the driver failed as it wrote: {type(self._failure).__name__}: {self._failure}"
            raise ResourceError(text)
        if self._state is LoanState.UNUSED:
            raise ResourceError("the driver has not used what was lent to it for writing")


@contextmanager
def loan_request(resources: dict[UUID, Any], mode: str, encoding: str) -> Iterator[Loan]:
    """Make a loan, and add it to a driver's resources until the block ends.

    Raises:
        ResourceError: The mode or the encoding is unknown.
    """
    loan = Loan(mode, encoding)
    resources[loan.handle] = loan
    try:
        yield loan
    finally:
        resources.pop(loan.handle, None)


class ResourceStream(trio.abc.Stream):
    """A one-directional Trio stream with which a driver reads or writes a resource.

    `send` and `receive` are there for code that expects an anyio stream. `async for` yields chunks.
    """

    def __init__(self, flow: DecompressingReader | CompressingWriter) -> None:
        self._flow = flow
        self._closed = False

    def shut(self) -> None:
        """Refuse further use after the block was left: missing data would look like end-of-file."""
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise closed("the block that has opened this resource was left")

    @property
    def is_readable(self) -> bool:
        """True if it was lent for reading, False if for writing."""
        return isinstance(self._flow, DecompressingReader)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Receive at least one byte, or `b""` at the end. A checkpoint.

        Args:
            max_bytes: The largest number of bytes to return; by default as many as there are.

        Raises:
            ValueError: `max_bytes` is less than 1.
            ResourceError: The resource is larger than `max_bytes` of `Driver.resource`, is damaged,
                or was lent for writing.
            trio.BrokenResourceError: The client is gone, has failed, or has taken it back.
            trio.ClosedResourceError: The block that gave this stream was left.
        """
        self._check_open()
        if not isinstance(self._flow, DecompressingReader):
            raise ResourceError("this resource was lent to be written, and cannot be read")
        check_max_bytes(max_bytes)
        return await self._flow.receive_some(max_bytes)

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Receive at least one byte, as an anyio stream does. A checkpoint.

        Raises:
            EndOfStream: At the end; it is anyio's too, if anyio was imported.
            Exception: As `receive_some` raises.
        """
        data = await self.receive_some(max_bytes)
        if not data:
            raise end_of_stream("the resource has ended")
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Write bytes; blocks while the client accepts none. A checkpoint.

        Raises:
            ResourceError: The resource was lent for reading.
            trio.BrokenResourceError: The client is gone, has failed, or has taken it back.
            trio.ClosedResourceError: The block that gave this stream was left.
        """
        self._check_open()
        if not isinstance(self._flow, CompressingWriter):
            raise ResourceError("this resource was lent to be read, and cannot be written")
        await self._flow.send_all(data)

    send = send_all

    async def wait_send_all_might_not_block(self) -> None:
        """Return immediately: the client's credit is known only when sending. A checkpoint."""
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        """Do nothing: the block that has opened the stream closes it. A checkpoint."""
        await trio.lowlevel.checkpoint()


class Resource:
    """A resource to open with `async with` in a Trio task, or with `with` in a plain method.

    `Driver.resource` makes it, and documents it.
    """

    def __init__(
        self,
        resources: dict[UUID, Any],
        handle: str | UUID,
        *,
        max_bytes: int = MAX_BYTES,
        timeout: float = IDLE,
    ) -> None:
        self._resources = resources
        self._handle = handle
        self._max_bytes = check_int("max_bytes", max_bytes, 0)
        self._timeout = check_seconds("timeout", timeout)
        self._open = AsyncExitStack()
        self._file: io.BufferedReader | io.BufferedWriter

    async def __aenter__(self) -> ResourceStream:
        if is_url(self._handle):
            opened = open_url(str(self._handle), self._max_bytes, self._timeout)
            flow: DecompressingReader | CompressingWriter = DecompressingReader(
                await self._open.enter_async_context(opened), max_bytes=self._max_bytes
            )
        else:
            flow = await self._open.enter_async_context(self._borrow(self._find()))
        stream = ResourceStream(flow)
        self._open.callback(stream.shut)
        return stream

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._open.__aexit__(exc_type, exc, traceback)

    def _find(self) -> Loan:
        handle = self._handle
        try:
            loan = self._resources.get(handle if isinstance(handle, UUID) else UUID(handle))
        except (ValueError, AttributeError, TypeError):
            text = "a resource is named by the handle that a client was given for it"
            raise ResourceError(
                f"{text}, or by an http:// or https:// URL, and not by {handle!r:.100}"
            ) from None
        if not isinstance(loan, Loan):
            text = f"there is no resource {handle} at this driver"
            why = "it was lent to another one, or was taken back: pass it on within its block"
            raise ResourceError(f"{text}; {why}")
        if loan.owner is not current_connection.get():
            raise ResourceError(f"the resource {handle} was lent by another client")
        return loan

    @asynccontextmanager
    async def _borrow(self, loan: Loan) -> AsyncIterator[DecompressingReader | CompressingWriter]:
        stream = loan.stream
        flow: DecompressingReader | CompressingWriter
        try:
            if loan.mode == "read":
                flow = DecompressingReader(stream.receive_some, loan.encoding, self._max_bytes)
            else:
                flow = CompressingWriter(stream.send_all, loan.encoding)
        except MissingExtra as exc:
            raise MissingExtra(f"on the exporter {exc}") from exc
        loan.take()
        failure: BaseException | None = None
        try:
            yield flow
            if isinstance(flow, CompressingWriter):
                await flow.finish()
                await stream.send_eof()
        except BaseException as exc:
            failure = exc
            if isinstance(flow, CompressingWriter) and isinstance(exc, Exception):
                with suppress(Exception):  # `exc` says more
                    await flow.flush()
            raise
        finally:
            loan.release(failure)

    def __enter__(self) -> BinaryIO:
        if trio.lowlevel.in_trio_run():
            text = "`with self.resource(...)` blocks, and would block the exporter's Trio loop"
            raise RuntimeError(f"{text}; in an async method use `async with`")
        stream = trio.from_thread.run(self.__aenter__)
        raw = _File(stream)
        if raw.writable():
            self._file = io.BufferedWriter(raw, _BUFFER)
        else:
            self._file = io.BufferedReader(raw, _BUFFER)
        return cast("BinaryIO", self._file)

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        raw = cast("_File", self._file.raw)
        if exc is not None:  # send the client the bytes written so far, and then the failure
            # Any exception can be suppressed: `exc` is raised, and no signal handler runs in a
            # worker thread.
            with suppress(Exception, trio.Cancelled):
                self._file.flush()
            raw.discards = True
        try:
            self._file.close()
        except BaseException as failure:
            trio.from_thread.run(self.__aexit__, type(failure), failure, None)
            raise
        trio.from_thread.run(self.__aexit__, exc_type, exc, traceback)


class _File(io.RawIOBase):
    """A resource as a raw file, for blocking code in a worker thread.

    Attributes:
        discards: True if written bytes are dropped, since the block has failed.
    """

    def __init__(self, stream: ResourceStream) -> None:
        self._stream = stream
        self.discards = False

    def readable(self) -> bool:
        return self._stream.is_readable

    def writable(self) -> bool:
        return not self.readable()

    def readinto(self, buffer: Any) -> int:
        data = trio.from_thread.run(self._stream.receive_some, len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def write(self, data: Any) -> int:
        if not self.discards:
            trio.from_thread.run(self._stream.send_all, bytes(data))
        return len(data)
