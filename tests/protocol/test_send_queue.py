"""Tests of the send queue: order within a slot, turns between slots, and bounded memory."""

from __future__ import annotations

from collections import defaultdict
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jumpstarter._framing import HEADER_SIZE
from jumpstarter._limits import MIN_WIRE_FRAME
from jumpstarter._protocol.codec import decode_credit
from jumpstarter._protocol.frames import Flag, FrameType
from jumpstarter._protocol.large_message import LargeMessage
from jumpstarter._protocol.send_queue import BATCH_SIZE, SendQueue, WriteBatch
from wire import Frame, frames

T = FrameType
MAX_FRAME: Final = 4096
SMALL: Final = b"small"
LARGE: Final = bytes(3 * MAX_FRAME)  # three frames


def send_queue(max_frame: int = MAX_FRAME) -> SendQueue:
    made = SendQueue()
    made.max_frame = max_frame
    return made


def buffer(payload: bytes) -> bytearray:
    """Return a buffer with space for a header, followed by a payload."""
    return bytearray(HEADER_SIZE) + payload


def taken(batch: WriteBatch) -> list[Frame]:
    """Return the frames of a batch, each of which must be complete."""
    return frames(b"".join(batch.buffers))


def take_all(queue: SendQueue) -> list[Frame]:
    """Take batches until the queue is empty."""
    found: list[Frame] = []
    while queue:
        found += taken(queue.next_batch())
    return found


def shape(found: list[Frame]) -> list[tuple[FrameType, int, int]]:
    """Return type, slot and flags of each frame."""
    return [(frame.type, frame.slot, frame.flags) for frame in found]


# ---------------------------------------------------------------------------------- small frames


def test_an_empty_send_queue_is_false_and_returns_an_empty_batch() -> None:
    queue = send_queue()
    assert not queue
    assert queue.next_batch() == WriteBatch([], [], [])


def test_small_frames_are_sent_in_order() -> None:
    queue = send_queue()
    queue.add_message(T.ITEM, 2, buffer(b"item"))
    queue.add_data(1, b"data", end=False)
    queue.add_frame(T.PING, 0, b"8 bytes.")
    queue.add_message(T.RESULT, 2, buffer(b""), terminal=True)
    batch = queue.next_batch()
    assert taken(batch) == [
        Frame(T.ITEM, 0, 2, b"item"),
        Frame(T.DATA, 0, 1, b"data"),
        Frame(T.PING, 0, 0, b"8 bytes."),
        Frame(T.RESULT, 0, 2, b""),
    ]
    assert batch.ended == [2]
    assert batch.drained == []
    assert not queue


def test_a_small_message_is_sent_without_a_copy() -> None:
    queue, message = send_queue(), buffer(SMALL)
    queue.add_message(T.RESULT, 1, message, terminal=True)
    [sent] = queue.next_batch().buffers
    assert sent is message


def test_frames_before_the_peers_hello_have_the_smallest_size() -> None:
    queue = SendQueue()
    queue.add_message(T.ITEM, 1, buffer(bytes(MIN_WIRE_FRAME + 1)))
    assert [len(frame.payload) for frame in take_all(queue)] == [MIN_WIRE_FRAME, 1]


# --------------------------------------------------------------------------------- stream queues


@pytest.mark.parametrize(
    ("size", "max_frame", "lengths"),
    [
        (MAX_FRAME, MAX_FRAME, [4096]),
        (MAX_FRAME + 1, MAX_FRAME, [4096, 1]),
        (3 * MAX_FRAME, MAX_FRAME, [4096, 4096, 4096]),
        (16 * 1024, 64 * 1024, [16384]),
        (16 * 1024 + 1, 64 * 1024, [16385]),
        (64 * 1024 + 1, 64 * 1024, [65536, 1]),
    ],
)
def test_a_message_is_split_at_the_peers_max_frame(
    size: int, max_frame: int, lengths: list[int]
) -> None:
    queue = send_queue(max_frame)
    queue.add_message(T.RESULT, 1, buffer(bytes(size)), terminal=True)
    found = take_all(queue)
    assert [len(frame.payload) for frame in found] == lengths
    assert [frame.flags for frame in found] == [Flag.MORE] * (len(lengths) - 1) + [Flag.NONE]


