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

The reader of the connection, and the tasks and threads that use the stream, move the states, each
with the connection's lock. A verb of the rules is used in one locked section with the check that
the slot has not ended. Apart from its state, the sending direction is torn while a `send_all` has
sent only a part. The client's `aclose` then cancels the driver's code, so that truncated data never
looks complete.

The slot ends differently on the two sides, so each side extends `aclose`. This module does not know
clients or drivers.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import ClassVar, Final, TypeAlias

import trio

from .._nonblocking import Baton
from .._protocol import events as ev
from .._protocol.receive_buffer import ReceiveBuffer
from .._util.checks import as_bytes, check_max_bytes
from .._util.no_copies import ReduceEx, no_copies
from .._util.stream_errors import broken, busy, closed
from .connection import Connection
from .ownership import SharedWakeup

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["SlotStream", "StreamEndpoint", "ThreadReceive"]

# Why a slot has ended early, or what builds that exception, in the task or thread that asks first.
Reason: TypeAlias = Exception | Callable[[], Exception | None]

_MAX_SEND: Final = 16 * 1024  # bytes that a thread sends itself: they leave in one small frame
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


class ThreadReceive:
    """The wait of one thread for bytes of a stream. See `leading`.

    Args:
        stream: The stream.
        max_bytes: The largest number of bytes to take; None for what is available.
        store: Called with the bytes. It must not wait.

    Attributes:
        receiving: True while no other task or thread may receive.
        at_end: True if there will be no more bytes: `SlotStream.take` says why.
    """

    __slots__ = ("_max_bytes", "_store", "_stream", "at_end", "receiving")

    may_be_there: ClassVar[bool] = True

    def __init__(
        self, stream: StreamEndpoint, max_bytes: int | None, store: Callable[[bytes], object]
    ) -> None:
        self._stream = stream
        self._max_bytes = max_bytes
        self._store = store
        self.receiving: bool = False
        self.at_end: bool = False

    def start(self, _seconds: float) -> bool:
        """Begin to receive. With the lock. Returns True; raises as `receive_some` does."""
        self._stream.begin_receiving()
        self.receiving = True
        return True

    def end(self) -> None:
        """Stop receiving. With the lock."""
        if self.receiving:
            self.receiving = False
            self._stream.end_receiving()

    @property
    def baton(self) -> Baton | None:
        """The lock on which the thread waits."""
        return self._stream.receive_baton

    @baton.setter
    def baton(self, baton: Baton | None) -> None:
        self._stream.receive_baton = baton

    def collect(self) -> bool:
        """Store bytes if there are any, and stop receiving. True if it need wait no longer."""
        if self._stream.buffered:
            self._store(self._stream.take(self._max_bytes))
        elif self._stream.pending:
            self.at_end = True  # the exception, if any, is built without the lock
        else:
            return False
        self.end()
        return True


