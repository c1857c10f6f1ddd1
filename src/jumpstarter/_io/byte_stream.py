"""The bytes of a slot as a Trio stream: flow control, buffering and half-close, for both sides.

The two directions are independent. `send_all` waits for credit, and until its bytes have left the
queue. `receive_some` returns credit to the peer for the bytes that it returns.

| direction | state                               | left by                                        |
|-----------|-------------------------------------|------------------------------------------------|
| sending   | OPEN                                | `send_eof`: ENDED; the end of the slot: OVER;  |
|           |                                     | `aclose`: CLOSED                               |
| sending   | ENDED: the END flag was queued      | `aclose`: CLOSED                               |
| sending   | OVER: the slot has ended            | `aclose`: CLOSED                               |
| sending   | CLOSED                              | none                                           |
| receiving | OPEN                                | the peer's END, or the end of the slot without |
|           |                                     | an error: ENDED; an error or a lost            |
|           |                                     | connection: BROKEN; `aclose`: CLOSED           |
| receiving | ENDED: buffered bytes, then b""     | `aclose`: CLOSED                               |
| receiving | BROKEN: buffered bytes, then raises | `aclose`: CLOSED                               |
| receiving | CLOSED                              | none                                           |

The reader of the connection and the tasks that use the stream move the states, all in one event
loop. Apart from its state, the sending direction is torn while a `send_all` has sent only a part.
The client's `aclose` then cancels the driver's code, so that truncated data never looks complete.

The slot ends differently on the two sides, so each side extends `aclose`. This module does not know
clients or drivers.
"""

from __future__ import annotations

import enum
from typing import ClassVar, Final

import trio

from .._protocol import events as ev
from .._protocol.receive_buffer import ReceiveBuffer
from .._util.checks import as_bytes, check_max_bytes
from .._util.no_copies import ReduceEx, no_copies
from .._util.stream_errors import broken, busy, closed
from .._util.wakeup import Wakeup
from .connection import Connection

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["SlotStream"]

_MAX_RECEIVE: Final = 256 * 1024  # bytes that one `receive_some` returns by default


class SendState(enum.Enum):
    """The state of the sending direction. See the table in the module's docstring."""

    OPEN = enum.auto()
    ENDED = enum.auto()
    OVER = enum.auto()
    CLOSED = enum.auto()


class ReceiveState(enum.Enum):
    """The state of the receiving direction. See the table in the module's docstring."""

    OPEN = enum.auto()
    ENDED = enum.auto()
    BROKEN = enum.auto()
    CLOSED = enum.auto()


# Constants of the module: Python 3.11 is slow at looking up the members of an enum, and each piece
# that is sent or received needs these.
_MAY_SEND: Final = SendState.OPEN
_MAY_RECEIVE: Final = ReceiveState.OPEN
_RECEIVE_CLOSED: Final = ReceiveState.CLOSED


