"""Fuzz targets: the server's and the client's rules must keep the promises of docs/protocol.md.

The rules receive each case three times. A passive application passes it in one piece, then split at
random positions: the events must not depend on the splits. An active application passes it frame
by frame, answers immediately, cancels calls and starts new ones. After each step, its books must
agree with the rules and with the frames sent:

- The rules never raise. `ConnectionFailed` is the last event, and one GOAWAY, the last frame,
  follows it.
- Each call gets one terminal frame. No frame of a call leaves before the call arrives or after it
  ends.
- The number of busy slots equals the number of calls, and at the end no call holds any memory.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from itertools import count
from typing import Final

import wire
from jumpstarter._framing import FrameDecoder
from jumpstarter._limits import MAX_WIRE_FRAME
from jumpstarter._protocol import events as ev
from jumpstarter._protocol.base import BaseProtocol
from jumpstarter._protocol.client import ClientProtocol
from jumpstarter._protocol.frames import Flag, FrameType, Hello, Kind
from jumpstarter._protocol.server import ServerProtocol
from jumpstarter.errors import Code
from wire import LIMITS

from .corpus import GENERATOR, STREAM, TO_CLIENT, TO_SERVER, UNARY, Frame
from .mutation import Mutator

T = FrameType
KINDS: Final = {UNARY: Kind.UNARY, STREAM: Kind.STREAM, GENERATOR: Kind.GENERATOR}  # by slot
CHUNK: Final = 5000  # bytes sent per step on a stream, whose credit may be gigabytes
MOST: Final = (1, 7, 1000)  # maximum frames handled per call of `receive`


def to_server(mutator: Mutator) -> Iterator[list[bytes]]:
    """Make frames that a client might send, one frame per piece."""
    return _frames(mutator, TO_SERVER)


def to_client(mutator: Mutator) -> Iterator[list[bytes]]:
    """Make frames that a server might send, one frame per piece."""
    return _frames(mutator, TO_CLIENT)


def _frames(mutator: Mutator, streams: list[list[Frame]]) -> Iterator[list[bytes]]:
    while True:
        yield list(map(mutator.wire, mutator.frames(streams)))


def check_server(frames: list[bytes]) -> int:
    """Check a server on these frames. Returns the number of frames that it received in total."""
    return _check(Server, frames)


def check_client(frames: list[bytes]) -> int:
    """Check a client on these frames. Returns the number of frames that it received in total."""
    return _check(Client, frames)


def _check(role: type[Server | Client], frames: list[bytes]) -> int:
    heard = role().listen([b"".join(frames[1:])], frames[:1])
    chance = random.Random(len(b"".join(frames)))
    assert role().listen(list(_cut(frames[1:], chance)), frames[:1], chance) == heard
    application = role()
    for frame in frames:
        if application.rules.failure is None:
            application.hear(frame)
    application.finish()
    return 3 * len(frames)


def _cut(frames: list[bytes], chance: random.Random) -> Iterator[bytes]:
    rest = b"".join(frames)
    while rest:
        size = chance.choice((1, 2, 8, 100, 2000))
        yield rest[:size]
        rest = rest[size:]


def _shown(event: ev.Event) -> object:
    """Return the part of an event that must not depend on splits: all but a breach's message."""
    return event.error.code if isinstance(event, ev.ConnectionFailed) else event