@pytest.mark.parametrize("max_frame", [MAX_FRAME, 64 * 1024])
def test_large_bytes_at_the_end_of_a_message_are_sent_without_a_copy(max_frame: int) -> None:
    queue, tail = send_queue(max_frame), bytes(range(256)) * 512
    queue.add_message(T.RESULT, 1, LargeMessage(buffer(b"head"), tail), terminal=True)
    assert queue.queued_bytes == queue.unstarted_bytes == 4 + len(tail)
    batch = queue.next_batch()
    pieces = [piece for piece in batch.buffers if isinstance(piece, memoryview)]
    assert all(piece.obj is tail for piece in pieces[1:])
    assert queue.unstarted_bytes == 0
    found = taken(batch) + take_all(queue)
    assert queue.queued_bytes == 0
    assert b"".join(frame.payload for frame in found) == b"head" + tail
    assert {len(frame.payload) for frame in found[:-1]} == {max_frame}
    assert [frame.flags for frame in found] == [Flag.MORE] * (len(found) - 1) + [Flag.NONE]


def test_a_message_with_large_bytes_can_be_discarded() -> None:
    queue = send_queue()
    queue.add_message(T.CALL, 1, LargeMessage(buffer(b"head"), LARGE))
    assert queue.discard(1)
    assert queue.queued_bytes == queue.unstarted_bytes == 0
    queue.add_message(T.CALL, 1, LargeMessage(buffer(b"head"), bytes(BATCH_SIZE * 2)))
    queue.next_batch()
    assert not queue.discard(1)
    assert queue.queued_bytes == queue.unstarted_bytes == 0


def test_data_is_split_without_more_and_only_the_last_frame_has_end() -> None:
    queue = send_queue()
    queue.add_data(1, LARGE, end=True)
    assert shape(take_all(queue)) == [(T.DATA, 1, 0), (T.DATA, 1, 0), (T.DATA, 1, Flag.END)]


def test_an_end_without_data_is_an_empty_frame_after_queued_data() -> None:
    queue = send_queue()
    queue.add_data(1, b"", end=True)
    queue.add_data(2, LARGE, end=False)
    queue.add_data(2, b"", end=True)
    assert shape(take_all(queue)) == [
        (T.DATA, 1, Flag.END),
        *[(T.DATA, 2, 0)] * 3,
        (T.DATA, 2, Flag.END),
    ]


def test_a_slot_with_a_stream_queue_keeps_its_order() -> None:
    queue = send_queue()
    queue.add_message(T.ITEM, 1, buffer(LARGE))
    queue.add_message(T.ITEM, 1, buffer(SMALL))
    queue.add_message(T.RESULT, 1, buffer(b"end"), terminal=True)
    assert shape(take_all(queue)) == [
        (T.ITEM, 1, Flag.MORE),
        (T.ITEM, 1, Flag.MORE),
        (T.ITEM, 1, 0),
        (T.ITEM, 1, 0),
        (T.RESULT, 1, 0),
    ]


def test_small_frames_of_other_slots_pass_a_large_message() -> None:
    queue = send_queue()
    queue.add_message(T.ITEM, 1, buffer(bytes(10 * BATCH_SIZE)))
    queue.next_batch()
    queue.add_message(T.RESULT, 2, buffer(SMALL), terminal=True)
    assert shape(taken(queue.next_batch()))[0] == (T.RESULT, 2, 0)


def test_a_cancel_overtakes_its_own_slots_stream_queue() -> None:
    queue = send_queue()
    queue.add_data(1, LARGE, end=False)
    queue.add_frame(T.CANCEL, 1, b"\x01\x00")
    assert shape(take_all(queue))[0] == (T.CANCEL, 1, 0)


def test_stream_queues_alternate_one_frame_each() -> None:
    queue = send_queue()
    for slot in (1, 2, 3):
        queue.add_message(T.ITEM, slot, buffer(bytes(slot * MAX_FRAME)))
    turns = [frame.slot for frame in take_all(queue)]
    assert turns == [1, 2, 3, 2, 3, 3]


def test_a_batch_is_full_at_64_kib() -> None:
    queue = send_queue()
    queue.add_data(1, bytes(10 * BATCH_SIZE), end=False)
    size = len(b"".join(queue.next_batch().buffers))
    assert BATCH_SIZE <= size < BATCH_SIZE + MAX_FRAME + HEADER_SIZE


