"""The exporter's side of a loan, by which a client lets a driver read or write a stream of its own.

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

A loan for `"both"` directions ends when the driver releases it, or when the client takes it back
unused. Only the end of each half marks where its bytes end.

This module knows neither connections nor the base class of drivers.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final
from uuid import UUID, uuid4

import trio

from .._io.byte_stream import SlotStream
from .._io.transfer import ENCODINGS
from .._util.compression import Compression
from ..errors import ResourceError
from ._caller import current_connection

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["Loan", "loan_request"]

MODES: Final = ("read", "write", "both")  # from the driver's point of view


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
        mode: `"read"`, `"write"` or `"both"`, for the driver.
        encoding: How the bytes are compressed on the wire. In mode `"both"`, how what the client
            has lent is compressed; the driver sees it without that.
        stream: The stream to the client; set before the client learns the handle.
        excuse: The exception with which the client failed, if it has sent one.
    """

    def __init__(self, mode: str, encoding: str) -> None:
        accepted = ("", *Compression) if mode == "both" else ENCODINGS
        if mode not in MODES or encoding not in accepted:
            text = f"a loan is for {' or '.join(MODES)}, compressed by zstd or not at all"
            more = f"; for both, by {', '.join(Compression)}"
            raise ResourceError(f"{text}{more}, and not for {mode!r:.40} by {encoding!r:.40}")
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
        if self.mode == "both":  # nothing of it can be used any more
            self._taken_back.set()

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
            ResourceError: It was lent for writing, and the driver has not written all of it. Or it
                was lent for both, and the driver has failed with it.
        """
        try:
            if self.mode == "write" and await self.stream.receive_some():
                raise ResourceError("bytes have come for a driver that was to write")
            if self.mode != "write":
                await self._taken_back.wait()
            if self._state is not LoanState.UNUSED:
                await self._released.wait()
        except BaseException:
            # Before the slot ends: a reading driver would mistake the slot's end for end-of-file.
            taken_back = ConnectionError("the client has taken back what it had lent")
            with self.stream.connection.lock:
                self.stream.finish(self.excuse or taken_back)
            raise
        if self.mode == "read":
            return
        if self._failure is not None:
            how = "as it wrote" if self.mode == "write" else "with what was lent to it"
            kind = type(self._failure).__name__
            raise ResourceError(f"the driver failed {how}: {kind}: {self._failure}")
        if self.mode == "both":
            self.stream.send_end()
        elif self._state is LoanState.UNUSED:
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
