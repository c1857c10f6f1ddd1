"""A server's and a client's rules: whatever comes, they keep the promises of docs/protocol.md.

Each case is heard three times. At once and cut anywhere, by an application that does nothing: what
happens must not depend on the cutting. And frame by frame, by one that answers at once, cancels and
begins anew; after each step its books must agree with the rules, and with what leaves:

- Nothing is raised, `ConnectionFailed` is the last event, and one GOAWAY the last frame after it.
- One terminal frame for each call, nothing of a call before it has come or after it has ended.
- As many slots are busy as there are calls, and at the end nothing is held of any of them.
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
CHUNK: Final = 5000  # bytes that are sent at once of a stream, where credit may be for gigabytes
MOST: Final = (1, 7, 1000)  # frames that are handled at once


def to_server(mutator: Mutator) -> Iterator[list[bytes]]:
    """Make what a client might send, one piece a frame."""
    return _frames(mutator, TO_SERVER)


def to_client(mutator: Mutator) -> Iterator[list[bytes]]:
    """Make what a server might send."""
    return _frames(mutator, TO_CLIENT)


def _frames(mutator: Mutator, streams: list[list[Frame]]) -> Iterator[list[bytes]]:
    while True:
        yield list(map(mutator.wire, mutator.frames(streams)))


def check_server(frames: list[bytes]) -> int:
    """Let a server hear these frames. Returns how many times one was heard."""
    return _check(Server, frames)


def check_client(frames: list[bytes]) -> int:
    """Let a client hear these frames. Returns how many times one was heard."""
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
    """Give what must be the same however bytes are cut: all but the words for a breach."""
    return event.error.code if isinstance(event, ev.ConnectionFailed) else event


class Books:
    """What an application knows of its calls, and of what has crossed the wire.

    Attributes:
        rules: What is tested.
        open: The kind of each call that is open, by its slot.
    """

    rules: BaseProtocol

    def __init__(self) -> None:
        self.open: dict[int, Kind] = {}
        self._turns = count()

    def listen(
        self, pieces: list[bytes], first: list[bytes], chance: random.Random | None = None
    ) -> list[object]:
        """Hear HELLO, get ready, and then only listen. Gives all that happened."""
        events = [event for frame in first for event in self.rules.receive(frame)]
        self.begin(events)
        for piece in pieces:
            events += self.rules.receive(piece, chance.choice(MOST) if chance else 2**31)
            while self.rules.unprocessed:
                events += self.rules.receive(b"")
        return list(map(_shown, events))

    def begin(self, events: list[ev.Event]) -> None:
        """Do what makes the connection ready, if it can be."""
        raise NotImplementedError

    def act(self, event: ev.Event) -> None:
        """Note one event, and answer it."""
        raise NotImplementedError

    def check(self) -> None:
        """Take what waits, and hold it and the rules against the books."""
        raise NotImplementedError

    def hear(self, frame: bytes) -> None:
        """Hear a frame, answer what it told, and hold everything against the books."""
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
        """Enter what the peer has sent."""

    def check_failed(self, events: list[ev.Event]) -> None:
        """Check the end of a connection that has failed."""
        assert [type(event) for event in events].index(ev.ConnectionFailed) == len(events) - 1
        assert self.rules.receive(b"\x00" * 8) == []
        (goaway,) = wire.sent(self.rules)
        assert (goaway.type, goaway.payload[0]) == (T.GOAWAY, self.rules.failure.code)  # type: ignore[union-attr]
        assert goaway.payload[0] >= Code.PROTOCOL_ERROR

    def finish(self) -> None:
        """End what is open, and see that nothing is left of it."""
        raise NotImplementedError

    @property
    def large(self) -> int:
        """Bytes that make a message of three frames, if the peer takes such."""
        assert self.rules.peer is not None
        return min(3000, self.rules.peer.max_message - 100)

    def max_frames_per_turn(self, every: int) -> bool:
        """Tell if it is time for what is done every so often."""
        return next(self._turns) % every == 0


class Server(Books):
    """An exporter's application, and all that is known of each slot from the wire alone."""

    rules: ServerProtocol

    def __init__(self) -> None:
        super().__init__()
        self.rules = ServerProtocol(LIMITS)
        self.received_bytes = FrameDecoder(MAX_WIRE_FRAME)
        self.opening: set[int] = set()  # slots on which part of a CALL has come
        self.due: Counter[int] = Counter()  # terminal frames that are or were owed, by slot
        self.ended: Counter[int] = Counter()  # terminal frames that have left

    def begin(self, events: list[ev.Event]) -> None:
        if any(isinstance(event, ev.HelloReceived) for event in events):
            self.rules.admit(Hello.of(LIMITS))

    def note(self, frame: bytes) -> None:
        for type_, flags, slot, _ in self.received_bytes.feed(frame):
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
        """Do something that is allowed now; every few times, end the call."""
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
    """Makes calls of all kinds, as many as there are slots for, and never stops."""

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
        """End every call as a server would."""
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
