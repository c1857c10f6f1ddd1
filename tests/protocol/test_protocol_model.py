"""Check the invariants of the protocol, for any actions of two applications in any order.

Two sweeps drive a `World`: one at random, with all verbs, messages of all sizes and bytes cut
anywhere; one through every order that a small script allows, frame by frame. Both detect a
breach where it happens:

- I1  *One terminal frame for each CALL, and nothing after it.* By the wire's order, each frame from
      the server belongs to one call, which must be open in the client's books. A terminal frame
      closes it there. Its content must be the answer of the server's application, or an answer
      that the rules may give by themselves in this case. `check_quiet` finds calls that never end.
- I2  *No frame of a slot before its CALL or after its end is acted on.* A frame at the server
      causes an event exactly if the call that it was sent for is open there. No CALL is reported
      twice, and a refused one is not reported at all.
- I3  *No sender exceeds its credit, but an ITEM by one message.* After each step `sendable` equals
      the books: the window declared in HELLO, and each CREDIT that has arrived, less the sent
      bytes. The receiver's own count is never negative for a stream, and never negative for a
      generator by more than one message. No connection fails.
- I4  *A frame is queued whole or not at all.* A separate decoder reads each batch, and must have
      no bytes left, also if a call is cancelled in the middle of its message.
- I5  *No more slots in use than `max_calls`; none is freed early.* After each step `busy` is, at
      the client, the calls without a received terminal frame, and at the server, the slots on
      which a CALL has begun to arrive and of which no terminal frame was sent.
- I6  *An end arrives only after every byte before it.* Bytes have a pattern and items a number. At
      an END or a RESULT, everything that was sent before it must have arrived.
- I7  *The reader never waits.* Any frame may arrive in any state, with any number of frames and
      bytes queued. In any batch, a peer can make a side queue one answer and one CREDIT for each
      slot, one pong and one ack. In the sweep through every order a wait would be a state without
      an exit.

At the end `check_quiet` checks that all slots, windows and budgets were returned.
"""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Iterator
from math import ceil
from operator import attrgetter
from typing import Any, Final, NamedTuple

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import wire
from jumpstarter._limits import Limits
from jumpstarter._protocol.base import BaseProtocol, Slot
from jumpstarter._protocol.client import ClientProtocol
from jumpstarter._protocol.flow_control import Budget, ReceiveWindow, SendWindow
from jumpstarter._protocol.frames import Kind
from jumpstarter._protocol.receive_buffer import ReceiveBuffer
from jumpstarter._protocol.send_queue import SendQueue, _Message
from jumpstarter._protocol.server import ServerProtocol
from wire import LIMITS, PYTHON_RULES
from world import DOWN, UP, Call, World

DIRECTIONS: Final = st.sampled_from([UP, DOWN])


