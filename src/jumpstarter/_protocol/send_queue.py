"""Queue the frames of one connection, and decide the order in which they are written.

Small frames leave first, in order of arrival: results, errors, small calls, credit, pings. Large
messages and bulk data wait in one queue per slot. These slot queues take turns, one frame each, so
neither a 50 MB result nor a saturated stream delays another call by more than one frame. Within a
slot the order is kept: once a slot has a queue, all its messages and data join it.

Credit is kept as one sum per slot, and only the latest PING is answered. So the memory that a peer
can make us hold is bounded by the number of its slots. This module does not check who may send
what.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

from .._framing import HEADER_SIZE, pack_frame, pack_header, seal
from .._limits import MIN_WIRE_FRAME
from .codec import encode_credit
from .frames import Flag, FrameType
from .large_message import LargeMessage, Message

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["BATCH_SIZE", "SendQueue", "WriteBatch"]

BATCH_SIZE: Final = 64 * 1024  # bytes after which a batch is full; its last frame may exceed it
_SMALL: Final = 16 * 1024  # bytes of payload up to which a message is urgent
# Constants: looking up an enum's member takes as long as queueing a frame. send_queue.pxd makes C
# integers of them.
_DATA: Final = int(FrameType.DATA)
_CREDIT: Final = int(FrameType.CREDIT)
_PING: Final = int(FrameType.PING)
_GOAWAY: Final = int(FrameType.GOAWAY)
_END: Final = int(Flag.END)
_MORE: Final = int(Flag.MORE)
_ACK: Final = int(Flag.ACK)
_HEADER: Final = HEADER_SIZE

Buffer = bytes | bytearray | memoryview


@dataclass
class WriteBatch:
    """The frames to write next, whole and in order.

    Attributes:
        buffers: The bytes, to be written one buffer after the other.
        drained: Slots whose queue became empty with this batch.
        ended: Slots whose terminal frame is in this batch.
    """

    buffers: list[Buffer]
    drained: list[int]
    ended: list[int]


class _Message:
    """A message in a slot queue, part of which may have left already."""

    __slots__ = ("flags", "head", "rest", "started", "terminal", "type")

    def __init__(self, type_: int, rest: memoryview, flags: int, terminal: bool) -> None:
        self.type = type_
        self.head: memoryview | None = None  # before the rest, in the first frame: less than one
        self.rest = rest
        self.flags = flags
        self.terminal = terminal
        self.started = False

    def size(self) -> int:
        """Return the number of bytes that have not left."""
        return len(self.rest) if self.head is None else len(self.head) + len(self.rest)


class SendQueue:
    """The queue in front of one connection's writer.

    Attributes:
        queued_bytes: Bytes of all queued messages and data.
        unstarted_bytes: Those of messages of which no frame has left. Back-pressure goes by these:
            with a peer that reads, every message has soon started to leave.
    """

    def __init__(self) -> None:
        self._max_frame = MIN_WIRE_FRAME
        self._small = MIN_WIRE_FRAME + HEADER_SIZE  # bytes of a frame that may be urgent
        self.queued_bytes: int = 0
        self.unstarted_bytes: int = 0
        self._last: bytes | None = None  # once closed: the only frame that still leaves
        self._closed = False
        self._urgent: list[Buffer] = []
        self._ended: list[int] = []  # slots whose terminal frame is urgent
        self._credit: dict[int, int] = {}
        self._pong: bytes | None = None
        self._slot_queues: dict[int, deque[_Message]] = {}  # in the order of their turns

    @property
    def max_frame(self) -> int:
        """Bytes of payload that the peer accepts in one frame."""
        return self._max_frame

    @max_frame.setter
    def max_frame(self, size: int) -> None:
        self._max_frame = size
        if not self._closed:
            self._small = min(_SMALL, size) + HEADER_SIZE

    def __bool__(self) -> bool:
        if self._closed:
            return self._last is not None
        return bool(self._urgent or self._slot_queues or self._credit or self._pong is not None)

    def has_slot_queue(self, slot: int) -> bool:
        """Return whether this slot has frames that wait for its turn."""
        return slot in self._slot_queues

    def is_sending(self, slot: int, type_: int) -> bool:
        """Return whether the first message in a slot's queue is of this type."""
        queue = self._slot_queues.get(slot)
        return queue is not None and queue[0].type == type_

    # ------------------------------------------------------------------------------------ in

    def add_frame(self, type_: int, slot: int, payload: bytes, flags: int = 0) -> None:
        """Queue a small frame ahead of all slot queues, its own slot's too."""
        self._append_urgent(pack_frame(type_, flags, slot, payload))

    def add_message(self, type_: int, slot: int, buffer: Message, terminal: bool = False) -> None:
        """Queue a message. `buffer` begins with header space, and is the queue's from now on."""
        if terminal:
            self._credit.pop(slot, None)  # no credit may follow it
        size = len(buffer)
        if size <= self._small and slot not in self._slot_queues:
            seal(buffer, type_, 0, slot)  # type: ignore[arg-type]  # a LargeMessage is larger
            self._urgent.append(buffer)  # type: ignore[arg-type]
            self.queued_bytes += size
            self.unstarted_bytes += size
            if terminal:
                self._ended.append(slot)
        elif isinstance(buffer, LargeMessage):
            message = _Message(type_, memoryview(buffer.tail), 0, terminal)
            message.head = memoryview(buffer.head)[_HEADER:]
            self._append_to_slot(slot, message)
        else:
            rest = memoryview(buffer)[_HEADER:]
            self._append_to_slot(slot, _Message(type_, rest, 0, terminal))

    def add_data(self, slot: int, chunk: bytes, end: bool) -> None:
        """Queue bytes of a raw stream, and the end of our half behind them."""
        flags = _END if end else 0
        if len(chunk) + _HEADER <= self._small and slot not in self._slot_queues:
            self._append_urgent(pack_frame(_DATA, flags, slot, chunk))
        else:
            self._append_to_slot(slot, _Message(_DATA, memoryview(chunk), flags, False))

    def add_credit(self, slot: int, delta: int) -> None:
        """Add to the credit that the next batch will give the peer."""
        if self._closed:
            return
        self._credit[slot] = self._credit.get(slot, 0) + delta

    def add_pong(self, payload: bytes) -> None:
        """Answer the latest PING. This replaces an answer that is still queued."""
        if not self._closed:
            self._pong = payload

    def add_goaway_ack(self) -> None:
        """Answer GOAWAY, once, when the first frame of each queued CALL has left."""
        if 0 not in self._slot_queues:
            ack = _Message(_GOAWAY, memoryview(b""), _ACK, False)
            self._append_to_slot(0, ack)

    def _append_urgent(self, frame: Buffer) -> None:
        if self._closed:
            return
        self._urgent.append(frame)
        self.queued_bytes += len(frame)
        self.unstarted_bytes += len(frame)

    def _append_to_slot(self, slot: int, message: _Message) -> None:
        if self._closed:
            return
        size = message.size()
        self.queued_bytes += size
        self.unstarted_bytes += size
        queue = self._slot_queues.get(slot)
        if queue is None:
            self._slot_queues[slot] = deque((message,))
        else:
            queue.append(message)

    def close(self, type_: int, payload: bytes) -> None:
        """Discard everything queued, now and later, except one last frame."""
        self._closed = True
        self._small = -1  # so that `add_message` need not ask: nothing is urgent any more
        self._last = pack_frame(type_, 0, 0, payload)
        self._urgent.clear()
        self._ended.clear()
        self._credit.clear()
        self._pong = None
        self._slot_queues.clear()
        self.queued_bytes = self.unstarted_bytes = 0

    # ------------------------------------------------------------------------------------ out

    def discard(self, slot: int) -> bool:
        """Discard what a slot has queued, its credit included.

        Returns:
            True if the slot's first message was removed before any of it had left.
        """
        self._credit.pop(slot, None)
        queue = self._slot_queues.get(slot)
        if queue is None:
            return False
        del self._slot_queues[slot]
        for message in queue:
            self._forget(message)
        return not queue[0].started

    def _forget(self, message: _Message) -> None:
        self.queued_bytes -= message.size()
        if not message.started:
            self.unstarted_bytes -= message.size()

    def withdraw_data(self, slot: int) -> int:
        """Discard the DATA in a slot's queue. No frame is cut: they leave whole.

        Returns:
            The number of bytes discarded, for which credit was spent.
        """
        queue = self._slot_queues.get(slot)
        if queue is None:
            return 0
        withdrawn = 0
        kept: deque[_Message] = deque()
        for message in queue:
            if message.type == _DATA:
                withdrawn += len(message.rest)
                self._forget(message)
            else:
                kept.append(message)
        if kept:
            self._slot_queues[slot] = kept
        else:
            del self._slot_queues[slot]
        return withdrawn

    def next_batch(self) -> WriteBatch:
        """Remove and return the next batch: all urgent frames, and what fits of the others."""
        if self._closed:
            last, self._last = self._last, None
            return WriteBatch([] if last is None else [last], [], [])
        urgent = self._urgent
        size = 0
        for frame in urgent:
            size += len(frame)
        self.queued_bytes -= size
        self.unstarted_bytes -= size
        if self._credit:
            for slot, delta in self._credit.items():
                urgent.append(pack_frame(_CREDIT, 0, slot, encode_credit(delta)))
            self._credit.clear()
        if self._pong is not None:
            urgent.append(pack_frame(_PING, _ACK, 0, self._pong))
            self._pong = None
        batch = WriteBatch(urgent, [], self._ended)
        self._urgent = []
        self._ended = []
        if self._slot_queues:
            size += self._take_turn(batch)
            while size < BATCH_SIZE and self._slot_queues:
                size += self._take_turn(batch)
        return batch

    def _take_turn(self, batch: WriteBatch) -> int:
        slot = next(iter(self._slot_queues))
        queue = self._slot_queues.pop(slot)
        message = queue[0]
        if not message.started:
            self.unstarted_bytes -= message.size()
            message.started = True
        head, message.head = message.head, None
        head_size = 0 if head is None else len(head)
        piece = message.rest[: self._max_frame - head_size]
        size = head_size + len(piece)
        self.queued_bytes -= size
        done = len(piece) == len(message.rest)
        if not done:
            message.rest = message.rest[len(piece) :]
        more = 0 if message.type == _DATA else _MORE
        flags = message.flags if done else more
        batch.buffers.append(pack_header(message.type, flags, slot, size))
        if head is not None:
            batch.buffers.append(head)
        if piece:
            batch.buffers.append(piece)
        if done:
            queue.popleft()
            if message.terminal:
                batch.ended.append(slot)
        if queue:
            self._slot_queues[slot] = queue  # behind all other queues
        else:
            batch.drained.append(slot)
        return _HEADER + size