class SlotStream(trio.abc.HalfCloseableStream):
    """A raw stream on a connection. One task may send while another receives.

    Attributes:
        slot: Its slot; meaningless once `over`.
        over: True once the slot's terminal frame was received or queued: nothing more can be sent.
    """

    __slots__ = (
        "_broken",
        "_connection",
        "_inbox",
        "_may_receive",
        "_may_send",
        "_receive_state",
        "_receiving",
        "_rules",
        "_send_state",
        "_sending",
        "_torn",
        "over",
        "slot",
    )

    __reduce_ex__: ClassVar[ReduceEx] = no_copies(
        "a stream", "open another one there, by a client of that process"
    )

    def __init__(self, connection: Connection, slot: int) -> None:
        self._connection = connection
        self._rules = connection.rules
        self.slot: int = slot
        self.over: bool = False
        self._inbox = ReceiveBuffer()  # received by the connection, not yet by the application
        self._send_state = SendState.OPEN
        self._receive_state = ReceiveState.OPEN
        self._broken: Exception | None = None  # why the slot has ended early, if it has
        self._torn = False  # the last `send_all` has sent only a part
        self._sending = False
        self._receiving = False
        self._may_send = Wakeup()
        self._may_receive = Wakeup()

    @property
    def closed(self) -> bool:
        """True once it was closed here."""
        return self._send_state is SendState.CLOSED

    @property
    def complete(self) -> bool:
        """True if the peer has sent END, or this stream was closed here: no bytes are missing."""
        return self._receive_state in (ReceiveState.ENDED, ReceiveState.CLOSED)

    @property
    def pending(self) -> bool:
        """True if `receive_some` would return or raise without waiting."""
        return bool(self._inbox) or self._receive_state is not _MAY_RECEIVE

    # ------------------------------------------------------------------ from the connection

    def on_data(self, event: ev.DataReceived) -> None:
        """Buffer bytes that the connection has received."""
        if self._receive_state is _MAY_RECEIVE:  # else this side has cut it short, see `finish`
            if event.data:
                self._inbox.append(event.data)
            if event.end:
                self._receive_state = ReceiveState.ENDED
        self._may_receive.set()

    def on_writable(self) -> None:
        """Wake the sender: credit has arrived, or its last bytes have left the queue."""
        self._may_send.set()

    def finish(self, reason: Exception | None) -> None:
        """Handle the end of the slot: complete (None), or with bytes missing in a direction.

        This side may also call it earlier, to receive only what has arrived, and send no more.
        """
        self.over = True
        if reason is not None and self._broken is None:
            self._broken = reason
        if self._send_state is SendState.OPEN:
            self._send_state = SendState.OVER
        if self._receive_state is ReceiveState.OPEN:
            self._receive_state = ReceiveState.ENDED if reason is None else ReceiveState.BROKEN
        self._may_send.set()
        self._may_receive.set()

    # ------------------------------------------------------------------------------ sending

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes. Returns when they have left the queue, not when the peer has read them.

        A checkpoint. If it is cancelled, an unknown part of `data` was sent, in whole frames. The
        stream can still be used.

        Raises:
            trio.BusyResourceError: Another task is sending.
            trio.ClosedResourceError: This stream, or our half of it, was closed here.
            trio.BrokenResourceError: The peer or the connection is gone; `__cause__` says why.
        """
        chunk = data if type(data) is bytes else as_bytes(data)
        self._begin_sending()
        try:
            self._check_sendable()
            await trio.lowlevel.checkpoint()
            offset = 0
            try:
                while offset < len(chunk):
                    offset += await self._send_some(chunk, offset)
            except BaseException:
                if not self.over:
                    self._rules.withdraw(self.slot)
                raise
            self._torn = False
        finally:
            self._sending = False

    async def _send_some(self, chunk: bytes, offset: int) -> int:
        while True:
            self._check_sendable()
            credit = self._rules.sendable(self.slot)
            if not credit:
                await self._may_send.wait()
            elif self._connection.writer.write_paused:
                await self._connection.writer.wait_writable()
            else:
                break
        whole = offset == 0 and credit >= len(chunk)
        piece = chunk if whole else chunk[offset : offset + credit]
        self._torn = True
        self._rules.data(self.slot, piece)
        self._connection.writer.flush()
        while self._rules.send_queue.has_slot_queue(self.slot):
            await self._may_send.wait()
            self._check_sendable()
        return len(piece)

    async def wait_send_all_might_not_block(self) -> None:
        """Wait for credit. A checkpoint; raises as `send_all` does."""
        self._begin_sending()
        try:
            self._check_sendable()
            await trio.lowlevel.checkpoint()
            while True:
                self._check_sendable()
                if self._rules.sendable(self.slot):
                    return
                await self._may_send.wait()
        finally:
            self._sending = False

    async def send_eof(self) -> None:
        """End our half: the peer reads everything that was sent, and then the end. A checkpoint.

        Calling it again does nothing. Raises as `send_all` does.
        """
        self._begin_sending()
        try:
            self._check_closed()
            await trio.lowlevel.checkpoint()
            if self._send_state is SendState.ENDED:
                return
            self._check_sendable()
            self.send_end()
        finally:
            self._sending = False

    def send_end(self) -> None:
        """Queue the end of our half after the bytes that were sent. Synchronous."""
        if self._send_state is SendState.OPEN:
            self._send_state = SendState.ENDED
            self._rules.data(self.slot, b"", end=True)
            self._connection.writer.flush()

    def _check_sendable(self) -> None:
        if self._send_state is not _MAY_SEND:
            self._refuse_to_send()

    def _refuse_to_send(self) -> None:
        self._check_closed()
        if self._send_state is SendState.ENDED:
            raise closed("send_eof was called on this stream")
        if self._broken is not None:
            raise self._break() from self._broken
        raise broken("the driver has closed this stream")

    def _check_closed(self) -> None:
        if self._receive_state is _RECEIVE_CLOSED:  # so is the sending direction
            raise closed("this stream was closed")

    def _break(self) -> trio.BrokenResourceError:
        return broken(str(self._broken))

    # ---------------------------------------------------------------------------- receiving

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Receive the bytes that are available, at least one, or `b""` after the peer's END.

        A checkpoint; cancelling it loses nothing.

        Args:
            max_bytes: The largest number of bytes to return. None returns what is available, up to
                256 KiB, or less if the window is small.

        Raises:
            trio.BusyResourceError: Another task is receiving.
            trio.ClosedResourceError: This stream was closed here.
            trio.BrokenResourceError: Bytes are missing: the driver failed, or the connection is
                gone. `__cause__` says why. Raised after all earlier bytes were received.
        """
        check_max_bytes(max_bytes)
        self._begin_receiving()
        try:
            self._check_closed()
            if self._inbox or self._receive_state is not _MAY_RECEIVE:
                await trio.lowlevel.checkpoint()
            while not self._inbox:
                self._check_closed()
                if self._receive_state is not _MAY_RECEIVE:
                    return self._end()
                await self._may_receive.wait()
            self._check_closed()
            piece = self._inbox.read(self._default_size() if max_bytes is None else max_bytes)
        finally:
            self._receiving = False
        if not self.over and self._rules.consume(self.slot, len(piece)):
            self._connection.writer.flush()
        return piece

    def _default_size(self) -> int:
        """Return how many bytes to return if the caller has set no limit.

        Less than half a window, but at least one frame. Reading half a window counts as keeping up
        and grows the window, while a caller that takes everything available may then process it for
        a long time.
        """
        most = (
            _MAX_RECEIVE
            if self.over
            else min(_MAX_RECEIVE, self._rules.readable_without_credit(self.slot))
        )
        return max(most, self._inbox.first_size)

    def _end(self) -> bytes:
        if self._receive_state is ReceiveState.BROKEN:
            raise self._break() from self._broken
        return b""

    def _begin_sending(self) -> None:
        if self._sending:
            raise busy("another task is sending on this stream")
        self._sending = True

    def _begin_receiving(self) -> None:
        if self._receiving:
            raise busy("another task is receiving on this stream")
        self._receiving = True

    # ------------------------------------------------------------------------------ closing

    def shut(self) -> None:
        """Reject further use, and wake the tasks that use it. Synchronous; sends nothing."""
        self._send_state = SendState.CLOSED
        self._receive_state = ReceiveState.CLOSED
        self._inbox.clear()
        self._may_send.set()
        self._may_receive.set()

    async def aclose(self) -> None:
        """Close this end. A checkpoint. Each side extends this with what it sends to the peer."""
        self.shut()
        await trio.lowlevel.checkpoint()
