"""Tests of the client's and the server's verbs, and of when their slots become free.

`test_protocol` covers received frames; this module covers sent ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import pytest

import wire
from jumpstarter._limits import MIN_WIRE_FRAME, Limits
from jumpstarter._protocol import events as ev
from jumpstarter._protocol.base import BaseProtocol
from jumpstarter._protocol.client import ClientProtocol
from jumpstarter._protocol.codec import encode_cancel, encode_credit, encode_error, encode_goaway
from jumpstarter._protocol.flow_control import ITEM_COST
from jumpstarter._protocol.frames import CallHead, ErrorBody, Flag, FrameType, Goaway, Hello, Kind
from jumpstarter._protocol.server import ServerProtocol
from jumpstarter.errors import ArgumentError, Code, LocalProtocolError
from wire import (
    LIMITS,
    Frame,
    call,
    carry,
    carry_one,
    code_and_text,
    connected,
    error,
    frame,
    payload,
    value,
)

T = FrameType
MORE: Final = Flag.MORE
LARGE: Final = 3000  # bytes: a message of three frames
GOAWAY: Final = frame(T.GOAWAY, 0, encode_goaway(Goaway(Code.OK, 0, "bye")))
HEAD: Final = CallHead(0, 1, Kind.UNARY, keywords=False, nested=False, method="m")
ONE_FRAME_AT_A_TIME: Final = pytest.mark.usefixtures("one_frame_at_a_time")


@pytest.fixture
def one_frame_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limit a batch to the urgent frames and one frame of a large message, not 64 KiB."""
    monkeypatch.setattr("jumpstarter._protocol.send_queue.BATCH_SIZE", 1)


def called(kind: Kind = Kind.UNARY, size: int = 0) -> tuple[ClientProtocol, ServerProtocol]:
    """Return both ends of a connection with one open call, on slot 1."""
    client, server = connected()
    client.call(kind, call(kind, size))
    (event,) = carry(client, server)
    assert isinstance(event, ev.CallReceived)
    return client, server


# ------------------------------------------------------------------------------- client: calling


def test_a_call_arrives_and_its_result_comes_back() -> None:
    client, server = connected()
    slot = client.call(Kind.UNARY, call())
    assert carry(client, server) == [ev.CallReceived(slot, HEAD, payload(value([b""])))]
    server.result(slot, value("done"))
    assert carry(server, client) == [ev.ResultReceived(slot, payload(value("done")))]
    assert (client.busy_slots, server.busy_slots) == (0, 0)


def test_a_call_may_fail() -> None:
    client, server = called()
    server.error(1, error(Code.OS_ERROR, "no such device"))
    (event,) = carry(server, client)
    assert code_and_text(event) == (Code.OS_ERROR, "no such device")
    assert (client.busy_slots, server.busy_slots) == (0, 0)


@pytest.mark.parametrize(("ours", "theirs"), [(3, 5), (5, 3), (1, 65535)])
def test_either_side_limits_concurrent_calls(ours: int, theirs: int) -> None:
    client = wire.ready_client(Limits(max_calls=ours), offered=Limits(max_calls=theirs))
    for slot in range(1, min(ours, theirs) + 1):
        assert client.can_call
        assert client.call(Kind.UNARY, call()) == slot
    assert not client.can_call
    with pytest.raises(LocalProtocolError):
        client.call(Kind.UNARY, call())


def test_a_slot_is_reused_only_after_its_terminal_frame() -> None:
    client, server = connected()
    for _ in range(3):
        client.call(Kind.UNARY, call())
    carry(client, server)
    client.cancel(2)
    carry(client, server)
    assert client.free_slots == 0
    server.error(2, error())
    carry(server, client)
    assert client.free_slots == 1
    assert client.call(Kind.UNARY, call()) == 2
    assert [type(event) for event in carry(client, server)] == [ev.CallReceived]