class Books:
    """An application's record of its calls and of the frames on the wire.

    Attributes:
        rules: The rules under test.
        open: The kind of each open call, by slot.
    """

    rules: BaseProtocol

    def __init__(self) -> None:
        self.open: dict[int, Kind] = {}
        self._turns = count()

    def listen(
        self, pieces: list[bytes], first: list[bytes], chance: random.Random | None = None
    ) -> list[object]:
        """Receive HELLO, complete the handshake, and receive the rest. Returns all events."""
        events = [event for frame in first for event in self.rules.receive(frame)]
        self.begin(events)
        for piece in pieces:
            events += self.rules.receive(piece, chance.choice(MOST) if chance else 2**31)
            while self.rules.unprocessed:
                events += self.rules.receive(b"")
        return list(map(_shown, events))

    def begin(self, events: list[ev.Event]) -> None:
        """Complete the handshake, if these events allow it."""
        raise NotImplementedError

    def act(self, event: ev.Event) -> None:
        """Record one event, and answer it."""
        raise NotImplementedError

    def check(self) -> None:
        """Take the queued frames, and compare them and the rules with the books."""
        raise NotImplementedError

    def hear(self, frame: bytes) -> None:
        """Receive a frame, answer its events, and compare everything with the books."""
        events = self.rules.receive(frame)
        if self.rules.failure is None:
            self.note(frame)
            self.begin(events)
            for event in events:
                self.act(event)
            self.check()
        else:
            self.check_failed(events)

    def note(self, frame: bytes) -> None:
        """Record a frame that the peer has sent."""

    def check_failed(self, events: list[ev.Event]) -> None:
        """Check the last events and frames of a failed connection."""
        assert [type(event) for event in events].index(ev.ConnectionFailed) == len(events) - 1
        assert self.rules.receive(b"\x00" * 8) == []
        (goaway,) = wire.sent(self.rules)
        assert (goaway.type, goaway.payload[0]) == (T.GOAWAY, self.rules.failure.code)  # type: ignore[union-attr]
        assert goaway.payload[0] >= Code.PROTOCOL_ERROR

    def finish(self) -> None:
        """End the open calls, and check that nothing remains of them."""
        raise NotImplementedError

    @property
    def large(self) -> int:
        """Size in bytes of a message of three frames, or less if the peer's limit is lower."""
        assert self.rules.peer is not None
        return min(3000, self.rules.peer.max_message - 100)

    def max_frames_per_turn(self, every: int) -> bool:
        """Return True once in every `every` calls, counting all calls together."""
        return next(self._turns) % every == 0


class Server(Books):
    """An exporter's application, and the state of each slot as derived from the wire alone."""

    rules: ServerProtocol

    def __init__(self) -> None:
        super().__init__()
        self.rules = ServerProtocol(LIMITS)
        self._decoder = FrameDecoder(MAX_WIRE_FRAME)
        self.opening: set[int] = set()  # slots on which a CALL is incomplete
        self.due: Counter[int] = Counter()  # terminal frames owed in total, by slot
        self.ended: Counter[int] = Counter()  # terminal frames sent, by slot

    def begin(self, events: list[ev.Event]) -> None:
        if any(isinstance(event, ev.HelloReceived) for event in events):
            self.rules.admit(Hello.of(LIMITS))

    def note(self, frame: bytes) -> None:
        for type_, flags, slot, _ in self._decoder.feed(frame):
            whole = type_ == T.CALL and flags != Flag.MORE
            if type_ == T.CALL:
                self.opening.add(slot)
            if whole or (type_ == T.CANCEL and slot in self.opening):
                self.opening.discard(slot)
                self.due[slot] += 1

    def act(self, event: ev.Event) -> None:
        match event:
            case ev.CallReceived(slot=slot):
                assert slot not in self.open
                self.open[slot] = event.head.kind
                self.answer(slot)
            case ev.DataReceived(slot=slot) | ev.CreditReceived(slot=slot):
                assert slot in self.open
                if isinstance(event, ev.DataReceived) and event.data:
                    self.rules.consume(slot, len(event.data))
                self.answer(slot)
            case ev.CancelReceived(slot=slot):
                self.rules.abandon(slot)
                self.end(slot)
            case _:
                assert not isinstance(event, ev.SlotEvent)

    def answer(self, slot: int) -> None:
        """Make one move that the call allows now; once in a while, end the call."""
        rules = self.rules
        if self.open[slot] is Kind.UNARY or self.max_frames_per_turn(8):
            self.end(slot)
        elif self.open[slot] is Kind.GENERATOR and rules.sendable(slot):
            rules.item(slot, wire.value(bytes(self.large if self.max_frames_per_turn(3) else 5)))
        elif self.open[slot] is Kind.STREAM and rules._slots[slot].may_send >> T.ACCEPT & 1:
            rules.accept(slot, wire.value())
        elif self.open[slot] is Kind.STREAM and (size := rules.sendable(slot)):
            rules.data(slot, bytes(min(size, CHUNK)))

    def end(self, slot: int) -> None:
        del self.open[slot]
        if self.rules._slots[slot].may_send >> T.RESULT & 1 and self.max_frames_per_turn(2):
            self.rules.result(
                slot, wire.value(bytes(self.large if self.max_frames_per_turn(2) else 5))
            )
        else:
            self.rules.error(slot, wire.error())

    def check(self) -> None:
        if self.max_frames_per_turn(2):
            for type_, flags, slot, _ in wire.frames(wire.take(self.rules)):
                assert slot == 0 or self.due[slot] > self.ended[slot]
                if type_ in (T.RESULT, T.ERROR) and flags != Flag.MORE:
                    self.ended[slot] += 1
        assert self.rules.busy_slots == len(self.opening) + (self.due - self.ended).total()

    def finish(self) -> None:
        if self.rules.failure is not None:
            return
        for slot in list(self.open):
            self.end(slot)
        while self.rules.send_queue:
            self.check()
        assert self.due == self.ended
        assert self.rules.send_queue.queued_bytes == self.rules.send_queue.unstarted_bytes == 0
        assert self.rules._budget.left == LIMITS.max_total_window
        assert self.opening or self.rules._pending_bytes == 0