@pytest.fixture(autouse=True)
def one_frame_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limit a batch to the urgent frames and one frame of a large message, not 64 KiB."""
    monkeypatch.setattr("jumpstarter._protocol.send_queue.BATCH_SIZE", 1)


# --------------------------------------------------------------------------------------- at random


# One frame, and two of them, so that two or three concurrent large messages exceed the limit.
SIZES: Final = st.sampled_from([0, 1, 500, 1100, 1900])
CROWDED: Final = Limits(
    max_frame=1024,
    max_message=2048,
    max_pending=2048,
    max_calls=3,
    stream_window=1000,
    max_window=4000,
    max_total_window=8000,
)


class TwoEnds(RuleBasedStateMachine):
    """Run two applications with random valid actions, and a wire that cuts bytes anywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(CROWDED)

    # The calls on which each application may act

    def open_at(self, direction: int, *kinds: Kind) -> list[Call]:
        """Return the open, uncancelled calls of the application at the sending end of a pipe."""
        open_calls = self.world.calling if direction == UP else self.world.serving
        return [
            call
            for call in open_calls.values()
            if call.kind in (kinds or Kind) and not (direction == UP and call.cancelled)
        ]

    def sending(self) -> list[tuple[Call, int]]:
        return [
            (call, direction)
            for direction in (UP, DOWN)
            for call in self.open_at(direction, Kind.STREAM)
            if not call.flows[direction].end_sent and not (direction == UP and call.closed)
        ]

    def reading(self) -> list[tuple[Call, int]]:
        return [
            (call, direction)
            for direction in (UP, DOWN)
            for call in self.open_at(1 - direction, Kind.STREAM, Kind.GENERATOR)
            if call.flows[direction].unread
        ]

    def yielding(self) -> list[Call]:
        server = self.world.ends[DOWN]
        calls = self.open_at(DOWN, Kind.GENERATOR)
        return [call for call in calls if server.sendable(call.slot)]

    def accepting(self) -> list[Call]:
        return [call for call in self.open_at(DOWN, Kind.STREAM) if not call.accepted]

    # The client's application

    @precondition(lambda self: self.world.ends[UP].can_call)
    @rule(kind=st.sampled_from(Kind), size=SIZES)
    def call(self, kind: Kind, size: int) -> None:
        self.world.call(kind, size)

    @precondition(lambda self: self.open_at(UP))
    @rule(data=st.data(), close=st.booleans())
    def cancel(self, data: st.DataObject, *, close: bool) -> None:
        call = data.draw(st.sampled_from(self.open_at(UP)))
        (self.world.close if close and call.kind is Kind.STREAM else self.world.cancel)(call)

    # The server's

    @precondition(lambda self: self.accepting())
    @rule(data=st.data())
    def accept(self, data: st.DataObject) -> None:
        self.world.accept(data.draw(st.sampled_from(self.accepting())))

    @precondition(lambda self: self.yielding())
    @rule(data=st.data(), size=SIZES)
    def item(self, data: st.DataObject, size: int) -> None:
        self.world.item(data.draw(st.sampled_from(self.yielding())), size)

    @precondition(lambda self: self.open_at(DOWN))
    @rule(data=st.data(), end=st.sampled_from(["result", "error", "give_up"]), size=SIZES)
    def answer(self, data: st.DataObject, end: str, size: int) -> None:
        call = data.draw(st.sampled_from(self.open_at(DOWN)))
        match end:
            case "result":
                self.world.result(call, size)
            case "error":
                self.world.error(call)
            case "give_up":
                self.world.give_up(call)

    # Either's

    @precondition(lambda self: self.sending())
    @rule(data=st.data(), part=st.sampled_from([0, 0.5, 1]), last=st.booleans())
    def send(self, data: st.DataObject, part: float, *, last: bool) -> None:
        call, direction = data.draw(st.sampled_from(self.sending()))
        size = int(part * self.world.ends[direction].sendable(call.slot))
        if last:
            self.world.send_last(call, direction, size)
        elif size:
            self.world.send(call, direction, size)

    @precondition(lambda self: self.sending())
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        self.world.withdraw(*data.draw(st.sampled_from(self.sending())))

    @precondition(lambda self: self.reading())
    @rule(data=st.data(), part=st.sampled_from([0.4, 1]))
    def consume(self, data: st.DataObject, part: float) -> None:
        call, direction = data.draw(st.sampled_from(self.reading()))
        self.world.consume(call, direction, ceil(part * call.flows[direction].unread))

    @precondition(lambda self: self.sending())
    @rule(data=st.data(), times=st.integers(2, 6))
    def pump(self, data: st.DataObject, times: int) -> None:
        """Let a fast reader read more than a window, so that the window grows."""
        call, direction = data.draw(st.sampled_from(self.sending()))
        for _ in range(times):
            self.carry_all()
            if (call, direction) in self.sending():
                if size := self.world.ends[direction].sendable(call.slot):
                    self.world.send(call, direction, size)
                self.carry_all()
            if (call, direction) in self.reading():
                self.world.consume(call, direction, call.flows[direction].unread)

    @rule(direction=DIRECTIONS, goaway=st.booleans())
    def ping(self, direction: int, *, goaway: bool) -> None:
        if goaway and len(self.world.calls) > 10:
            self.world.goaway(direction)
        else:
            self.world.ends[direction].ping(b"12345678")

    # The wire

    @precondition(lambda self: any(end.send_queue for end in self.world.ends))
    @rule(direction=DIRECTIONS)
    def take(self, direction: int) -> None:
        if self.world.ends[direction].send_queue:
            self.world.take(direction)

    @precondition(lambda self: any(self.world.pipes))
    @rule(
        direction=DIRECTIONS,
        sizes=st.lists(st.none() | st.integers(1, 1100), min_size=1, max_size=5),
    )
    def deliver(self, direction: int, sizes: list[int | None]) -> None:
        for size in sizes:
            if self.world.pipes[direction]:
                self.world.deliver(direction, size)

    @rule()
    def carry_all(self) -> None:
        while self.carry():
            pass

    def carry(self) -> bool:
        """Send and deliver all queued bytes. Return False if there were none."""
        busy = False
        for direction in (UP, DOWN):
            while self.world.ends[direction].send_queue:
                self.world.take(direction)
                busy = True
            while self.world.pipes[direction]:
                self.world.deliver(direction)
                busy = True
        return busy

    @invariant()
    def holds(self) -> None:
        self.world.check()

    def teardown(self) -> None:
        """End all calls, and check that nothing is left."""
        self.carry_all()
        while self.world.serving:
            for call in list(self.world.serving.values()):
                if call.asked_to_end:
                    self.world.give_up(call)
                else:
                    self.world.result(call, 0)
            self.carry_all()
        self.world.check_quiet()