def test_late_frames_of_a_call_do_not_affect_the_next_one() -> None:
    """DATA, CREDIT and CANCEL for the old call, right before the CALL that has its slot now."""
    client, server = called(Kind.STREAM)
    server.data(1, b"x" * 600)
    carry(server, client)
    server.result(1, value())
    client.consume(1, 600)
    late = wire.take_all(client)
    client.data(1, b"late")
    client.cancel(1)
    late += wire.take_all(client)
    carry(server, client)
    assert client.call(Kind.STREAM, call(Kind.STREAM)) == 1
    (event,) = server.receive(late + wire.take_all(client))
    assert isinstance(event, ev.CallReceived)
    assert server.late_frames == 3
    server.data(1, b"y" * 1000)
    client.data(1, b"z" * 1000)
    assert carry(server, client) == [ev.DataReceived(1, b"y" * 1000, end=False)]
    assert carry(client, server) == [ev.DataReceived(1, b"z" * 1000, end=False)]


def test_a_call_that_is_too_large_takes_no_slot() -> None:
    client = wire.ready_client()
    with pytest.raises(ArgumentError, match="4096"):
        client.call(Kind.UNARY, call(size=LIMITS.max_message))
    assert (client.busy_slots, client.can_call) == (0, True)
    assert not client.send_queue
    assert client.call(Kind.UNARY, call()) == 1


@pytest.mark.parametrize("side", ["client", "server"])
def test_no_call_is_made_after_a_goaway_of_either_side(side: str) -> None:
    client, _ = connected()
    if side == "client":
        client.goaway(Code.OK, 0, "bye")
    else:
        client.receive(GOAWAY)
    assert not client.can_call
    with pytest.raises(LocalProtocolError):
        client.call(Kind.UNARY, call())


# ---------------------------------------------------------------------------- client: cancelling


def test_a_cancelled_call_is_busy_until_its_terminal_frame() -> None:
    client, server = called()
    assert client.cancel(1)
    assert carry(client, server) == [ev.CancelReceived(1, Code.CANCELLED)]
    assert (client.busy_slots, server.busy_slots) == (1, 1)
    server.error(1, error(Code.CANCELLED))
    (event,) = carry(server, client)
    assert code_and_text(event)[0] == Code.CANCELLED
    assert (client.busy_slots, server.busy_slots) == (0, 0)


def test_a_result_may_win_the_race_against_a_cancel() -> None:
    client, server = called()
    server.result(1, value())
    client.cancel(1)
    answer = wire.take_all(server)
    assert carry(client, server) == []
    assert client.receive(answer) == [ev.ResultReceived(1, payload(value()))]
    assert (server.late_frames, server.busy_slots, client.busy_slots) == (1, 0, 0)


def test_cancelling_again_is_allowed() -> None:
    client, server = called()
    for _ in range(3):
        client.cancel(1)
    assert carry(client, server) == [ev.CancelReceived(1, Code.CANCELLED)] * 3


def test_a_repeated_cancel_is_counted() -> None:
    client, server = called(Kind.STREAM)
    for code, idle in ((Code.CLOSE, 0), (Code.CANCELLED, 1), (Code.CANCELLED, 2)):
        client.cancel(1, code)
        assert carry(client, server) == [ev.CancelReceived(1, code)]
        assert server.no_op_frames == idle
    server.error(1, error())
    carry(server, client)
    client.call(Kind.UNARY, call())
    client.cancel(1)
    carry(client, server)
    assert server.no_op_frames == 2  # the next call's first


def test_cancelling_an_unsent_call_withdraws_it() -> None:
    client, server = connected()
    client.call(Kind.STREAM, call(Kind.STREAM, LARGE))
    client.data(1, b"x")
    assert not client.cancel(1)
    assert (client.busy_slots, client.can_call) == (0, True)
    assert client._budget.left == LIMITS.max_total_window
    assert not client.send_queue
    assert client.call(Kind.UNARY, call()) == 1
    assert [type(event) for event in carry(client, server)] == [ev.CallReceived]