class Client(Books):
    """A client's application, which calls continuously, in all slots, with all kinds of calls."""

    rules: ClientProtocol

    def __init__(self) -> None:
        super().__init__()
        self.rules = ClientProtocol(LIMITS, Hello.of(LIMITS))
        wire.take_all(self.rules)

    def begin(self, events: list[ev.Event]) -> None:
        if any(isinstance(event, ev.HelloReceived) for event in events):
            self.call_all()
            wire.take_all(self.rules)

    def call_all(self) -> None:
        while self.rules.can_call:
            kind = KINDS[(self.rules._free or [self.rules._unused])[-1]]
            size = self.large if self.max_frames_per_turn(7) else 0
            self.open[self.rules.call(kind, wire.call(kind, size))] = kind

    def act(self, event: ev.Event) -> None:
        match event:
            case ev.ResultReceived(slot=slot) | ev.ErrorReceived(slot=slot):
                del self.open[slot]
            case ev.MessageDropped(slot=slot, terminal=True):
                del self.open[slot]
            case ev.ItemReceived(slot=slot, cost=size) if slot in self.open:
                self.rules.consume(slot, size)
            case ev.DataReceived(slot=slot, data=data) if slot in self.open:
                if data:
                    self.rules.consume(slot, len(data))
            case ev.CreditReceived(slot=slot) if size := self.rules.sendable(slot):
                self.rules.data(slot, bytes(min(size, CHUNK)))
            case ev.AcceptReceived(slot=slot) | ev.CreditReceived(slot=slot):
                assert self.open[slot] is Kind.STREAM
        if self.open and self.max_frames_per_turn(9):
            self.cancel(next(iter(self.open)))

    def cancel(self, slot: int) -> None:
        if not self.rules.cancel(slot):
            del self.open[slot]

    def check(self) -> None:
        assert self.rules.busy_slots == len(self.open)
        self.call_all()
        if self.max_frames_per_turn(2):
            wire.frames(wire.take(self.rules))
        assert self.rules.busy_slots == len(self.open)

    def finish(self) -> None:
        """End every call as a server would, and check that nothing remains of them."""
        if self.rules.failure is not None or self.rules.peer is None:
            return
        self.rules.goaway(Code.OK, 0, "")
        wire.take_all(self.rules)
        for slot in list(self.open):
            self.cancel(slot)
            wire.take_all(self.rules)
        if self.rules.unfinished:
            return
        for slot in list(self.open):
            self.hear(wire.frame(T.ERROR, slot, wire.payload(wire.error())))
        assert self.open == {}
        assert (
            self.rules.send_queue.queued_bytes
            == self.rules.send_queue.unstarted_bytes
            == self.rules._pending_bytes
            == 0
        )
        assert self.rules._budget.left == LIMITS.max_total_window