class StreamEndpoint(trio.abc.HalfCloseableStream):
    """The state of a raw stream, and what the connection and threads do with it.

    Attributes:
        may_send: Wakes the task that sends.
        slot: Its slot; meaningless once `over`.
        over: True once the slot's terminal frame was received or queued: nothing more can be sent.
    """

    __slots__ = (
        "_broken",
        "_connection",
        "_inbox",
        "_lock",
        "_may_receive",
        "_receive_state",
        "_receiving",
        "_rules",
        "_send_state",
        "_sending",
        "_torn",
        "may_send",
        "over",
        "slot",
    )

    def __init__(self, connection: Connection, slot: int) -> None:
        self._connection = connection
        self._lock = connection.lock
        self._rules = connection.rules
        self.slot: int = slot
        self.over: bool = False
        self._inbox = ReceiveBuffer()  # received by the connection, not yet by the application
        self._send_state = SendState.OPEN
        self._receive_state = ReceiveState.OPEN
        self._broken: Reason | None = None  # why the slot has ended early, if it has
        self._torn = False  # the last `send_all` has sent only a part
        self._sending = False
        self._receiving = False
        self.may_send: SharedWakeup = SharedWakeup(connection.ownership)
        self._may_receive = SharedWakeup(connection.ownership)

    @property
    def connection(self) -> Connection:
        """The connection that it is a stream of."""
        return self._connection

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

    @property
    def buffered(self) -> bool:
        """True if bytes have arrived that were not received yet."""
        return bool(self._inbox)

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
        self.may_send.set()

    def finish(self, reason: Reason | None) -> None:
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
        self.may_send.set()
        self._may_receive.set()

    def send_in_thread(self, data: bytes) -> bool:
        """Send bytes if none of them need wait. With the lock, in a thread.

        Returns:
            False if nothing was sent, and a task must do it.

        Raises:
            As `send_all`.
        """
        if self._sending:
            raise busy("another task is sending on this stream")
        self._check_sendable()
        rules = self._rules
        if (
            not data
            or len(data) > min(_MAX_SEND, rules.send_queue.max_frame, rules.sendable(self.slot))
            or self._connection.writer.write_paused
            or rules.send_queue.has_slot_queue(self.slot)
        ):
            return False
        rules.data(self.slot, data)
        self._torn = False
        return True

    def _queue_end(self) -> None:
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
            raise self._break()
        raise broken("the driver has closed this stream")

    def _check_closed(self) -> None:
        if self._receive_state is _RECEIVE_CLOSED:  # so is the sending direction
            raise closed("this stream was closed")

    def _break(self) -> trio.BrokenResourceError:
        reason = self._broken
        if reason is not None and not isinstance(reason, Exception):
            self._broken = reason = reason()
        error = broken(str(reason))
        error.__cause__ = reason
        return error

    def take(self, max_bytes: int | None) -> bytes:
        """Take bytes and queue the credit for them, or raise or return the end.

        With the lock, which is not needed at the end: that state is final.
        """
        self._check_closed()
        if not self._inbox:
            return self._end()
        piece = self._inbox.read(self._default_size() if max_bytes is None else max_bytes)
        if not self.over:
            self._rules.consume(self.slot, len(piece))
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
            raise self._break()
        return b""

    def _begin_sending(self) -> None:
        if self._sending:
            raise busy("another task is sending on this stream")
        self._sending = True

    @property
    def receive_baton(self) -> Baton | None:
        """The lock on which a thread waits for bytes; None if none does. With the lock."""
        return self._may_receive.baton

    @receive_baton.setter
    def receive_baton(self, baton: Baton | None) -> None:
        self._may_receive.baton = baton

    def begin_receiving(self) -> None:
        """Begin to receive, in a task or a thread. With the lock.

        Raises:
            As `receive_some`.
        """
        if self._receiving:
            raise busy("another task is receiving on this stream")
        self._check_closed()
        self._receiving = True

    def end_receiving(self) -> None:
        """End what `begin_receiving` has begun. With the lock."""
        self._receiving = False

    def shut(self) -> None:
        """Reject further use, and wake the tasks that use it. Synchronous; sends nothing."""
        with self._lock:
            self._send_state = SendState.CLOSED
            self._receive_state = ReceiveState.CLOSED
            self._inbox.clear()
            self.may_send.set()
            self._may_receive.set()


class SlotStream(StreamEndpoint):
    """A raw stream on a connection. One task may send while another receives.

    Attributes:
        slot: Its slot; meaningless once `over`.
        over: True once the slot's terminal frame was received or queued: nothing more can be sent.
    """

    __slots__ = ()

    __reduce_ex__: ClassVar[ReduceEx] = no_copies(
        "a stream", "open another one there, by a client of that process"
    )

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
                with self._lock:
                    if not self.over:
                        self._rules.withdraw(self.slot)
                raise
            self._torn = False
        finally:
            self._sending = False

    async def _send_some(self, chunk: bytes, offset: int) -> int:
        writer = self._connection.writer
        while True:
            with self._lock:
                self._check_sendable()
                credit = self._rules.sendable(self.slot)
                if credit and not writer.write_paused:
                    whole = offset == 0 and credit >= len(chunk)
                    piece = chunk if whole else chunk[offset : offset + credit]
                    self._torn = True
                    self._rules.data(self.slot, piece)
                    writer.flush()
                    break
            if credit:
                await writer.wait_writable()
            else:
                await self.may_send.wait()
        while self._rules.send_queue.has_slot_queue(self.slot):
            await self.may_send.wait()
            self._check_sendable()
        return len(piece)

    async def wait_send_all_might_not_block(self) -> None:
        """Wait for credit. A checkpoint; raises as `send_all` does."""
        self._begin_sending()
        try:
            self._check_sendable()
            await trio.lowlevel.checkpoint()
            while True:
                with self._lock:
                    self._check_sendable()
                    if self._rules.sendable(self.slot):
                        return
                await self.may_send.wait()
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
            if self._send_state is not SendState.ENDED:
                with self._lock:
                    self._check_sendable()
                    self._queue_end()
        finally:
            self._sending = False

    def send_end(self) -> None:
        """Queue the end of our half after the bytes that were sent. Synchronous."""
        with self._lock:
            if self._send_state is SendState.OPEN:
                self._queue_end()

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
        with self._lock:
            self.begin_receiving()
        try:
            if self.pending:
                await trio.lowlevel.checkpoint()
            else:  # even if a thread receives something meanwhile, which ends this wait
                await self._may_receive.wait()
            while not self.pending:
                await self._may_receive.wait()
            with self._lock:
                piece = self.take(max_bytes)
                self._connection.writer.flush()
        finally:
            self._receiving = False
        return piece

    async def aclose(self) -> None:
        """Close this end. A checkpoint. Each side extends this with what it sends to the peer."""
        self.shut()
        await trio.lowlevel.checkpoint()