def test_cancelling_a_small_queued_call_does_not_withdraw_it() -> None:
    """It is already among the urgent frames; the server receives it together with its CANCEL."""
    client, server = connected()
    client.call(Kind.UNARY, call())
    assert client.cancel(1)
    events = carry(client, server)
    assert [type(event) for event in events] == [ev.CallReceived, ev.CancelReceived]


@ONE_FRAME_AT_A_TIME
def test_cancelling_a_partly_sent_call_prevents_its_start() -> None:
    client, server = connected()
    client.call(Kind.UNARY, call(size=LARGE))
    assert carry_one(client, server) == []
    assert client.cancel(1)
    assert carry(client, server) == []
    assert (client.busy_slots, server.busy_slots, server._pending_bytes) == (1, 1, 0)
    (event,) = carry(server, client)
    assert code_and_text(event) == (Code.CANCELLED, "cancelled before it was started")
    assert (client.busy_slots, server.busy_slots) == (0, 0)
    client.call(Kind.UNARY, call(size=LARGE))
    assert [type(event) for event in carry(client, server)] == [ev.CallReceived]


@ONE_FRAME_AT_A_TIME
@pytest.mark.parametrize("frames_left", [0, 1])
def test_cancel_overtakes_and_drops_queued_frames(frames_left: int) -> None:
    client, _ = called(Kind.STREAM)
    client.receive(frame(T.CREDIT, 1, encode_credit(4000)))
    client.data(1, bytes(LARGE), end=True)
    for _ in range(frames_left):
        wire.take(client)
    assert client.cancel(1)
    assert client.busy_slots == 1
    (cancel,) = wire.sent(client)
    assert cancel == Frame(T.CANCEL, 0, 1, encode_cancel(Code.CANCELLED))


@ONE_FRAME_AT_A_TIME
def test_close_follows_all_queued_data() -> None:
    client, server = called(Kind.STREAM)
    client.receive(frame(T.CREDIT, 1, encode_credit(4000)))
    server._slots[1].receiving.available += 4000  # type: ignore[union-attr]
    client.data(1, bytes(LARGE), end=True)
    assert client.cancel(1, Code.CLOSE)
    *data, close = carry(client, server)
    assert b"".join(event.data for event in data if isinstance(event, ev.DataReceived)) == bytes(
        LARGE
    )
    assert close == ev.CancelReceived(1, Code.CLOSE)


def test_a_terminal_frame_makes_the_client_drop_unsent_data() -> None:
    client, server = called(Kind.STREAM)
    client.receive(frame(T.CREDIT, 1, encode_credit(4000)))
    client.data(1, bytes(LARGE))
    client.receive(frame(T.DATA, 1, bytes(600)))
    client.consume(1, 600)
    server.result(1, value())
    carry(server, client)
    assert not client.send_queue


# ------------------------------------------------------------------------------ server: answering


def test_a_slot_is_busy_until_its_terminal_frame_is_written() -> None:
    _, server = called()
    server.result(1, value())
    assert server.busy_slots == 1
    wire.take(server)
    assert server.busy_slots == 0
    (event,) = server.receive(frame(T.CALL, 1, payload(call())))
    assert isinstance(event, ev.CallReceived)


@ONE_FRAME_AT_A_TIME
@pytest.mark.parametrize("answer", ["RESULT", "ERROR"])
def test_a_slot_is_busy_until_the_last_frame_of_its_answer_is_written(answer: str) -> None:
    _, server = called()
    if answer == "RESULT":
        server.result(1, value(bytes(LARGE)))
    else:
        server.error(1, error(text="x" * LARGE))
    busy = []
    while server.send_queue:
        wire.take(server)
        busy.append(server.busy_slots)
    assert busy == [1, 1, 0]


