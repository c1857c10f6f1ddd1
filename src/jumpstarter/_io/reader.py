"""The reading half of a connection: wait for bytes, read them, and pass them to the connection.

The loop's read task calls `read_once` again and again. `ownership` says who reads: on a connection
with a watch, the task waits for the watch instead of the socket, and a thread that leads calls
`take` in its place. Either of them hands what it has read to the connection, with the lock.
"""

from __future__ import annotations

import math
from typing import Final, Protocol

import trio

from .._protocol import events as ev
from .._protocol.base import BaseProtocol
from ..errors import HandshakeError, RemoteProtocolError
from .keepalive import SECOND_LOOK
from .ownership import Ownership, Reader
from .transport import Chunk, SocketTransport, Transport, broken
from .writer import Writer

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["ConnectionReader"]

_LOOP: Final = Reader.LOOP
# What is next after `_read_now`: reading, waiting until a thread gives the role back, or nothing.
_GOES_ON: Final = 0
_PARKED: Final = 1
_AT_END: Final = 2
_HELD: Final = Reader.HELD
_READS: Final = 4  # of up to 256 KiB, after which other tasks have their turn


class _Host(Protocol):
    """The connection, as far as its reading half needs it."""

    name: str
    ended: Exception | None
    ownership: Ownership
    writer: Writer

    def end(self, reason: Exception) -> None:
        """End the connection."""

    def reason_of_loss(self, failure: Exception | None = None) -> Exception:
        """Return why the connection ends, once the peer has gone."""

    def act_on(self, events: list[ev.Event]) -> None:
        """Handle events. With the lock."""


class ThreadReader:
    """Reads the socket of one connection without waiting, in the thread that is the reader.

    Attributes:
        left: Events that a thread has read and left to the loop, which handles them before
            anything that is read later. No thread reads while there are any.
    """

    __slots__ = ("_connection", "_ownership", "_rules", "_socket", "left")

    def __init__(self, connection: _Host, transport: Transport, rules: BaseProtocol) -> None:
        self._connection = connection
        self._ownership = connection.ownership
        self._socket = transport if isinstance(transport, SocketTransport) else None
        self._rules = rules
        self.left: list[ev.Event] = []

    def take(self, max_frames: int = 0) -> list[ev.Event]:
        """Read what is there, and return its events. With the lock, in the thread that reads.

        Sets `Ownership.at_end` at the end: the loop acts on it, after all that came before.

        Args:
            max_frames: How many frames to handle. The loop handles those behind them; 0 for as many
                as in one of its turns.
        """
        data = self.read_bytes()
        return self.receive(data, max_frames) if data else []

    def read_bytes(self) -> bytes:
        """Return the bytes that are there, for `receive`; nothing at the end. See `take`."""
        ownership = self._ownership
        assert self._socket is not None
        if self._connection.ended is not None:  # bytes after the end begin no calls
            ownership.at_end = True
            return b""
        try:
            data = self._socket.try_read()
        except OSError as exc:
            ownership.at_end, ownership.error = True, exc
            return b""
        if not data:
            ownership.at_end = ownership.at_end or data is not None
            return b""
        ownership.has_read = True
        return data

    def receive(self, data: bytes, max_frames: int = 0) -> list[ev.Event]:
        """Return the events of bytes that a thread has read. See `take`."""
        rules = self._rules
        events = rules.receive(data, max_frames or rules.limits.max_frames_per_turn)
        if rules.failure is not None:
            self._ownership.at_end = True
        return events

    def take_buffered(self) -> list[ev.Event]:
        """Handle one frame that was read already, and return its events.

        With the lock, in the thread that reads. Without effect after the end, as `take`.
        """
        if self._connection.ended is not None:
            self._ownership.at_end = True
            return []
        return self.receive(b"", 1)

    @property
    def needs_loop(self) -> bool:
        """True if the loop has more to do than to wait for bytes. With the lock."""
        rules = self._rules
        return bool(self.left or rules.unprocessed or rules.unfinished or self._ownership.at_end)