def test_the_invariants_hold_for_any_actions_of_two_applications() -> None:
    many = 3 * settings().max_examples
    run: Any = run_state_machine_as_test  # untyped in some versions
    run(TwoEnds, settings=settings(max_examples=many, stateful_step_count=80))


# -------------------------------------------------------------------------------------- every order
#
# A state is saved as a tuple of everything that changes in the rules and the books. Each next move
# is tried on a world built from only that tuple, so states with equal tuples are equal.
# `test_a_saved_state_has_everything_that_changes` checks that no field is missing.

SAVED: Final = {
    ClientProtocol: (
        "busy_slots going_away send_queue _budget _pending_bytes "
        "_unfinished_messages _slots _free _unused"
    ),
    ServerProtocol: (
        "busy_slots going_away send_queue _budget _pending_bytes _unfinished_messages _slots"
    ),
    SendQueue: (
        "_max_frame _small queued_bytes unstarted_bytes _urgent _ended _credit _pong _slot_queues"
    ),
    _Message: "type rest flags terminal started",
    Slot: "state may_receive may_send kind parts drop_reason reserved_bytes sending receiving",
    SendWindow: "available",
    ReceiveWindow: "size available _waiting _returning",
    Budget: "left",
    World: "ends pipes calls calling serving begun sent sent_goaway acked",
}
# Fields that are constant in a sweep, in which no connection fails and frames arrive complete, or
# that have no effect, like the counters for rate limits.
_RULES: Final = (
    "limits peer failure late_frames no_op_frames control_frames unprocessed "
    "_phase _decoder _max_slot _max_buffer _max_message _max_pending"
)
CONSTANT: Final = {
    ClientProtocol: _RULES,
    ServerProtocol: f"{_RULES} _max_small_call refusal",
    SendQueue: "_closed _last",
    _Message: "head",  # of large bytes, which these calls do not have
    Slot: "cancelled received_bytes",
    SendWindow: "grants",
    ReceiveWindow: "_limit _budget",
    World: "limits offset",
}
OVER: Final = "over"  # the outcome of a call that no move can change any more
State = tuple[Any, ...]
_message = attrgetter("type", "flags", "terminal", "started")
_slot = attrgetter("state", "may_receive", "may_send", "kind", "drop_reason", "reserved_bytes")
_receiving = attrgetter("size", "available", "_waiting", "_returning")


def save(world: World) -> State:
    client, server = world.ends
    return (
        (*_save_rules(client), client._unused, tuple(client._free)),
        _save_rules(server),
        tuple(map(_save_call, world.calls)),
        tuple(map(tuple, world.pipes)),
        tuple(sorted((slot, call.serial) for slot, call in world.sent.items())),
        frozenset(world.begun),
        frozenset(world.sent_goaway),
        world.acked,
    )


def _save_call(call: Call) -> State | bool:
    """Save a call's books; if it has ended on both sides, only the fields that `moves` reads."""
    if call.outcome and (call.answer or not call.seen):
        return call.cancelled
    *plain, flows = vars(call).values()
    return (tuple(plain), *(tuple(vars(flow).values()) for flow in flows))


def _save_rules(rules: BaseProtocol) -> State:
    return (
        (
            rules.busy_slots,
            rules.going_away,
            rules._budget.left,
            rules._pending_bytes,
            rules._unfinished_messages,
        ),
        tuple((slot_id, _save_slot(slot)) for slot_id, slot in sorted(rules._slots.items())),
        _save_send_queue(rules.send_queue),
    )