def test_a_client_that_does_not_read_has_at_most_one_answer_for_each_slot() -> None:
    server = wire.ready_server()
    for slot in (1, 2, 3):
        server.receive(frame(T.CALL, slot, payload(call(Kind.STREAM))))
        server.result(slot, value())
    for _ in range(1000):
        for type_, content in ((T.DATA, b"x"), (T.CANCEL, encode_cancel(1))):
            assert server.receive(frame(type_, 2, content)) == []
    assert server.late_frames == 2000
    assert [found.type for found in wire.sent(server)] == [T.RESULT] * 3


def test_calls_that_cross_a_goaway_are_rejected_and_earlier_ones_continue() -> None:
    client, server = called()
    server.goaway(Code.OK, 0, "bye")
    client.call(Kind.UNARY, call())
    assert carry(client, server) == []
    _, event = carry(server, client)
    assert isinstance(event, ev.ErrorReceived)
    assert event.slot == 2
    assert code_and_text(event)[0] == Code.REFUSED
    assert carry(client, server) == [ev.GoawayAcked()]
    server.result(1, value())
    assert carry(server, client) == [ev.ResultReceived(1, payload(value()))]


def test_calls_after_a_goaway_are_rejected_with_the_reason_that_was_set() -> None:
    client, server = connected()
    server.goaway(Code.OK, 0, "bye")
    for reason in (server.refusal, "the session was ended"):
        server.refusal = reason
        client.call(Kind.UNARY, call())
        carry(client, server)
    *_, first, second = carry(server, client)
    assert isinstance(first, ev.ErrorReceived)
    assert isinstance(second, ev.ErrorReceived)
    assert "shutting down" in code_and_text(first)[1]
    assert code_and_text(second) == (Code.REFUSED, "the session was ended")


@ONE_FRAME_AT_A_TIME
def test_a_call_in_parts_that_crosses_a_goaway_is_rejected_when_complete() -> None:
    client, server = connected()
    client.call(Kind.UNARY, call(size=LARGE))
    carry_one(client, server)
    server.goaway(Code.OK, 0, "bye")
    carry(server, client)
    assert carry(client, server) == [ev.GoawayAcked()]
    (event,) = carry(server, client)
    assert code_and_text(event)[0] == Code.REFUSED


def test_a_malformed_call_fails_only_itself() -> None:
    server = wire.ready_server()
    for slot, nonsense in ((1, b""), (2, payload(call())[:-4]), (3, b"\xff" * 20)):
        assert server.receive(frame(T.CALL, slot, nonsense)) == []
    answers = wire.sent(server)
    assert [answer.slot for answer in answers] == [1, 2, 3]
    for answer in answers:
        assert (
            code_and_text(ev.ErrorReceived(answer.slot, answer.payload))[0] == Code.INVALID_ARGUMENT
        )
    assert (server.failure, server.busy_slots) == (None, 0)


@pytest.mark.parametrize("slot", [4, 5, 2**32 - 1])
def test_a_call_on_a_slot_that_does_not_exist_is_a_breach(slot: int) -> None:
    server = wire.ready_server()
    assert wire.failure(server.receive(frame(T.CALL, slot, payload(call())))) == 32


def test_a_result_that_is_too_large_leaves_the_call_open() -> None:
    client, server = called()
    with pytest.raises(ArgumentError, match="4096"):
        server.result(1, value(bytes(LIMITS.max_message)))
    server.error(1, error(Code.INTERNAL, "too large"))
    (event,) = carry(server, client)
    assert code_and_text(event) == (Code.INTERNAL, "too large")


def test_an_error_that_is_too_large_is_sent_shortened() -> None:
    client, server = called()
    server.error(1, encode_error(Code.OS_ERROR, ErrorBody("E", "x" * LIMITS.max_message)))
    (event,) = carry(server, client)
    code, text = code_and_text(event)
    assert code == Code.OS_ERROR
    assert "4096" in text


