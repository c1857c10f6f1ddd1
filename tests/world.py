"""A model of one connection: both ends, the frames in transit, and records of every call.

A `World` acts as both applications and carries bytes between the ends. It checks each event
against its own records. These come from the applications' actions and from the frames on the wire,
never from the state of the implementation. `test_protocol_model` drives it, and lists the
invariants.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import Final

import wire
from jumpstarter._limits import DEFAULT_LIMITS, Limits
from jumpstarter._protocol import events as ev
from jumpstarter._protocol.base import BaseProtocol, SlotState
from jumpstarter._protocol.client import ClientProtocol
from jumpstarter._protocol.codec import decode_credit, decode_value
from jumpstarter._protocol.flow_control import ITEM_COST
from jumpstarter._protocol.frames import Flag, FrameType, Kind
from jumpstarter._protocol.server import ServerProtocol
from jumpstarter.errors import Code
from wire import Frame, code_and_text, payload, value

__all__ = ["DOWN", "UP", "Call", "Flow", "World"]

T = FrameType
UP: Final = 0  # from the client to the server
DOWN: Final = 1
_PATTERN: Final = bytes(range(251)) * 100
_TERMINAL: Final = (T.RESULT, T.ERROR)


class Flow:
    """One direction of a stream, counted in bytes, or a generator, counted in items."""

    def __init__(self, window: int) -> None:
        self.sent = 0  # queued, and not withdrawn
        self.got = 0  # received, or dropped on arrival
        self.unread = 0  # received and not consumed, in credit
        self.window = window  # credit that the sender has
        self.end_sent = False
        self.end_got = False


class Call:
    """The actions on one call, and its outcome."""

    def __init__(self, serial: int, kind: Kind, size: int, window: int) -> None:
        self.serial = serial
        self.kind = kind
        self.size = size
        self.slot = 0
        self.cancelled = False  # the client has cancelled it
        self.closed = False  # the client has sent CANCEL with CLOSE
        self.incomplete = False  # the client has dropped an item
        self.coming_in_parts = False  # the client has received part of a message
        self.seen = False  # the server's application has received it
        self.asked_to_end = False  # the server's application has received CANCEL
        self.accepted = False
        self.answer: tuple[FrameType, bytes] | None = None  # sent by the server's application
        self.outcome = ""  # how it ended, as seen by the client
        self.flows = (Flow(window), Flow(window))


class World:
    """Two ends, the frames in transit, and the records.

    Attributes:
        ends: The client and the server. `ends[direction]` sends in that direction.
        pipes: Frames in transit, each with the serial number of its call, or -1.
        offset: Bytes of the first frame of each pipe that have already arrived.
        calls: All calls, by serial number.
        calling: The client's open calls, by slot.
        serving: The calls that the server's application has received and not answered, by slot.
        begun: Slots whose CALL has reached the server and whose answer has not left.
        sent: The last call sent on each slot.
        sent_goaway: The directions in which a GOAWAY was sent.
        acked: True once the server knows that no further CALL will start.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.ends: tuple[ClientProtocol, ServerProtocol] = wire.connected(limits)
        self.pipes: tuple[deque[tuple[int, Frame]], ...] = (deque(), deque())
        self.offset = [0, 0]
        self.calls: list[Call] = []
        self.calling: dict[int, Call] = {}
        self.serving: dict[int, Call] = {}
        self.begun: set[int] = set()
        self.sent: dict[int, Call] = {}
        self.sent_goaway: set[int] = set()
        self.acked = False

    # ---------------------------------------------------------------------- the applications

    def call(self, kind: Kind, size: int) -> Call:
        call = Call(len(self.calls), kind, size, self.limits.stream_window)
        call.slot = self.ends[UP].call(kind, wire.call(kind, size, str(call.serial)))
        assert call.slot not in self.calling
        self.calls.append(call)
        self.calling[call.slot] = call
        return call

    def cancel(self, call: Call) -> None:
        call.cancelled = True
        if not self.ends[UP].cancel(call.slot):
            del self.calling[call.slot]
            call.outcome = "taken back"

    def close(self, call: Call) -> None:
        call.closed = True
        self.ends[UP].cancel(call.slot, Code.CLOSE)

    def send(self, call: Call, direction: int, size: int) -> None:
        self._send(call, direction, size, end=False)

    def send_last(self, call: Call, direction: int, size: int) -> None:
        self._send(call, direction, size, end=True)

    def _send(self, call: Call, direction: int, size: int, *, end: bool) -> None:
        flow = call.flows[direction]
        start = flow.sent % 251
        self.ends[direction].data(call.slot, _PATTERN[start : start + size], end=end)
        flow.sent += size
        flow.window -= size
        flow.end_sent = end

    def withdraw(self, call: Call, direction: int) -> None:
        """Withdraw bytes that have not left, and learn their number from the credit that returns.

        A wrong number would show later: the receiver checks the content of the next bytes.
        """
        flow = call.flows[direction]
        before = self.ends[direction].sendable(call.slot)
        self.ends[direction].withdraw(call.slot)
        withdrawn = self.ends[direction].sendable(call.slot) - before
        assert 0 <= withdrawn <= flow.sent - flow.got
        flow.window += withdrawn
        flow.sent -= withdrawn

    def consume(self, call: Call, direction: int, amount: int) -> None:
        call.flows[direction].unread -= amount
        self.ends[1 - direction].consume(call.slot, amount)

    def accept(self, call: Call) -> None:
        call.accepted = True
        self.ends[DOWN].accept(call.slot, value())

    def item(self, call: Call, size: int) -> None:
        flow = call.flows[DOWN]
        buffer = value([flow.sent, bytes(size)])
        flow.window -= len(payload(buffer)) + ITEM_COST
        flow.sent += 1
        self.ends[DOWN].item(call.slot, buffer)

    def result(self, call: Call, size: int) -> None:
        buffer = value([call.serial, bytes(size)])
        call.answer = (T.RESULT, payload(buffer))
        del self.serving[call.slot]
        self.ends[DOWN].result(call.slot, buffer)

    def error(self, call: Call) -> None:
        buffer = wire.error(Code.OS_ERROR, str(call.serial))
        call.answer = (T.ERROR, payload(buffer))
        del self.serving[call.slot]
        self.ends[DOWN].error(call.slot, buffer)

    def give_up(self, call: Call) -> None:
        self.ends[DOWN].abandon(call.slot)
        self.error(call)

    def goaway(self, direction: int) -> None:
        self.sent_goaway.add(direction)
        self.ends[direction].goaway(Code.OK, 0, "")

    # --------------------------------------------------------------------------- on the wire

    def take(self, direction: int) -> None:
        """Move one batch of frames from an end into its pipe."""
        batch = wire.frames(wire.take(self.ends[direction]))
        for found in batch:
            call = self._of(direction, found)
            if found.type in _TERMINAL and found.flags != Flag.MORE:
                self.begun.remove(found.slot)
            self.pipes[direction].append((-1 if call is None else call.serial, found))
        self._check_batch(batch)

    def _of(self, direction: int, found: Frame) -> Call | None:
        """Return the call of a frame that leaves now."""
        if found.slot == 0:
            return None
        if direction == UP and found.type is T.CALL:
            self.sent[found.slot] = self.calling[found.slot]
        # A slot of the client is free only after it has received all frames of the call.
        return (self.sent if direction == UP else self.calling)[found.slot]

    def _check_batch(self, batch: list[Frame]) -> None:
        answers = Counter(
            (found.type in _TERMINAL or found.type, found.slot)
            for found in batch
            if found.flags == Flag.ACK
            or found.type is T.CREDIT
            or (found.type in _TERMINAL and found.flags != Flag.MORE)
        )
        assert all(count == 1 for count in answers.values()), answers

    def deliver(self, direction: int, size: int | None = None) -> None:
        """Deliver up to `size` bytes of the first frame, or the whole frame."""
        serial, found = self.pipes[direction][0]
        data = wire.frame(found.type, found.slot, found.payload, found.flags)
        start = self.offset[direction]
        stop = len(data) if size is None else min(len(data), start + size)
        events = self.ends[1 - direction].receive(data[start:stop])
        if stop < len(data):
            assert events == []
            self.offset[direction] = stop
            return
        self.offset[direction] = 0
        self.pipes[direction].popleft()
        assert len(events) <= 1
        event = events[0] if events else None
        if serial < 0:
            self._of_connection(direction, found, event)
        elif direction == UP:
            self._at_server(self.calls[serial], found, event)
        else:
            self._at_client(self.calls[serial], found, event)

    def _of_connection(self, direction: int, found: Frame, event: ev.Event | None) -> None:
        match found.type, found.flags:
            case T.PING, Flag.NONE:
                assert event is None
            case T.PING, Flag.ACK:
                assert event == ev.PongReceived(found.payload)
            case T.GOAWAY, Flag.NONE:
                assert isinstance(event, ev.GoawayReceived)
            case T.GOAWAY, Flag.ACK:
                assert event == ev.GoawayAcked()
                self.acked |= direction == UP
            case _:
                raise AssertionError(found)

    def _at_server(self, call: Call, found: Frame, event: ev.Event | None) -> None:
        if found.type is T.CALL:
            self._called(call, found, event)
        elif self.serving.get(call.slot) is not call:
            assert event is None
        elif found.type is T.DATA:
            self._data(call.flows[UP], found, event)
        elif found.type is T.CREDIT:
            assert event == ev.CreditReceived(call.slot)
            call.flows[DOWN].window += decode_credit(found.payload)
        else:
            assert isinstance(event, ev.CancelReceived)
            call.asked_to_end |= event.code != Code.CLOSE

    def _called(self, call: Call, found: Frame, event: ev.Event | None) -> None:
        if call.slot not in self.begun:
            assert not self.acked, "a CALL started after the ACK that says that none will"
            self.begun.add(call.slot)
        if event is None:
            return  # incomplete, or rejected: the client's end checks the reason
        assert isinstance(event, ev.CallReceived)
        assert found.flags == Flag.NONE
        assert (event.slot, event.head.method) == (call.slot, str(call.serial))
        assert not call.seen
        call.seen = True
        self.serving[call.slot] = call

    def _at_client(self, call: Call, found: Frame, event: ev.Event | None) -> None:
        assert self.calling.get(call.slot) is call, "a frame for a call that has ended"
        if found.flags == Flag.MORE:
            assert event is None
            call.coming_in_parts = True
            return
        if isinstance(event, ev.MessageDropped):
            assert call.coming_in_parts
            assert found.type is T.ITEM or event.terminal
        if found.type in (*_TERMINAL, T.ITEM):
            call.coming_in_parts = False
        if found.type in _TERMINAL:
            self._ended(call, event)
        elif found.type is T.ITEM:
            self._item(call, event)
        elif found.type is T.DATA:
            self._data(call.flows[DOWN], found, event)
        elif found.type is T.CREDIT:
            assert event == ev.CreditReceived(call.slot)
            call.flows[UP].window += decode_credit(found.payload)
        else:
            assert event == ev.AcceptReceived(call.slot, payload(value()))

    def _data(self, flow: Flow, found: Frame, event: ev.Event | None) -> None:
        assert isinstance(event, ev.DataReceived)
        start = flow.got % 251
        assert event.data == found.payload == _PATTERN[start : start + len(event.data)]
        flow.got += len(event.data)
        flow.unread += len(event.data)
        if event.end:
            assert flow.end_sent
            assert flow.got == flow.sent, "END arrived before all bytes"
            flow.end_got = True

    def _item(self, call: Call, event: ev.Event | None) -> None:
        flow = call.flows[DOWN]
        if isinstance(event, ev.MessageDropped):
            assert not event.terminal
            call.incomplete = True
        else:
            assert isinstance(event, ev.ItemReceived)
            assert decode_value(event.body, DEFAULT_LIMITS)[0] == flow.got
            flow.unread += event.cost
        flow.got += 1

    def _ended(self, call: Call, event: ev.Event | None) -> None:
        del self.calling[call.slot]
        flow = call.flows[DOWN]
        match event:
            case ev.ResultReceived():
                assert call.answer == (T.RESULT, event.body)
                assert (flow.got, flow.end_got) == (flow.sent, flow.end_sent)
                call.outcome = "result"
            case ev.ErrorReceived() if call.answer == (T.ERROR, event.body):
                call.outcome = "error"
            case ev.ErrorReceived():
                call.outcome = self._own_answer(call, code_and_text(event)[0])
            case ev.MessageDropped(terminal=True):
                call.outcome = "dropped"
            case _:
                raise AssertionError(event)

    def _own_answer(self, call: Call, code: int) -> str:
        """Check an ERROR that the server's protocol made itself, and name the outcome.

        A rejected call must not have reached the server's application.
        """
        match code:
            case Code.REFUSED:
                assert self.ends[DOWN].going_away
                assert not call.seen
                return "refused"
            case Code.RESOURCE_EXHAUSTED:
                assert not call.seen
                return "too much at once"
            case Code.CANCELLED if not call.seen:
                assert call.cancelled
                return "cancelled before it was whole"
            case Code.CANCELLED:
                assert call.cancelled
                assert call.answer is not None
                return "result cut short"
            case _:
                raise AssertionError(code)

    # ---------------------------------------------------------------------------- invariants

    def check(self) -> None:
        """Check the invariants that hold at any time."""
        client, server = self.ends
        assert (client.failure, server.failure) == (None, None)
        assert client.busy_slots == len(self.calling) <= self.limits.max_calls
        assert server.busy_slots == len(self.begun) <= self.limits.max_calls
        for call in self.calling.values():
            self._check_windows(client, call, UP)
        for call in self.serving.values():
            self._check_windows(server, call, DOWN)
        for rules in self.ends:
            self._check_sums(rules)

    def _check_windows(self, rules: BaseProtocol, call: Call, direction: int) -> None:
        sends = call.kind is Kind.STREAM or (call.kind is Kind.GENERATOR and direction == DOWN)
        assert rules.sendable(call.slot) == (max(0, call.flows[direction].window) if sends else 0)
        slot = rules._slots[call.slot]
        if slot.receiving is not None:
            overshoot = 0 if call.kind is Kind.STREAM else self.limits.max_message + ITEM_COST
            assert slot.receiving.available >= -overshoot

    def _check_sums(self, rules: BaseProtocol) -> None:
        slots = list(rules._slots.values())
        parts = [slot.parts for slot in slots if slot.parts is not None]
        assert rules._unfinished_messages == len(parts)
        pending = sum(map(len, parts)) + sum(slot.reserved_bytes for slot in slots)
        assert rules._pending_bytes == pending <= self.limits.max_pending
        lanes = [message for lane in rules.send_queue._slot_queues.values() for message in lane]
        urgent = sum(map(len, rules.send_queue._urgent))
        assert rules.send_queue.queued_bytes == urgent + sum(m.size() for m in lanes)
        assert rules.send_queue.unstarted_bytes == urgent + sum(
            m.size() for m in lanes if not m.started
        )
        granted = sum(slot.receiving.size for slot in slots if slot.receiving is not None)
        assert rules._budget.left == self.limits.max_total_window - granted

    def check_quiet(self) -> None:
        """Check the invariants that hold once all calls are answered and all frames delivered."""
        self.check()
        assert not any(self.pipes)
        for rules in self.ends:
            assert not rules.send_queue
            assert rules._pending_bytes == 0
            assert rules._budget.left == self.limits.max_total_window
            for slot in rules._slots.values():
                assert slot.state is SlotState.FREE
                assert (slot.sending, slot.receiving, slot.parts) == (None, None, None)
        assert (self.calling, self.serving, self.begun) == ({}, {}, set())
        assert self.ends[UP].free_slots == self.limits.max_calls
        assert all(call.outcome for call in self.calls)