def _save_slot(slot: Slot) -> State:
    return (
        _slot(slot),
        None if slot.parts is None else b"".join(slot.parts._pieces),
        slot.sending and slot.sending.available,
        slot.receiving and _receiving(slot.receiving),
    )


def _save_send_queue(send_queue: SendQueue) -> State:
    return (
        (send_queue.max_frame, send_queue.queued_bytes, send_queue.unstarted_bytes),
        tuple(map(bytes, send_queue._urgent)),
        tuple(send_queue._ended),
        tuple(send_queue._credit.items()),
        send_queue._pong,
        tuple(
            (slot, tuple((_message(m), bytes(m.rest)) for m in lane))
            for slot, lane in send_queue._slot_queues.items()
        ),
    )


def load(world: World, state: State, now: State) -> None:
    """Set a world in the state `now` to another state; replace only the differing parts."""
    client, server, calls, pipes, sent, begun, sent_goaway, acked = state
    if client != now[0]:
        *rules, unused, free = client
        _load_rules(world.ends[UP], *rules)
        world.ends[UP]._unused, world.ends[UP]._free = unused, list(free)
    if server != now[1]:
        _load_rules(world.ends[DOWN], *server)
    del world.calls[len(calls) :]
    for serial, call in enumerate(calls):
        if [call] != list(now[2][serial : serial + 1]):
            world.calls[serial : serial + 1] = [_load_call(serial, call)]
    world.calling = {call.slot: call for call in world.calls if not call.outcome}
    world.serving = {call.slot: call for call in world.calls if call.seen and not call.answer}
    world.pipes = tuple(map(deque, pipes))
    world.sent = {slot: world.calls[serial] for slot, serial in sent}
    world.begun, world.sent_goaway, world.acked = set(begun), set(sent_goaway), acked


def _load_call(serial: int, state: State | bool) -> Call:
    call = Call(serial, Kind.UNARY, 0, 0)
    if isinstance(state, bool):
        call.cancelled = state
        call.outcome = OVER
        return call
    plain, *flows = state
    vars(call).update(zip(vars(call), plain, strict=False))  # `flows`, the last one, is not in it
    for flow, content in zip(call.flows, flows, strict=True):
        vars(flow).update(zip(vars(flow), content, strict=True))
    return call


def _load_rules(rules: BaseProtocol, plain: State, slots: State, send_queue: State) -> None:
    rules._budget = Budget(0)
    rules._slots = {slot_id: _load_slot(slot, rules) for slot_id, slot in slots}
    (
        rules.busy_slots,
        rules.going_away,
        rules._budget.left,
        rules._pending_bytes,
        rules._unfinished_messages,
    ) = plain
    rules.send_queue = _load_send_queue(send_queue)


def _load_slot(state: State, rules: BaseProtocol) -> Slot:
    plain, parts, sending, receiving = state
    slot = Slot()
    (
        slot.state,
        slot.may_receive,
        slot.may_send,
        slot.kind,
        slot.drop_reason,
        slot.reserved_bytes,
    ) = plain
    if parts is not None:
        slot.parts = ReceiveBuffer()
        if parts:
            slot.parts.append(parts)
    if sending is not None:
        slot.sending = SendWindow(sending)
    if receiving is not None:
        window = slot.receiving = ReceiveWindow(0, rules.limits.max_window, rules._budget)
        window.size, window.available, window._waiting, window._returning = receiving
    return slot


def _load_send_queue(state: State) -> SendQueue:
    send_queue = SendQueue()
    plain, urgent, ended, credit, send_queue._pong, lanes = state
    send_queue.max_frame, send_queue.queued_bytes, send_queue.unstarted_bytes = plain
    send_queue._urgent = list(urgent)
    send_queue._ended = list(ended)
    send_queue._credit = dict(credit)
    send_queue._slot_queues = {slot: deque(_load_message(*m) for m in lane) for slot, lane in lanes}
    return send_queue


def _load_message(plain: State, rest: bytes) -> _Message:
    type_, flags, terminal, begun = plain
    message = _Message(type_, memoryview(rest), flags, terminal=terminal)
    message.started = begun
    return message