@ONE_FRAME_AT_A_TIME
@pytest.mark.parametrize("frames_left", [0, 1, 2])
def test_cancel_interrupts_a_large_result(frames_left: int) -> None:
    client, server = called()
    server.result(1, value(bytes(LARGE)))
    for _ in range(frames_left):
        carry_one(server, client)
    client.cancel(1)
    carry(client, server)
    (event,) = carry(server, client)
    assert code_and_text(event) == (Code.CANCELLED, "cancelled as its result was sent")
    assert (client.busy_slots, server.busy_slots, client._pending_bytes) == (0, 0, 0)


@ONE_FRAME_AT_A_TIME
def test_close_does_not_interrupt_a_large_result_of_a_stream() -> None:
    client, server = called(Kind.STREAM)
    server.result(1, value(bytes(LARGE)))
    client.cancel(1, Code.CLOSE)
    carry(client, server)
    (event,) = carry(server, client)
    assert isinstance(event, ev.ResultReceived)


# -------------------------------------------------------------------- server: items, streams, ends


def test_items_are_sent_while_there_is_credit_for_any_part_of_them() -> None:
    client, server = called(Kind.GENERATOR)
    server.item(1, value(bytes(900 - ITEM_COST)))
    assert server.sendable(1) > 0
    server.item(1, value(bytes(LARGE)))
    assert server.sendable(1) == 0
    with pytest.raises(LocalProtocolError):
        server.item(1, value())
    first, second = carry(server, client)
    assert isinstance(first, ev.ItemReceived)
    assert isinstance(second, ev.ItemReceived)
    client.consume(1, first.cost)
    client.consume(1, second.cost)
    assert carry(client, server) == [ev.CreditReceived(1)]
    # All used credit, and the window's growth: once at half a window, once for the rest.
    assert server.sendable(1) == client._slots[1].receiving.available > 1000  # type: ignore[union-attr]


def test_an_item_that_is_too_large_costs_nothing() -> None:
    _, server = called(Kind.GENERATOR)
    with pytest.raises(ArgumentError, match="4096"):
        server.item(1, value(bytes(LIMITS.max_message)))
    assert server.sendable(1) == LIMITS.stream_window
    assert not server.send_queue


@ONE_FRAME_AT_A_TIME
def test_items_their_end_and_credit_keep_their_order() -> None:
    client, server = called(Kind.GENERATOR)
    server.item(1, value(bytes(900 - ITEM_COST)))
    server.item(1, value(bytes(LARGE)))
    server.result(1, value())
    events = carry(server, client)
    assert [type(event) for event in events] == [
        ev.ItemReceived,
        ev.ItemReceived,
        ev.ResultReceived,
    ]


@ONE_FRAME_AT_A_TIME
def test_an_error_interrupts_an_abandoned_item() -> None:
    client, server = called(Kind.GENERATOR)
    server.item(1, value(bytes(LARGE)))
    assert carry_one(server, client) == []
    server.abandon(1)
    server.error(1, error(Code.CANCELLED))
    (event,) = carry(server, client)
    assert code_and_text(event)[0] == Code.CANCELLED
    assert client._pending_bytes == 0


def test_a_stream_carries_bytes_both_ways_and_each_half_ends_alone() -> None:
    client, server = called(Kind.STREAM)
    server.accept(1, value({"a": 1}))
    client.data(1, b"to the server", end=True)
    server.data(1, b"to the client")
    assert carry(client, server) == [ev.DataReceived(1, b"to the server", end=True)]
    assert carry(server, client) == [
        ev.AcceptReceived(1, payload(value({"a": 1}))),
        ev.DataReceived(1, b"to the client", end=False),
    ]
    server.data(1, b"", end=True)
    server.result(1, value())
    assert carry(server, client) == [
        ev.DataReceived(1, b"", end=True),
        ev.ResultReceived(1, payload(value())),
    ]