class ConnectionReader(ThreadReader):
    """Reads the transport of one connection.

    Attributes:
        last_read: When bytes were last read, in seconds of `trio.current_time`.
        hello_deadline: When the peer must have sent its HELLO.
    """

    __slots__ = (
        "_clock",
        "_dispatch_lock",
        "_is_quiet",
        "_transport",
        "hello_deadline",
        "last_read",
    )

    def __init__(
        self,
        connection: _Host,
        transport: Transport,
        rules: BaseProtocol,
        dispatch_lock: trio.Lock,
    ) -> None:
        super().__init__(connection, transport, rules)
        self._transport = transport
        self._dispatch_lock = dispatch_lock
        self._clock = trio.lowlevel.current_clock()
        self._is_quiet = True  # the last bytes have caused no event
        self.last_read: float = trio.current_time()
        self.hello_deadline: float = math.inf

    async def read_once(self) -> bool:
        """Handle frames that are left, or read more. Return False when nothing will follow.

        A checkpoint.
        """
        descriptor = self._idle_descriptor()
        if descriptor < 0:
            return await self._read_with_care()
        # The usual case, without a coroutine for each layer.
        try:
            await trio.lowlevel.wait_readable(descriptor)
        except trio.ClosedResourceError:
            if self._ownership.watch is self._ownership.new_watch is None:
                raise
            return True  # a thread has restarted the loop, or may read from now on
        except OSError as exc:
            raise broken("read", exc) from exc
        turn = self._read_now()
        if turn == _PARKED:
            await self._ownership.wait_returned()
        return turn != _AT_END

    def _idle_descriptor(self) -> int:
        """Return the descriptor to wait for between messages; -1 if another wait is due."""
        descriptor = self._quiet_descriptor()
        return -1 if self._rules.unfinished else descriptor

    def _quiet_descriptor(self) -> int:
        """Return the descriptor to wait for, in a message too, where the wait has a deadline.

        Return -1 if there is more to do than to wait: frames, bulk, an end, or no socket.
        """
        ownership, rules, socket = self._ownership, self._rules, self._socket
        if ownership.new_watch is not None:
            ownership.begin_to_watch()
        if (
            socket is None
            or rules.peer is None
            or rules.failure is not None
            or rules.unprocessed
            or self.left
            or socket.expects_more
            or self._connection.ended is not None
        ):
            return -1
        return self._descriptor()

    def _descriptor(self) -> int:
        """Return the watch's descriptor, or the socket's before there is a watch."""
        ownership = self._ownership
        assert self._socket is not None
        return self._socket.fileno() if ownership.watch is None else ownership.fileno()

    def _read_now(self) -> int:
        """Read if this task still is the reader, and handle what has come. Return what is next."""
        ownership = self._ownership
        with ownership.lock:
            # The reader may have changed while this task was on its way to run.
            if ownership.reader is not _LOOP:
                return _PARKED if ownership.park() else _GOES_ON
            if self.left:  # these come before what can be read now
                return _GOES_ON
            if ownership.error is not None:
                raise broken("read", ownership.error) from ownership.error
            turn = self._read_all()
        if turn == _AT_END:
            self._end_at_last_byte()
        return turn

    def _read_all(self) -> int:
        """Read what is there, as long as it is only the middle of a message. With the lock."""
        socket, rules = self._socket, self._rules
        assert socket is not None
        for _ in range(_READS):
            try:
                data = socket.try_read_on()
            except OSError as exc:
                raise broken("read", exc) from exc
            if not data:
                return _GOES_ON if data is None else _AT_END
            self.last_read = self._clock.current_time()
            self._is_quiet = not self._handle(data)
            if not (self._is_quiet and socket.expects_more) or rules.unprocessed:
                break
        return _GOES_ON

    async def _read_with_care(self) -> bool:
        connection, ownership = self._connection, self._ownership
        if connection.ended is not None or (self._rules.failure is not None and not self.left):
            return False
        if self.left:
            with ownership.lock:
                left = self.left.copy()
                self.left.clear()
                connection.act_on(left)
        elif self._rules.unprocessed and ownership.reader is not _HELD:
            await self._handle_unprocessed()
        elif self._socket is not None and self._rules.peer is not None:
            return await self._read_on()
        else:
            data = await self._read()
            if data is None:
                return True
            if not data:
                return False
            with ownership.lock:
                self._handle(data)
        self.last_read = trio.current_time()  # frames that waited for the lock count as well
        return True

    async def _handle_unprocessed(self) -> None:
        async with self._dispatch_lock:
            with self._ownership.lock:
                # A thread may hold the role meanwhile: it goes on with these frames.
                if self._ownership.reader is not _HELD:
                    self._handle(b"")

    def _handle(self, data: Chunk) -> bool:
        """Handle bytes. Return whether there was any event: not in the middle of a message."""
        # Another task may have ended the connection after this one was scheduled to read.
        if self._connection.ended is not None:
            return True
        rules = self._rules
        events = rules.receive(data, rules.limits.max_frames_per_turn)
        self._connection.act_on(events)
        return bool(events)

    async def _read(self) -> Chunk | None:
        """Read before the peer's HELLO, or from another stream than a socket.

        Returns:
            The next bytes; none at the end, after the reason was settled; None to look again.
        """
        if self._ownership.begin_to_watch():
            return None
        try:
            if self._rules.peer is None:
                data = await self._read_by(self.hello_deadline)
            elif self._rules.unfinished:
                data = await self._read_by(self.last_read + self._rules.limits.read_stall)
            else:
                data = await self._transport.read()
        except trio.ClosedResourceError:
            if self._ownership.new_watch is None:
                raise
            return None  # from now on this task waits for that
        if data is None:
            with self._ownership.lock:
                self._give_up_on_peer()
        elif not data:
            self._end_at_last_byte()
        return data or b""

    async def _read_by(self, deadline: float) -> Chunk | None:
        """Read until the deadline, or return None.

        Tries once more after it: bytes that arrived while the loop was busy are not the peer's
        silence.
        """
        for patience in (deadline, max(deadline, trio.current_time()) + SECOND_LOOK):
            with trio.CancelScope(deadline=patience):
                return await self._transport.read()
        return None

    async def _read_on(self) -> bool:
        """Read from a socket if the loop is the reader, in bulk or in the middle of a message."""
        assert self._socket is not None
        if self._socket.expects_more and self._ownership.reader is _LOOP:
            await trio.lowlevel.checkpoint()
            turn = self._read_now()
        else:
            turn = await self._read_rest()
        if turn == _PARKED:
            await self._ownership.wait_returned()
        return turn != _AT_END

    async def _read_rest(self) -> int:
        """Wait and read until a message has arrived, or there is something else to do."""
        ownership, rules = self._ownership, self._rules
        self.catch_up()
        in_message = rules.unfinished
        # One scope for many reads: it costs as much as a read. So its deadline may be too early.
        stall = rules.limits.read_stall if in_message else math.inf
        with trio.CancelScope(deadline=self.last_read + stall):
            goes_on = True
            while goes_on:
                try:
                    await trio.lowlevel.wait_readable(self._descriptor())
                except trio.ClosedResourceError:
                    if ownership.watch is ownership.new_watch is None:
                        raise
                    return _GOES_ON  # a thread has restarted the loop: look at the state again
                except OSError as exc:
                    raise broken("read", exc) from exc
                turn = self._read_now()
                goes_on = turn == _GOES_ON and self._is_quiet and rules.unfinished
                # A message that has only begun needs a scope with its deadline.
                goes_on = goes_on and in_message and self._quiet_descriptor() >= 0
            return turn
        self.catch_up()
        if self._has_stalled():
            await trio.sleep(SECOND_LOOK)  # else this would spin while a thread reads
            if self._look_after_deadline():
                return self._read_now()
        return _GOES_ON

    def _look_after_deadline(self) -> bool:
        """Give up on a peer that has stalled. Return True if there is something to read."""
        with self._ownership.lock:
            self.catch_up()
            if self._ownership.reader is not _LOOP:
                return False  # the thread restarts this task if more is to come
            if self._ownership.finds_bytes():
                return True
            if self._has_stalled():
                self._give_up_on_peer()
        return False

    def _has_stalled(self) -> bool:
        due = self.last_read + self._rules.limits.read_stall
        return self._rules.unfinished and trio.current_time() >= due

    def catch_up(self) -> None:
        """Take note of bytes that threads have read: they cannot read Trio's clock."""
        if self._ownership.has_read:
            self._ownership.has_read = False
            self.last_read = trio.current_time()

    def _give_up_on_peer(self) -> None:
        connection, limits = self._connection, self._rules.limits
        if self._rules.peer is None:
            text = f"{connection.name} did not say HELLO within {limits.hello_timeout:g} s"
            connection.end(HandshakeError(f"{text}; is it a jumpstarter?"))
        else:
            text = f"{connection.name} sent no more of what it had begun for"
            breach = RemoteProtocolError(f"{text} {limits.read_stall:g} s")
            connection.act_on([self._rules.fail(breach)])

    def _end_at_last_byte(self) -> None:
        connection = self._connection
        connection.end(connection.reason_of_loss(connection.writer.failure))
