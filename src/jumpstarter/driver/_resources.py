"""What clients lend to drivers: bytes that a driver reads from its client, or writes to it.

A `Loan` is one raw stream that the client has opened for it, at the exporter's own service, and
lives as long as that: from when the client lends until it takes back. The driver gets at it through
the handle that the client passes it, once, and only while it answers a call of that same client. A
driver that reads never takes what was cut short for the end; a client that is written to learns of
every failure.

This file knows raw streams and nothing of connections, nor of the class of all drivers.
"""

from __future__ import annotations

import io
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from types import TracebackType
from typing import Any, BinaryIO, Final, cast
from uuid import UUID, uuid4

import trio

from .._io.byte_stream import SlotStream
from .._io.transfer import ENCODINGS, MAX_BYTES, CompressingWriter, DecompressingReader
from .._util.checks import check_int, check_max_bytes, check_seconds
from ..errors import EndOfStream, MissingExtra, ResourceError
from ._caller import current_connection
from ._http import IDLE, is_url, open_url

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["Loan", "Resource", "ResourceStream", "loan_request"]

MODES: Final = ("read", "write")  # what the driver does, as it is told by the client
_BUFFER: Final = 256 * 1024  # bytes that a driver's blocking code reads or writes at once


class Loan:
    """One thing that a client has lent to one driver.

    Attributes:
        handle: By which the driver gets at it.
        owner: The client's connection.
        mode: `"read"` or `"write"`.
        encoding: How the bytes are compressed.
        stream: To the client; set before the client learns of the handle.
        excuse: What the client has failed with, once it has said so.
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
        self._taken = False
        self._free = trio.Event()  # the driver is done with it
        self._taken_back = trio.Event()
        self._failure: BaseException | None = None
        self.excuse: Exception | None = None

    def take(self) -> None:
        """Use it, which can be done once."""
        if self._taken:
            how = "was used already" if self._free.is_set() else "is being used"
            raise ResourceError(f"the resource {self.handle} {how}: each can be used once")
        self._taken = True

    @property
    def in_use(self) -> bool:
        """True while the driver reads or writes it."""
        return self._taken and not self._free.is_set()

    def release(self, failure: BaseException | None) -> None:
        """Say that the driver is done with it, or has failed with it."""
        self._failure = failure
        self._free.set()

    def client_closed(self) -> None:
        """The client takes it back, and reads no more of it. Synchronous."""
        if self.mode == "write":
            self.stream.finish(ConnectionError("the client has taken back what it had lent"))
        self._taken_back.set()

    def arrived(self) -> None:
        """Something has come from the client: for whoever reads the stream. Synchronous."""

    async def run(self) -> None:
        """Wait until the client has taken it back, and the driver is done with it. A checkpoint.

        Raises:
            ResourceError: It was lent for writing, and was not written whole.
        """
        try:
            if self.mode == "write" and await self.stream.receive_some():
                raise ResourceError("bytes have come for a driver that was to write")
            if self.mode == "read":
                await self._taken_back.wait()
            if self._taken:
                await self._free.wait()
        except BaseException:
            # Before the slot ends, which a reader would take for the end of the bytes.
            taken_back = ConnectionError("the client has taken back what it had lent")
            self.stream.finish(self.excuse or taken_back)
            raise
        if self.mode == "read":
            return
        if self._failure is not None:
            text = f"the driver failed as it wrote: {type(self._failure).__name__}: {self._failure}"
            raise ResourceError(text)
        if not self._taken:
            raise ResourceError("the driver has not used what was lent to it for writing")


@contextmanager
def loan_request(resources: dict[UUID, Any], mode: str, encoding: str) -> Iterator[Loan]:
    """Keep a loan among a driver's resources for the length of the block."""
    loan = Loan(mode, encoding)
    resources[loan.handle] = loan
    try:
        yield loan
    finally:
        resources.pop(loan.handle, None)


class ResourceStream(trio.abc.Stream):
    """What a driver reads a resource from, or writes it to: a Trio stream, in one direction.

    `send` and `receive` are there for code that expects an anyio stream, `async for` gives pieces.
    """

    def __init__(self, flow: DecompressingReader | CompressingWriter) -> None:
        self._flow = flow
        self._closed = False

    def shut(self) -> None:
        """The block that gave it was left: what is read behind it could look like the end."""
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("the block that has opened this resource was left")

    @property
    def is_readable(self) -> bool:
        """True if it was lent for reading, False if for writing."""
        return isinstance(self._flow, DecompressingReader)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Receive what there is, at least one byte, or `b""` at the end. A checkpoint.

        Raises:
            ValueError: `max_bytes` is less than 1.
            ResourceError: It is larger than `max_bytes` of `Driver.resource`, damaged, or was lent
                for writing.
            trio.BrokenResourceError: The client is gone, has failed, or has taken it back.
            trio.ClosedResourceError: The block that gave this stream was left.
        """
        self._check_open()
        if not isinstance(self._flow, DecompressingReader):
            raise ResourceError("this resource was lent to be written, and cannot be read")
        check_max_bytes(max_bytes)
        return await self._flow.receive_some(max_bytes)

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """The same, but raise at the end.

        Raises:
            EndOfStream: Of anyio, where that was imported; else this library's.
        """
        data = await self.receive_some(max_bytes)
        if not data:
            anyio = sys.modules.get("anyio")
            raise EndOfStream("the resource has ended") if anyio is None else anyio.EndOfStream
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Write bytes; waits while the client takes none. A checkpoint.

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
        """Return at once: only sending tells."""
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        """Do nothing: the block that gave the stream ends it."""
        await trio.lowlevel.checkpoint()


class Resource:
    """A resource that is not open yet: `async with` it in a Trio task, `with` it in a plain method.

    Made by `Driver.resource`, which says what it does.
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
        if exc is not None:  # the client learns of it, and has what was written before
            # In a worker thread, where no signal handler runs. `exc` tells what has failed.
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
    """A resource for blocking code in a worker thread.

    Attributes:
        discards: It writes nothing any more.
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