def test_a_streams_metadata_fits_the_smallest_frame() -> None:
    client, server = called(Kind.STREAM)
    with pytest.raises(ArgumentError, match=str(MIN_WIRE_FRAME)):
        server.accept(1, value(bytes(MIN_WIRE_FRAME)))
    assert not server.send_queue
    most = value(bytes(MIN_WIRE_FRAME - 3))
    assert len(payload(most)) == MIN_WIRE_FRAME
    server.accept(1, bytearray(most))
    assert carry(server, client) == [ev.AcceptReceived(1, payload(most))]


@pytest.mark.parametrize("end", ["result", "error"])
def test_no_credit_follows_a_terminal_frame(end: str) -> None:
    client, server = called(Kind.STREAM)
    server.receive(frame(T.DATA, 1, bytes(600)))
    assert server.consume(1, 600)
    if end == "result":
        server.result(1, value())
    else:
        server.error(1, error())
    assert len(carry(server, client)) == 1
    assert client.failure is None


@ONE_FRAME_AT_A_TIME
def test_withdrawing_data_restores_the_credit_of_unsent_bytes_only() -> None:
    client, server = called(Kind.STREAM)
    client.receive(frame(T.CREDIT, 1, encode_credit(4000)))
    server._slots[1].receiving.available += 4000  # type: ignore[union-attr]
    client.data(1, bytes(LARGE))
    carry_one(client, server)
    client.withdraw(1)
    assert client.sendable(1) == 5000 - 1024
    client.data(1, b"next")
    assert carry(client, server) == [ev.DataReceived(1, b"next", end=False)]
    client.withdraw(1)
    assert client.sendable(1) == 5000 - 1024 - 4


@ONE_FRAME_AT_A_TIME
def test_an_end_is_withdrawn_with_the_bytes_before_it_and_never_sent() -> None:
    client, _ = called(Kind.STREAM)
    client.receive(frame(T.CREDIT, 1, encode_credit(4000)))
    client.data(1, bytes(LARGE), end=True)
    client.withdraw(1)
    assert not client.send_queue
    with pytest.raises(LocalProtocolError):
        client.data(1, b"", end=True)


def test_a_generator_has_nothing_to_withdraw() -> None:
    _, server = called(Kind.GENERATOR)
    server.item(1, value())
    server.withdraw(1)
    assert [found.type for found in wire.sent(server)] == [T.ITEM]


# -------------------------------------------------------------------------------- misused verbs

VERBS: Final[dict[str, Callable[..., object]]] = {
    "sendable": lambda rules: rules.sendable(1),
    "data": lambda rules: rules.data(1, b"x"),
    "end": lambda rules: rules.data(1, b"", end=True),
    "withdraw": lambda rules: rules.withdraw(1),
    "consume": lambda rules: rules.consume(1, 0),
    "cancel": lambda rules: rules.cancel(1),
    "close": lambda rules: rules.cancel(1, Code.CLOSE),
    "item": lambda rules: rules.item(1, value()),
    "accept": lambda rules: rules.accept(1, value()),
    "abandon": lambda rules: rules.abandon(1),
    "result": lambda rules: rules.result(1, value()),
    "error": lambda rules: rules.error(1, error()),
}
OF_BOTH: Final = ("sendable", "data", "end", "withdraw", "consume")
OF_A_CLIENT: Final = (*OF_BOTH, "cancel", "close")
OF_A_SERVER: Final = (*OF_BOTH, "item", "accept", "abandon", "result", "error")


def client_after(kind: Kind, *verbs: str, received: bytes = b"") -> ClientProtocol:
    client, _ = called(kind)
    prepare(client, verbs, received)
    return client


def server_after(kind: Kind, *verbs: str, received: bytes = b"") -> ServerProtocol:
    _, server = called(kind)
    prepare(server, verbs, received)
    return server


def prepare(rules: BaseProtocol, verbs: tuple[str, ...], received: bytes) -> None:
    rules.receive(received)
    for verb in verbs:
        VERBS[verb](rules)


def opening() -> ServerProtocol:
    server = wire.ready_server()
    server.receive(frame(T.CALL, 1, payload(call()), MORE))
    return server


