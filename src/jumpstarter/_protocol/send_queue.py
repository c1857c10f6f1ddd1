"""What waits to be written, and in which order it leaves.

Small frames go first, in the order in which they came: results, errors, small calls, credit,
pings. Large messages and bulk data wait in one *lane* per slot, and the lanes take turns, one frame
each, so neither a 50 MB result nor a saturated stream delays another call by more than a frame.
Within a slot the order is kept: once a slot has a lane, all its frames join it.

Credit is a sum per slot and a ping's answer the latest one, never a queue: what a peer can make us
hold is bounded by the slots it has. This file knows no rules of who may send what.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import msgspec

from .._framing import HEADER_SIZE, pack_frame, pack_header, seal
from .._limits import MIN_WIRE_FRAME
from .codec import encode_credit
from .frames import Flag, FrameType

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["BATCH", "Batch", "SendQueue"]

BATCH: Final = 64 * 1024  # bytes after which a batch is full; a whole frame may overshoot it
_SMALL: Final = 16 * 1024  # bytes of payload up to which a message may skip the lanes

Buffer = bytes | bytearray | memoryview


class Batch(msgspec.Struct):
    """Frames to be written next, whole and in order.

    Attributes:
        buffers: To be written one after the other.
        drained: Slots of which nothing waits in a lane any more.
        ended: Slots whose terminal frame is in this batch.
    """

    buffers: list[Buffer]
    drained: list[int]
    ended: list[int]


class _Message:
    """A message in a lane, part of which may have left already."""

    __slots__ = ("begun", "flags", "rest", "terminal", "type")

    def __init__(self, type_: int, rest: memoryview, flags: int, *, terminal: bool) -> None:
        self.type = type_
        self.rest = rest
        self.flags = flags
        self.terminal = terminal
        self.begun = False


class SendQueue:
    """The queue in front of one connection's writer.

    Attributes:
        size: Bytes of all that waits.
        fresh: Bytes of it in messages of which nothing has left. With a peer that reads, all that
            waits has soon begun to leave.
    """

    def __init__(self) -> None:
        self._max_frame = MIN_WIRE_FRAME
        self._small = MIN_WIRE_FRAME + HEADER_SIZE  # bytes of a frame that may skip the lanes
        self.size: int = 0
        self.unstarted_bytes: int = 0
        self._last: bytes | None = None  # the only thing that will still leave, once closed
        self._closed = False
        self._urgent: list[Buffer] = []
        self._ended: list[int] = []  # slots whose terminal frame is among the urgent ones
        self._credit: dict[int, int] = {}
        self._pong: bytes | None = None
        self._lanes: dict[int, deque[_Message]] = {}  # in the order of their turns

    @property
    def max_frame(self) -> int:
        """Bytes of payload that the peer takes in one frame."""
        return self._max_frame

    @max_frame.setter
    def max_frame(self, size: int) -> None:
        self._max_frame = size
        self._small = min(_SMALL, size) + HEADER_SIZE

    def __bool__(self) -> bool:
        if self._closed:
            return self._last is not None
        return bool(self._urgent or self._lanes or self._credit or self._pong is not None)

    def has_lane(self, slot: int) -> bool:
        """Tell if something of this slot waits behind its turn."""
        return slot in self._lanes

    def sending(self, slot: int, type_: int) -> bool:
        """Tell if the next thing to leave a slot's lane is (a part of) a message of this type."""
        lane = self._lanes.get(slot)
        return lane is not None and lane[0].type == type_

    # ------------------------------------------------------------------------------------ in

    def frame(self, type_: int, slot: int, payload: bytes, flags: int = 0) -> None:
        """Queue a small frame ahead of all lanes, its own slot's too."""
        self._join_urgent(pack_frame(type_, flags, slot, payload))

    def message(self, type_: int, slot: int, buffer: bytearray, *, terminal: bool = False) -> None:
        """Queue a message; `buffer` begins with room for a header, and is ours from now on."""
        if terminal:
            self._credit.pop(slot, None)  # nothing may follow it, credit neither
        size = len(buffer)
        if size <= self._small and slot not in self._lanes:
            seal(buffer, type_, 0, slot)
            self._urgent.append(buffer)
            self.size += size
            self.unstarted_bytes += size
            if terminal:
                self._ended.append(slot)
        else:
            rest = memoryview(buffer)[HEADER_SIZE:]
            self._join_lane(slot, _Message(type_, rest, 0, terminal=terminal))

    def data(self, slot: int, chunk: bytes, *, end: bool) -> None:
        """Queue bytes of a raw stream, and the end of our half behind them."""
        flags = Flag.END if end else 0
        if len(chunk) + HEADER_SIZE <= self._small and slot not in self._lanes:
            self._join_urgent(pack_frame(FrameType.DATA, flags, slot, chunk))
        else:
            self._join_lane(
                slot, _Message(FrameType.DATA, memoryview(chunk), flags, terminal=False)
            )

    def credit(self, slot: int, delta: int) -> None:
        """Add to the credit that goes out with the next batch."""
        self._credit[slot] = self._credit.get(slot, 0) + delta

    def pong(self, payload: bytes) -> None:
        """Answer the latest PING; an older one that still waits is answered by it too."""
        self._pong = payload

    def goaway_ack(self) -> None:
        """Answer GOAWAY, once, when the first frame of every CALL that waits has left."""
        if 0 not in self._lanes:
            ack = _Message(FrameType.GOAWAY, memoryview(b""), Flag.ACK, terminal=False)
            self._join_lane(0, ack)

    def _join_urgent(self, frame: Buffer) -> None:
        self._urgent.append(frame)
        self.size += len(frame)
        self.unstarted_bytes += len(frame)

    def _join_lane(self, slot: int, message: _Message) -> None:
        self.size += len(message.rest)
        self.unstarted_bytes += len(message.rest)
        lane = self._lanes.get(slot)
        if lane is None:
            self._lanes[slot] = deque((message,))
        else:
            lane.append(message)

    def close(self, type_: int, payload: bytes) -> None:
        """Forget all that waits and will ever be queued, but for one last frame."""
        self._closed = True
        self._last = pack_frame(type_, 0, 0, payload)
        self._urgent.clear()
        self._lanes.clear()
        self.size = self.unstarted_bytes = 0

    # ------------------------------------------------------------------------------------ out

    def drop(self, slot: int) -> bool:
        """Forget what waits in a slot's lane, and its credit.

        Returns:
            True if the first message of the lane had not begun to leave, False if part of it had,
            or there was no lane.
        """
        self._credit.pop(slot, None)
        lane = self._lanes.get(slot)
        if lane is None:
            return False
        del self._lanes[slot]
        for message in lane:
            self._forget(message)
        return not lane[0].begun

    def _forget(self, message: _Message) -> None:
        self.size -= len(message.rest)
        if not message.begun:
            self.unstarted_bytes -= len(message.rest)

    def withdraw(self, slot: int) -> int:
        """Forget the DATA in a slot's lane; every frame that has left was whole.

        Returns:
            The bytes of it, for which credit was spent.
        """
        lane = self._lanes.get(slot)
        if lane is None:
            return 0
        gone = [message for message in lane if message.type == FrameType.DATA]
        withdrawn = sum(len(message.rest) for message in gone)
        for message in gone:
            self._forget(message)
        kept = deque(message for message in lane if message.type != FrameType.DATA)
        if kept:
            self._lanes[slot] = kept
        else:
            del self._lanes[slot]
        return withdrawn

    def take(self) -> Batch:
        """Take the next batch: all that is urgent, and as many turns of the lanes as fit."""
        if self._closed:
            last, self._last = self._last, None
            return Batch([] if last is None else [last], [], [])
        urgent = self._urgent
        size = len(urgent[0]) if len(urgent) == 1 else sum(map(len, urgent))
        self.size -= size
        self.unstarted_bytes -= size
        if self._credit:
            for slot, delta in self._credit.items():
                urgent.append(pack_frame(FrameType.CREDIT, 0, slot, encode_credit(delta)))
            self._credit.clear()
        if self._pong is not None:
            urgent.append(pack_frame(FrameType.PING, Flag.ACK, 0, self._pong))
            self._pong = None
        batch = Batch(urgent, [], self._ended)
        self._urgent = []
        self._ended = []
        if self._lanes:
            size += self._take_turn(batch)
            while size < BATCH and self._lanes:
                size += self._take_turn(batch)
        return batch

    def _take_turn(self, batch: Batch) -> int:
        slot = next(iter(self._lanes))
        lane = self._lanes.pop(slot)
        message = lane[0]
        piece = message.rest[: self._max_frame]
        self.size -= len(piece)
        if not message.begun:
            self.unstarted_bytes -= len(message.rest)
            message.begun = True
        done = len(piece) == len(message.rest)
        if not done:
            message.rest = message.rest[self._max_frame :]
        more = 0 if message.type == FrameType.DATA else Flag.MORE
        flags = message.flags if done else more
        batch.buffers.append(pack_header(message.type, flags, slot, len(piece)))
        if piece:
            batch.buffers.append(piece)
        if done:
            lane.popleft()
            if message.terminal:
                batch.ended.append(slot)
        if lane:
            self._lanes[slot] = lane  # behind all others
        else:
            batch.drained.append(slot)
        return HEADER_SIZE + len(piece)