class Script(NamedTuple):
    """The actions of two applications, in any order that the protocol allows and that makes sense.

    Attributes:
        calls: Kind and size of the arguments of each call, in the order of the calls. A
            size over 2 makes two frames.
        states: The least number of states: with fewer, the sweep would miss some.
        outcomes: All ways in which calls may end.
        max_calls: The number of slots.
        results: Bytes of a method's result; over 76 make two frames.
        items: Bytes of each of a generator's items; over 76 make two frames. Each is more than the
            window.
        up: Bytes that a stream carries to the server before it ends. The window has 16.
        down: Bytes that it carries to the client before it ends; None for not even an end.
        hasty: The driver of a stream may end before its client's half has.
        cancels: How many calls the client cancels, any of them at any time.
        goaway: The side that sends GOAWAY, once, at any time.
    """

    calls: tuple[tuple[Kind, int], ...]
    states: int
    outcomes: set[str]
    max_calls: int = 3
    results: int = 0
    items: tuple[int, ...] = ()
    up: int = 0
    down: int | None = None
    hasty: bool = False
    cancels: int = 0
    goaway: int | None = None


Move = tuple[Any, ...]  # the name of a World's method, a call's serial number if it takes one, more


def moves(world: World, script: Script) -> Iterator[Move]:
    """Return all moves that are possible next."""
    yield from _client_moves(world, script)
    for call in world.serving.values():
        yield from _server_moves(world, script, call)
    if script.goaway is not None and script.goaway not in world.sent_goaway:
        yield "goaway", script.goaway
    for direction in (UP, DOWN):
        if world.pipes[direction]:
            yield "deliver", direction


def _client_moves(world: World, script: Script) -> Iterator[Move]:
    if world.ends[UP].can_call and len(world.calls) < len(script.calls):
        yield "call", *script.calls[len(world.calls)]
    may_cancel = sum(call.cancelled for call in world.calls) < script.cancels
    for call in world.calling.values():
        if call.cancelled:
            continue
        if may_cancel:
            yield "cancel", call.serial
        if call.kind is Kind.STREAM:
            yield from _sending(world, call, UP, script.up)
        if unread := call.flows[DOWN].unread:
            yield "consume", call.serial, DOWN, unread


def _server_moves(world: World, script: Script, call: Call) -> Iterator[Move]:
    flow = call.flows[DOWN]
    if call.asked_to_end:
        yield "give_up", call.serial
    elif call.kind is Kind.UNARY:
        yield "result", call.serial, script.results
    elif call.kind is Kind.GENERATOR:
        if flow.sent == len(script.items):
            yield "result", call.serial, 0
        elif world.ends[DOWN].sendable(call.slot):
            yield "item", call.serial, script.items[flow.sent]
    elif not call.accepted:
        yield "accept", call.serial
    else:
        if script.down is not None:
            yield from _sending(world, call, DOWN, script.down)
        if unread := call.flows[UP].unread:
            yield "consume", call.serial, UP, unread
        done = call.flows[UP].end_got and not unread and (flow.end_sent or script.down is None)
        if done or script.hasty:
            yield "result", call.serial, 0


def _sending(world: World, call: Call, direction: int, total: int) -> Iterator[Move]:
    flow = call.flows[direction]
    size = min(total - flow.sent, world.ends[direction].sendable(call.slot))
    if size:
        yield "send", call.serial, direction, size
    elif flow.sent == total and not flow.end_sent:
        yield "send_last", call.serial, direction, 0


def make(world: World, move: Move) -> None:
    """Make a move, and let each side write if none of its bytes is in transit."""
    name, *args = move
    if name not in ("call", "goaway", "deliver"):
        args[0] = world.calls[args[0]]
    getattr(world, name)(*args)
    for direction in (UP, DOWN):
        if not world.pipes[direction] and world.ends[direction].send_queue:
            world.take(direction)


def small_world(script: Script) -> World:
    """Return a world with frames and windows of a few bytes."""
    world = World(Limits(max_calls=script.max_calls, stream_window=16, max_window=16))
    world.ends[UP].send_queue.max_frame = 14
    world.ends[DOWN].send_queue.max_frame = 80
    return world