# The verbs that each state allows; any other verb raises LocalProtocolError.
MAY: Final[dict[str, tuple[Callable[[], BaseProtocol], str]]] = {
    "client: never used": (wire.ready_client, ""),
    "client: unary": (lambda: client_after(Kind.UNARY), "sendable cancel close"),
    "client: generator": (lambda: client_after(Kind.GENERATOR), "sendable consume cancel close"),
    "client: stream": (
        lambda: client_after(Kind.STREAM),
        "sendable data end withdraw consume cancel close",
    ),
    "client: stream, ended": (
        lambda: client_after(Kind.STREAM, "end"),
        "sendable withdraw consume cancel close",
    ),
    "client: free": (
        lambda: client_after(Kind.STREAM, received=frame(T.RESULT, 1, b"\xc0")),
        "",
    ),
    "server: never used": (wire.ready_server, ""),
    "server: CALL half come": (opening, ""),
    "server: unary": (lambda: server_after(Kind.UNARY), "sendable abandon result error"),
    "server: generator": (
        lambda: server_after(Kind.GENERATOR),
        "sendable withdraw item abandon result error",
    ),
    "server: stream": (
        lambda: server_after(Kind.STREAM),
        "sendable data end withdraw consume accept abandon result error",
    ),
    "server: stream, accepted": (
        lambda: server_after(Kind.STREAM, "accept"),
        "sendable data end withdraw consume abandon result error",
    ),
    "server: stream, ended": (
        lambda: server_after(Kind.STREAM, "end"),
        "sendable withdraw consume accept abandon result error",
    ),
    "server: stream, abandoned": (
        lambda: server_after(Kind.STREAM, "abandon"),
        "sendable withdraw abandon error",
    ),
    "server: answered": (lambda: server_after(Kind.STREAM, "result"), ""),
    "server: failed call": (lambda: server_after(Kind.STREAM, "error"), ""),
}


@pytest.mark.parametrize("state", MAY)
def test_every_verb_in_every_state_of_a_slot(state: str) -> None:
    make, may = MAY[state]
    verbs = OF_A_CLIENT if state.startswith("client") else OF_A_SERVER
    refused = []
    for verb in verbs:
        rules = make()
        wire.take_all(rules)
        try:
            VERBS[verb](rules)
        except LocalProtocolError:
            refused.append(verb)
            assert not rules.send_queue
    assert [verb for verb in verbs if verb not in refused] == sorted(
        may.split(), key=verbs.index
    ), refused


@pytest.mark.parametrize("role", ["client", "server"])
def test_sending_data_beyond_the_credit_raises(role: str) -> None:
    client, server = called(Kind.STREAM)
    rules: BaseProtocol = client if role == "client" else server
    with pytest.raises(LocalProtocolError, match="1001"):
        rules.data(1, bytes(1001))
    rules.data(1, bytes(1000))
    with pytest.raises(LocalProtocolError):
        rules.data(1, b"x")
    rules.data(1, b"", end=True)


@pytest.mark.parametrize("role", ["client", "server"])
def test_sending_data_without_bytes_or_end_raises(role: str) -> None:
    """The peer would count it as a breach."""
    client, server = called(Kind.STREAM)
    with pytest.raises(LocalProtocolError):
        (client if role == "client" else server).data(1, b"")


def test_a_server_cannot_answer_a_missing_or_answered_hello() -> None:
    for server in (ServerProtocol(LIMITS), wire.ready_server()):
        with pytest.raises(LocalProtocolError):
            server.admit(Hello.of(LIMITS))
        with pytest.raises(LocalProtocolError):
            server.refuse(Code.UNAUTHENTICATED, "not you")
        assert server.failure is None
        assert not server.send_queue


def test_no_call_can_be_made_before_the_hello() -> None:
    client = ClientProtocol(LIMITS, Hello.of(LIMITS))
    assert not client.can_call
    with pytest.raises(LocalProtocolError):
        client.call(Kind.UNARY, call())