def test_small_frames_cannot_starve_the_stream_queues() -> None:
    queue = send_queue()
    queue.add_data(1, LARGE, end=False)
    for _ in range(3):
        for _ in range(BATCH_SIZE // MAX_FRAME + 1):
            queue.add_message(T.ITEM, 2, buffer(bytes(MAX_FRAME)))
        assert shape(taken(queue.next_batch()))[-1] == (T.DATA, 1, 0)
    assert not queue


def test_a_slot_drains_with_its_last_frame_and_ends_with_its_terminal_one() -> None:
    queue = send_queue(max_frame=64 * 1024)
    queue.add_data(1, bytes(100_000), end=False)
    queue.add_message(T.RESULT, 2, buffer(bytes(100_000)), terminal=True)
    seen = [queue.next_batch() for _ in range(3)]
    assert [batch.drained for batch in seen] == [[], [], [1, 2]]
    assert [batch.ended for batch in seen] == [[], [], [2]]
    assert not queue


def test_the_send_queue_knows_the_message_that_a_slot_is_sending() -> None:
    queue = send_queue()
    assert not queue.has_slot_queue(1)
    assert not queue.is_sending(1, T.ITEM)
    queue.add_message(T.ITEM, 1, buffer(LARGE))
    queue.add_message(T.RESULT, 1, buffer(SMALL), terminal=True)
    assert queue.has_slot_queue(1)
    assert queue.is_sending(1, T.ITEM)
    assert not queue.is_sending(1, T.RESULT)


# ------------------------------------------------------------------ merged and replaced frames


def test_credit_is_one_sum_for_each_slot() -> None:
    queue = send_queue()
    for _ in range(100):
        queue.add_credit(1, 5)
        queue.add_credit(2, 7)
    assert queue
    found = take_all(queue)
    assert [(frame.slot, decode_credit(frame.payload)) for frame in found] == [(1, 500), (2, 700)]


def test_credit_is_sent_before_any_stream_queue() -> None:
    queue = send_queue()
    queue.add_data(1, LARGE, end=False)
    queue.add_credit(1, 5)
    assert shape(take_all(queue))[0] == (T.CREDIT, 1, 0)


@pytest.mark.parametrize("size", [0, 3 * MAX_FRAME])
def test_no_credit_follows_a_terminal_frame(size: int) -> None:
    queue = send_queue()
    queue.add_credit(1, 5)
    queue.add_credit(2, 7)
    queue.add_message(T.RESULT, 1, buffer(bytes(size)), terminal=True)
    assert {frame.slot for frame in take_all(queue) if frame.type is T.CREDIT} == {2}


def test_only_the_latest_ping_is_answered() -> None:
    queue = send_queue()
    for number in range(100):
        queue.add_pong(b"ping %03d" % number)
    assert queue
    assert take_all(queue) == [Frame(T.PING, Flag.ACK, 0, b"ping 099")]


def test_goaway_is_acked_once_and_after_the_first_frame_of_each_queued_message() -> None:
    queue = send_queue()
    for slot in (1, 2):
        queue.add_message(T.CALL, slot, buffer(LARGE))
    queue.add_goaway_ack()
    queue.add_goaway_ack()
    assert queue
    first, second, ack, *rest = shape(take_all(queue))
    assert (first, second) == ((T.CALL, 1, Flag.MORE), (T.CALL, 2, Flag.MORE))
    assert ack == (T.GOAWAY, 0, Flag.ACK)
    assert [type_ for type_, _, _ in rest] == [T.CALL] * 4


# --------------------------------------------------------------------------- dropping, withdrawing


def test_a_dropped_slot_sends_nothing_more() -> None:
    queue = send_queue()
    queue.add_message(T.CALL, 1, buffer(LARGE))
    queue.add_data(1, SMALL, end=True)
    queue.add_credit(1, 5)
    assert queue.discard(1)
    assert not queue
    assert not queue.has_slot_queue(1)


def test_discard_returns_whether_any_frame_was_sent() -> None:
    queue = send_queue()
    assert not queue.discard(1), "the slot has no stream queue"
    queue.add_message(T.CALL, 1, buffer(bytes(BATCH_SIZE * 2)))
    queue.next_batch()
    assert not queue.discard(1), "a part has left"
    queue.add_message(T.CALL, 1, buffer(LARGE))
    assert queue.discard(1), "nothing has left"


def test_discarding_keeps_the_turns_of_other_stream_queues() -> None:
    queue = send_queue()
    for slot in (1, 2, 3):
        queue.add_message(T.ITEM, slot, buffer(bytes(2 * MAX_FRAME)))
    queue.discard(2)
    assert [frame.slot for frame in take_all(queue)] == [1, 3, 1, 3]


def test_withdrawing_returns_the_number_of_unsent_bytes() -> None:
    queue = send_queue()
    queue.add_data(1, bytes(BATCH_SIZE * 2), end=False)
    queue.add_data(1, SMALL, end=True)
    left = sum(len(frame.payload) for frame in taken(queue.next_batch()))
    assert queue.withdraw_data(1) == BATCH_SIZE * 2 + len(SMALL) - left
    assert not queue
    assert queue.withdraw_data(1) == 0


def test_withdrawing_removes_only_data() -> None:
    queue = send_queue()
    queue.add_message(T.CALL, 1, buffer(LARGE))
    queue.add_data(1, SMALL, end=False)
    queue.add_message(T.CANCEL, 1, buffer(b"\x15\x00"))
    assert queue.withdraw_data(1) == len(SMALL)
    assert [frame.type for frame in take_all(queue)] == [T.CALL, T.CALL, T.CALL, T.CANCEL]


def test_withdrawing_the_last_data_keeps_the_turns_of_other_stream_queues() -> None:
    queue = send_queue()
    queue.add_data(1, LARGE, end=False)
    queue.add_data(2, LARGE, end=False)
    assert queue.withdraw_data(1) == len(LARGE)
    assert [frame.slot for frame in take_all(queue)] == [2, 2, 2]


# ------------------------------------------------------------------------------- unstarted bytes


def test_a_message_is_unstarted_until_its_first_frame_is_sent() -> None:
    queue = send_queue()
    queue.add_message(T.RESULT, 1, buffer(LARGE), terminal=True)
    queue.add_message(T.RESULT, 2, buffer(bytes(BATCH_SIZE)), terminal=True)
    assert (queue.queued_bytes, queue.unstarted_bytes) == (
        len(LARGE) + BATCH_SIZE,
        len(LARGE) + BATCH_SIZE,
    )
    queue.next_batch()
    assert queue.unstarted_bytes == 0
    assert 0 < queue.queued_bytes < BATCH_SIZE
    take_all(queue)
    assert (queue.queued_bytes, queue.unstarted_bytes) == (0, 0)


def test_small_frames_are_unstarted_until_they_are_sent() -> None:
    queue = send_queue()
    queue.add_frame(T.PING, 0, b"8 bytes.")
    queue.add_message(T.ITEM, 1, buffer(SMALL))
    queue.add_data(2, SMALL, end=True)
    whole = 3 * HEADER_SIZE + 8 + 2 * len(SMALL)
    assert (queue.queued_bytes, queue.unstarted_bytes) == (whole, whole)
    queue.next_batch()
    assert (queue.queued_bytes, queue.unstarted_bytes) == (0, 0)


@pytest.mark.parametrize("batches", [0, 1])
@pytest.mark.parametrize("verb", ["drop", "withdraw", "close"])
def test_discarded_messages_are_not_counted_as_unstarted(verb: str, batches: int) -> None:
    queue = send_queue()
    queue.add_data(1, bytes(3 * BATCH_SIZE), end=False)
    queue.add_data(1, SMALL, end=False)
    for _ in range(batches):
        queue.next_batch()
    match verb:
        case "drop":
            queue.discard(1)
        case "withdraw":
            assert queue.withdraw_data(1) == 3 * BATCH_SIZE - batches * BATCH_SIZE + len(SMALL)
        case _:
            queue.close(T.GOAWAY, b"")
    assert (queue.queued_bytes, queue.unstarted_bytes) == (0, 0)


def test_withdrawing_keeps_the_count_of_remaining_bytes() -> None:
    queue = send_queue()
    queue.add_data(1, LARGE, end=False)
    queue.add_message(T.CANCEL, 1, buffer(b"xx"))
    queue.withdraw_data(1)
    assert (queue.queued_bytes, queue.unstarted_bytes) == (2, 2)


# ------------------------------------------------------------------------------- any interleaving

# Odd slots are generators, even ones raw streams. A payload begins with its number.
ACTIONS: Final = st.one_of(
    st.tuples(st.just("item"), st.sampled_from([1, 3]), st.integers(0, 30_000)),
    st.tuples(st.just("data"), st.sampled_from([2, 4]), st.integers(1, 30_000)),
    st.tuples(st.just("credit"), st.sampled_from([1, 2, 3, 4]), st.integers(1, 100)),
    st.tuples(st.just("take"), st.just(0), st.just(0)),
)


class Run:
    """A send queue, with the messages put into it and the frames taken from it."""

    def __init__(self, max_frame: int) -> None:
        self.queue = send_queue(max_frame)
        self.queued: defaultdict[int, list[bytes]] = defaultdict(list)
        self.credit: defaultdict[int, int] = defaultdict(int)
        self.found: list[Frame] = []
        self.count = 0

    def act(self, action: str, slot: int, amount: int) -> None:
        self.count += 1
        payload = b"%04d" % self.count + bytes(amount)
        match action:
            case "item":
                self.queue.add_message(T.ITEM, slot, buffer(payload))
                self.queued[slot].append(payload)
            case "data":
                self.queue.add_data(slot, payload, end=False)
                self.queued[slot].append(payload)
            case "credit":
                self.queue.add_credit(slot, amount)
                self.credit[slot] += amount
            case _:
                self.take()

    def take(self) -> None:
        before = {slot for slot in self.queued if self.queue.has_slot_queue(slot)}
        batch = self.queue.next_batch()
        after = {slot for slot in self.queued if self.queue.has_slot_queue(slot)}
        assert set(batch.drained) == before - after
        self.found += taken(batch)

    def check_the_books(self) -> None:
        """The queued bytes are those put in and not taken out, and a header for each."""
        queued = sum(len(payload) for each in self.queued.values() for payload in each)
        out = sum(len(frame.payload) for frame in self.found if frame.type in (T.ITEM, T.DATA))
        assert queued - out <= self.queue.queued_bytes <= queued - out + HEADER_SIZE * self.count
        assert 0 <= self.queue.unstarted_bytes <= self.queue.queued_bytes

    def of_slot(self, slot: int, type_: FrameType) -> list[Frame]:
        return [frame for frame in self.found if (frame.slot, frame.type) == (slot, type_)]

    def items(self, slot: int) -> list[bytes]:
        """Join the frames of each item."""
        joined, rest = [], b""
        for frame in self.of_slot(slot, T.ITEM):
            rest += frame.payload
            if not frame.flags:
                joined.append(rest)
                rest = b""
        assert not rest
        return joined


@given(st.lists(ACTIONS, max_size=30), st.sampled_from([1024, 4096, 65536]))
def test_any_interleaving_keeps_each_slots_order(
    actions: list[tuple[str, int, int]], max_frame: int
) -> None:
    run = Run(max_frame)
    for action in actions:
        run.act(*action)
        run.check_the_books()
    while run.queue:
        run.take()
    for slot in (1, 3):
        assert run.items(slot) == run.queued[slot]
    for slot in (2, 4):
        stream = b"".join(frame.payload for frame in run.of_slot(slot, T.DATA))
        assert stream == b"".join(run.queued[slot])
    for slot in (1, 2, 3, 4):
        credit = [decode_credit(frame.payload) for frame in run.of_slot(slot, T.CREDIT)]
        assert sum(credit) == run.credit[slot]
        assert 0 not in credit
    assert all(len(frame.payload) <= max_frame for frame in run.found)


def test_nothing_is_kept_after_the_last_frame() -> None:
    queue = SendQueue()
    queue.close(int(FrameType.GOAWAY), b"bye")
    queue.max_frame = 64 * 1024  # as by a HELLO that is handled late
    for size in (10, 1000, 100_000):
        queue.add_frame(int(FrameType.CANCEL), 1, bytes(8))
        queue.add_message(int(FrameType.RESULT), 1, bytearray(8 + size), True)
        queue.add_data(2, bytes(size), False)
        queue.add_credit(3, size)
        queue.add_pong(bytes(8))
        queue.add_goaway_ack()
    assert (queue.queued_bytes, queue.unstarted_bytes) == (0, 0)
    assert not queue.has_slot_queue(1) | queue.has_slot_queue(2)
    batch = queue.next_batch()
    assert [frame[8:] for frame in batch.buffers] == [b"bye"]
    assert (batch.drained, batch.ended) == ([], [])
    assert not queue
    assert queue.next_batch().buffers == []