def sweep(script: Script) -> tuple[int, set[str]]:
    """Visit and check every state that the script can reach.

    Returns:
        The number of states, and the ways in which calls have ended.
    """
    world = small_world(script)
    now = save(world)
    came_from: dict[int, tuple[int, Move]] = {hash(now): (0, ())}
    ahead = deque([now])
    outcomes: set[str] = set()
    while ahead:
        state = ahead.popleft()
        load(world, state, now)
        now = state
        move: Move = ("nothing more",)
        try:
            possible = list(moves(world, script))
            if not possible:
                world.check_quiet()
            for move in possible:
                load(world, state, now)
                make(world, move)
                now = save(world)
                if (key := hash(now)) not in came_from:
                    world.check()
                    outcomes.update(call.outcome for call in world.calls)
                    came_from[key] = (hash(state), move)
                    ahead.append(now)
        except Exception as exc:
            exc.add_note(f"after {[*path(came_from, hash(state)), move]}")
            raise
    return len(came_from), outcomes - {"", OVER}


def path(came_from: dict[int, tuple[int, Move]], state: int) -> list[Move]:
    """Return the moves that lead to a state."""
    steps: list[Move] = []
    while (step := came_from[state])[1]:
        steps.append(step[1])
        state = step[0]
    return steps[::-1]


SCRIPTS: Final = {
    "two calls, a stream, a cancel and a GOAWAY": Script(
        ((Kind.UNARY, 0), (Kind.STREAM, 0), (Kind.UNARY, 10)),
        states=55_000,
        outcomes={"result", "error", "refused", "taken back", "cancelled before it was whole"},
        cancels=1,
        goaway=DOWN,
    ),
    "a stream larger than its window, cancelled, and a GOAWAY": Script(
        ((Kind.STREAM, 0),),
        states=13_000,
        outcomes={"result", "error", "refused"},
        up=24,
        down=5,
        cancels=1,
        goaway=DOWN,
    ),
    "three calls on two slots, two of them cancelled": Script(
        ((Kind.STREAM, 0), (Kind.UNARY, 10), (Kind.UNARY, 0)),
        states=9_000,
        outcomes={"result", "error", "taken back", "cancelled before it was whole"},
        max_calls=2,
        up=5,
        cancels=2,
    ),
    "a slot is used again with everything still in progress": Script(
        ((Kind.STREAM, 0), (Kind.STREAM, 0), (Kind.GENERATOR, 0)),
        states=20_000,
        outcomes={"result", "error"},
        max_calls=1,
        items=(10,),
        up=15,
        down=15,
        hasty=True,
        cancels=2,
    ),
    "large answers and items, cancelled, and a GOAWAY of the client": Script(
        ((Kind.GENERATOR, 0), (Kind.UNARY, 0)),
        states=13_000,
        outcomes={"result", "error", "result cut short"},
        results=90,
        items=(10, 90),
        cancels=2,
        goaway=UP,
    ),
}


@pytest.fixture
def no_garbage_collection() -> Iterator[None]:
    """Keep the garbage collector from traversing a million tuples without cycles."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_garbage_collection")
@pytest.mark.parametrize("name", SCRIPTS)
def test_every_order_keeps_the_invariants_and_becomes_quiescent(name: str) -> None:
    script = SCRIPTS[name]
    states, outcomes = sweep(script)
    print(f"{name}: {states} states")
    assert outcomes == script.outcomes
    assert states >= script.states


def fields(target: object) -> set[str]:
    return set(getattr(target, "__slots__", ()) or vars(target))


@PYTHON_RULES
def test_a_saved_state_has_everything_that_changes() -> None:
    """A new field must be saved and loaded, or be listed as constant."""
    client, server = wire.connected()
    window = ReceiveWindow(1, 1, Budget(1))
    message = _Message(0, memoryview(b""), 0, terminal=False)
    world = World(LIMITS)
    parts = (client.send_queue, message, Slot(), SendWindow(1), window, Budget(1))
    for known in (client, server, world, *parts):
        kind = type(known)
        assert fields(known) == set(f"{SAVED[kind]} {CONSTANT.get(kind, '')}".split())


@pytest.mark.parametrize("name", SCRIPTS)
def test_loading_restores_the_saved_state(name: str) -> None:
    """Load each state of one path through the script into a world in another state."""
    script = SCRIPTS[name]
    world = small_world(script)
    other = small_world(script)
    steps = 0
    while possible := list(moves(world, script)):
        make(world, possible[steps % len(possible)])
        load(other, save(world), save(other))
        assert save(other) == save(world)
        steps += 1
    assert steps > 5
