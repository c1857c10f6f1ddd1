"""Tests of the rules that both sides of a connection share: every frame in every state.

Each cell of the tables has the effect of one frame. A cell is one of these:

    .  a breach: PROTOCOL_ERROR        F  a breach: FLOW_CONTROL       0  ignored
    -  accepted without an event      ~  late: dropped and counted    !  answered with an ERROR
    p  answered with a PONG

or the letter of the event that it causes, see `EVENTS`. In the columns `+` is the flag MORE, `|` is
END and `?` is ACK.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import wire
from jumpstarter._framing import HEADER_SIZE
from jumpstarter._limits import MIN_WIRE_FRAME, Limits
from jumpstarter._protocol import events as ev
from jumpstarter._protocol.base import BaseProtocol
from jumpstarter._protocol.client import ClientProtocol
from jumpstarter._protocol.codec import encode_cancel, encode_credit, encode_goaway, encode_hello
from jumpstarter._protocol.flow_control import GRANTS, ITEM_COST
from jumpstarter._protocol.frames import VERSION, Flag, FrameType, Goaway, Hello, Kind
from jumpstarter._protocol.server import ServerProtocol
from jumpstarter.errors import Code, LocalProtocolError, RemoteProtocolError
from wire import LIMITS, Frame, call, error, failure, frame, payload, value

T = FrameType
NONE, END, MORE, ACK = Flag.NONE, Flag.END, Flag.MORE, Flag.ACK
CALL_PAYLOAD: Final = payload(call())
GOAWAY_PAYLOAD: Final = encode_goaway(Goaway(Code.OK, 0, "bye"))
LARGE: Final = 3000  # bytes: a message of three frames

COLUMNS: Final = {
    "CALL": (T.CALL, NONE),
    "CALL+": (T.CALL, MORE),
    "RESULT": (T.RESULT, NONE),
    "RESULT+": (T.RESULT, MORE),
    "ERROR": (T.ERROR, NONE),
    "ERROR+": (T.ERROR, MORE),
    "ITEM": (T.ITEM, NONE),
    "ITEM+": (T.ITEM, MORE),
    "ACCEPT": (T.ACCEPT, NONE),
    "DATA": (T.DATA, NONE),
    "DATA|": (T.DATA, END),
    "CREDIT": (T.CREDIT, NONE),
    "CANCEL": (T.CANCEL, NONE),
}
OF_THE_CONNECTION: Final = {
    "HELLO": (T.HELLO, NONE),
    "PING": (T.PING, NONE),
    "PING?": (T.PING, ACK),
    "GOAWAY": (T.GOAWAY, NONE),
    "GOAWAY?": (T.GOAWAY, ACK),
}
WHEN_READY: Final[dict[tuple[FrameType, int], str]] = dict(
    zip(OF_THE_CONNECTION.values(), ".pPGg", strict=True)
)
PAYLOADS: Final = {
    T.HELLO: encode_hello(Hello.of(LIMITS)),
    T.CALL: CALL_PAYLOAD,
    T.RESULT: b"\xc0",
    T.ERROR: payload(error()),
    T.ITEM: b"\xc0",
    T.ACCEPT: b"\xc0",
    T.DATA: b"x",
    T.CREDIT: encode_credit(1),
    T.CANCEL: encode_cancel(Code.CANCELLED),
    T.PING: b"12345678",
    T.GOAWAY: GOAWAY_PAYLOAD,
}
HELLO_FRAME: Final = frame(T.HELLO, 0, PAYLOADS[T.HELLO])
EVENTS: Final = {
    ev.HelloReceived: "H",
    ev.CallReceived: "K",
    ev.ResultReceived: "R",
    ev.ErrorReceived: "E",
    ev.ItemReceived: "I",
    ev.AcceptReceived: "A",
    ev.DataReceived: "D",  # and "d" with END
    ev.CreditReceived: "C",
    ev.CancelReceived: "c",
    ev.MessageDropped: "m",
    ev.PongReceived: "P",
    ev.GoawayReceived: "G",
    ev.GoawayAcked: "g",
}
BREACHES: Final = {Code.PROTOCOL_ERROR: ".", Code.FLOW_CONTROL: "F", Code.FRAME_SIZE: "S"}


@pytest.fixture
def one_frame_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limit a batch to the urgent frames and one frame of a large message, not 64 KiB."""
    monkeypatch.setattr("jumpstarter._protocol.send_queue.BATCH_SIZE", 1)


# ----------------------------------------------------------------------- every state of a slot


def client_called(kind: Kind, *received: bytes) -> ClientProtocol:
    """Return a client that has sent a CALL on slot 1, and then received these frames."""
    rules = wire.ready_client()
    rules.call(kind, call(kind))
    wire.take_all(rules)
    for data in received:
        rules.receive(data)
    wire.take_all(rules)
    return rules


def client_calling(kind: Kind, *, begun: bool) -> ClientProtocol:
    """Return a client that has sent nothing, or the first frame, of a large CALL."""
    rules = wire.ready_client()
    rules.call(kind, call(kind, LARGE))
    if begun:
        wire.take(rules)
    return rules


def client_cancelled(rules: ClientProtocol) -> ClientProtocol:
    rules.cancel(1)
    wire.take_all(rules)
    return rules


def server_called(kind: Kind, *received: bytes) -> ServerProtocol:
    """Return a server with a call on slot 1 that has then received these frames."""
    rules = wire.ready_server()
    for data in (frame(T.CALL, 1, payload(call(kind))), *received):
        rules.receive(data)
    return rules


def server_calling(*pending: bytes) -> ServerProtocol:
    """Return a server that has received these frames, and then a part of a CALL on slot 1."""
    rules = wire.ready_server()
    for data in (*pending, frame(T.CALL, 1, CALL_PAYLOAD, MORE)):
        rules.receive(data)
    return rules


def server_answered(size: int, *, batches: int) -> ServerProtocol:
    """Return a server with a queued RESULT on slot 1, of which some batches were taken."""
    rules = server_called(Kind.UNARY)
    rules.result(1, value(bytes(size)))
    for _ in range(batches):
        wire.take(rules)
    return rules


def spent(type_: FrameType) -> bytes:
    """Return a frame that uses all the credit of a new slot."""
    cost = ITEM_COST if type_ is T.ITEM else 0
    return frame(type_, 1, bytes(LIMITS.stream_window - cost))


FULL: Final = tuple(frame(T.CALL, slot, bytes(1000), MORE) for slot in (2, 2, 2, 3, 3, 3))
STATES: Final[dict[str, Callable[[], BaseProtocol]]] = {
    "client: never used": wire.ready_client,
    "client: unary": lambda: client_called(Kind.UNARY),
    "client: unary, CALL waits": lambda: client_calling(Kind.UNARY, begun=False),
    "client: unary, CALL half sent": lambda: client_calling(Kind.UNARY, begun=True),
    "client: unary, CALL cut by CANCEL": lambda: client_cancelled(
        client_calling(Kind.UNARY, begun=True)
    ),
    "client: unary, cancelled": lambda: client_cancelled(client_called(Kind.UNARY)),
    "client: unary, RESULT half come": lambda: client_called(
        Kind.UNARY, frame(T.RESULT, 1, b"x", MORE)
    ),
    "client: unary, ERROR half come": lambda: client_called(
        Kind.UNARY, frame(T.ERROR, 1, b"x", MORE)
    ),
    "client: unary, RESULT cut by ERROR": lambda: client_called(
        Kind.UNARY, frame(T.RESULT, 1, b"x", MORE), frame(T.ERROR, 1, b"x", MORE)
    ),
    "client: generator": lambda: client_called(Kind.GENERATOR),
    "client: generator, cancelled": lambda: client_cancelled(client_called(Kind.GENERATOR)),
    "client: generator, ITEM come": lambda: client_called(Kind.GENERATOR, frame(T.ITEM, 1, b"x")),
    "client: generator, ITEM half come": lambda: client_called(
        Kind.GENERATOR, frame(T.ITEM, 1, b"x", MORE)
    ),
    "client: generator, ITEM complete": lambda: client_called(
        Kind.GENERATOR, frame(T.ITEM, 1, b"x", MORE), frame(T.ITEM, 1, b"x")
    ),
    "client: generator, no credit": lambda: client_called(Kind.GENERATOR, spent(T.ITEM)),
    "client: generator, RESULT half come": lambda: client_called(
        Kind.GENERATOR, frame(T.RESULT, 1, b"x", MORE)
    ),
    "client: generator, ERROR half come": lambda: client_called(
        Kind.GENERATOR, frame(T.ERROR, 1, b"x", MORE)
    ),
    "client: stream": lambda: client_called(Kind.STREAM),
    "client: stream, CALL half sent": lambda: client_calling(Kind.STREAM, begun=True),
    "client: stream, cancelled": lambda: client_cancelled(client_called(Kind.STREAM)),
    "client: stream, accepted": lambda: client_called(Kind.STREAM, frame(T.ACCEPT, 1)),
    "client: stream, peer's half ended": lambda: client_called(
        Kind.STREAM, frame(T.DATA, 1, b"", END)
    ),
    "client: stream, no credit": lambda: client_called(Kind.STREAM, spent(T.DATA)),
    "client: stream, RESULT half come": lambda: client_called(
        Kind.STREAM, frame(T.RESULT, 1, b"x", MORE)
    ),
    "client: free": lambda: client_called(Kind.STREAM, frame(T.RESULT, 1, b"\xc0")),
    "server: never used": wire.ready_server,
    "server: CALL half come": server_calling,
    "server: CALL half come, too much pending": lambda: server_calling(*FULL),
    "server: unary": lambda: server_called(Kind.UNARY),
    "server: unary, cancelled": lambda: server_called(
        Kind.UNARY, frame(T.CANCEL, 1, encode_cancel(Code.CANCELLED))
    ),
    "server: generator": lambda: server_called(Kind.GENERATOR),
    "server: stream": lambda: server_called(Kind.STREAM),
    "server: stream, peer's half ended": lambda: server_called(
        Kind.STREAM, frame(T.DATA, 1, b"", END)
    ),
    "server: stream, no credit": lambda: server_called(Kind.STREAM, spent(T.DATA)),
    "server: stream, closed by CANCEL": lambda: server_called(
        Kind.STREAM, frame(T.CANCEL, 1, encode_cancel(Code.CLOSE))
    ),
    "server: answered, nothing left": lambda: server_answered(0, batches=0),
    "server: answered, large, nothing left": lambda: server_answered(LARGE, batches=0),
    "server: answered, large, half left": lambda: server_answered(LARGE, batches=1),
    "server: free": lambda: server_answered(0, batches=1),
}
SLOT_TABLE: Final = """
state                                CALL CALL+ RESULT RESULT+ ERROR ERROR+ ITEM ITEM+ ACCEPT DATA DATA| CREDIT CANCEL
client: never used                    .     .     .       .      .     .     .     .      .     .    .     .      .
client: unary                         .     .     R       -      E     -     .     .      .     .    .     .      .
client: unary, CALL waits             .     .     .       .      .     .     .     .      .     .    .     .      .
client: unary, CALL half sent         .     .     .       .      .     .     .     .      .     .    .     .      .
client: unary, CALL cut by CANCEL     .     .     R       -      E     -     .     .      .     .    .     .      .
client: unary, cancelled              .     .     R       -      E     -     .     .      .     .    .     .      .
client: unary, RESULT half come       .     .     R       -      E     -     .     .      .     .    .     .      .
client: unary, ERROR half come        .     .     .       .      E     -     .     .      .     .    .     .      .
client: unary, RESULT cut by ERROR    .     .     .       .      E     -     .     .      .     .    .     .      .
client: generator                     .     .     R       -      E     -     I     -      .     .    .     .      .
client: generator, cancelled          .     .     R       -      E     -     I     -      .     .    .     .      .
client: generator, ITEM come          .     .     R       -      E     -     I     -      .     .    .     .      .
client: generator, ITEM half come     .     .     .       .      E     -     I     -      .     .    .     .      .
client: generator, ITEM complete      .     .     R       -      E     -     I     -      .     .    .     .      .
client: generator, no credit          .     .     R       -      E     -     F     F      .     .    .     .      .
client: generator, RESULT half come   .     .     R       -      E     -     .     .      .     .    .     .      .
client: generator, ERROR half come    .     .     .       .      E     -     .     .      .     .    .     .      .
client: stream                        .     .     R       -      E     -     .     .      A     D    d     C      .
client: stream, CALL half sent        .     .     .       .      .     .     .     .      A     D    d     C      .
client: stream, cancelled             .     .     R       -      E     -     .     .      A     D    d     C      .
client: stream, accepted              .     .     R       -      E     -     .     .      .     D    d     C      .
client: stream, peer's half ended     .     .     R       -      E     -     .     .      A     .    .     C      .
client: stream, no credit             .     .     R       -      E     -     .     .      A     F    F     C      .
client: stream, RESULT half come      .     .     R       -      E     -     .     .      .     .    .     .      .
client: free                          .     .     .       .      .     .     .     .      .     .    .     .      .
server: never used                    K     -     .       .      .     .     .     .      .     .    .     .      .
server: CALL half come                K     -     .       .      .     .     .     .      .     .    .     .      !
server: CALL half come, too much pending !  -     .       .      .     .     .     .      .     .    .     .      !
server: unary                         .     .     .       .      .     .     .     .      .     .    .     .      c
server: unary, cancelled              .     .     .       .      .     .     .     .      .     .    .     .      c
server: generator                     .     .     .       .      .     .     .     .      .     .    .     C      c
server: stream                        .     .     .       .      .     .     .     .      .     D    d     C      c
server: stream, peer's half ended     .     .     .       .      .     .     .     .      .     .    .     C      c
server: stream, no credit             .     .     .       .      .     .     .     .      .     F    F     C      c
server: stream, closed by CANCEL      .     .     .       .      .     .     .     .      .     D    d     C      c
server: answered, nothing left        .     .     .       .      .     .     .     .      .     ~    ~     ~      ~
server: answered, large, nothing left .     .     .       .      .     .     .     .      .     ~    ~     ~      ~
server: answered, large, half left    .     .     .       .      .     .     .     .      .     ~    ~     ~      ~
server: free                          K     -     .       .      .     .     .     .      .     ~    ~     ~      ~
"""  # noqa: E501 - one state, one line


def rows(table: str, columns: int) -> dict[str, list[str]]:
    """Read a table: the last words of a line are its cells, and the text before them its name."""
    lines = [line.split() for line in table.strip().splitlines()[1:]]
    return {" ".join(words[:-columns]): words[-columns:] for words in lines}


def outcome(rules: BaseProtocol, data: bytes) -> str:
    """Return the symbol for the effect of these bytes."""
    was_late, had_failed = rules.late_frames, rules.failure is not None
    events = rules.receive(data)
    if had_failed:
        return "" if events else "0"
    if not events:
        if rules.late_frames > was_late:
            return "~"
        answers = [(answer.type, answer.flags) for answer in wire.sent(rules)]
        return "!" if (T.ERROR, NONE) in answers else "p" if (T.PING, ACK) in answers else "-"
    (event,) = events
    if isinstance(event, ev.ConnectionFailed):
        return BREACHES[event.error.code]
    return "d" if isinstance(event, ev.DataReceived) and event.end else EVENTS[type(event)]


FLAG_SETS: Final = [e | m | a for e in (0, END) for m in (0, MORE) for a in (0, ACK)]


def cells(row: list[str]) -> Iterator[tuple[FrameType, int, int, str]]:
    """Yield every type with every set of flags, on the connection and on slot 1, and its cell."""
    expected: dict[tuple[FrameType, int], str] = dict(zip(COLUMNS.values(), row, strict=True))
    for type_, flags in itertools.product(FrameType, FLAG_SETS):
        yield type_, flags, 0, WHEN_READY.get((type_, flags), ".")
        yield type_, flags, 1, expected.get((type_, flags), ".")


@pytest.mark.usefixtures("one_frame_at_a_time")
@pytest.mark.parametrize(("state", "row"), rows(SLOT_TABLE, len(COLUMNS)).items())
def test_every_frame_in_every_state_of_a_slot(state: str, row: list[str]) -> None:
    for type_, flags, slot, cell in cells(row):
        rules = STATES[state]()
        assert rules.failure is None
        got = outcome(rules, frame(type_, slot, PAYLOADS[type_], flags))
        assert got == cell, f"{type_.name} with flags {flags:#x} on id {slot}"


def test_the_table_has_every_state() -> None:
    assert list(rows(SLOT_TABLE, len(COLUMNS))) == list(STATES)


# ------------------------------------------------------------------- every state of a connection


def client_failed() -> ClientProtocol:
    rules = wire.ready_client()
    rules.receive(frame(T.CALL, 1))
    return rules


def server_asked() -> ServerProtocol:
    """Return a server that has received the client's HELLO and has not answered."""
    rules = ServerProtocol(LIMITS)
    rules.receive(HELLO_FRAME)
    return rules


def server_failed() -> ServerProtocol:
    rules = server_asked()
    rules.refuse(Code.UNAUTHENTICATED, "not you")
    return rules


PHASES: Final[dict[str, Callable[[], BaseProtocol]]] = {
    "client: sent HELLO": lambda: ClientProtocol(LIMITS, Hello.of(LIMITS)),
    "client: ready": wire.ready_client,
    "client: failed": client_failed,
    "server: waits for HELLO": lambda: ServerProtocol(LIMITS),
    "server: has HELLO, to be answered": server_asked,
    "server: ready": wire.ready_server,
    "server: failed": server_failed,
}
PHASE_TABLE: Final = """
phase                              HELLO PING PING? GOAWAY GOAWAY? CALL CALL+ RESULT RESULT+ ERROR ERROR+ ITEM ITEM+ ACCEPT DATA DATA| CREDIT CANCEL
client: sent HELLO                   H    .     .     G       g     .     .      .      .      .     .     .     .     .      .    .     .      .
client: ready                        .    p     P     G       g     .     .      .      .      .     .     .     .     .      .    .     .      .
client: failed                       0    0     0     0       0     0     0      0      0      0     0     0     0     0      0    0     0      0
server: waits for HELLO              H    .     .     G       g     .     .      .      .      .     .     .     .     .      .    .     .      .
server: has HELLO, to be answered    .    .     .     .       .     .     .      .      .      .     .     .     .     .      .    .     .      .
server: ready                        .    p     P     G       g     K     -      .      .      .     .     .     .     .      .    .     .      .
server: failed                       0    0     0     0       0     0     0      0      0      0     0     0     0     0      0    0     0      0
"""  # noqa: E501 - one phase, one line


@pytest.mark.parametrize(
    ("phase", "row"), rows(PHASE_TABLE, len(OF_THE_CONNECTION) + len(COLUMNS)).items()
)
def test_every_frame_in_every_phase_of_a_connection(phase: str, row: list[str]) -> None:
    """Other flags and classes of id than the table has are breaches, and ignored after one."""
    listed = [(0, *column) for column in OF_THE_CONNECTION.values()]
    listed += [(1, *column) for column in COLUMNS.values()]
    expected: dict[tuple[int, int, int], str] = dict(zip(listed, row, strict=True))
    otherwise = "0" if phase.endswith("failed") else "."
    for slot, type_, flags in itertools.product((0, 1), FrameType, FLAG_SETS):
        got = outcome(PHASES[phase](), frame(type_, slot, PAYLOADS[type_], flags))
        cell = expected.get((slot, type_, flags), otherwise)
        assert got == cell, f"{type_.name} with flags {flags:#x} on id {slot}"


def test_the_table_has_every_phase() -> None:
    assert list(rows(PHASE_TABLE, len(OF_THE_CONNECTION) + len(COLUMNS))) == list(PHASES)


# --------------------------------------------------------------------------------------- HELLO


def test_a_client_sends_hello_immediately_and_a_server_on_admission() -> None:
    client = ClientProtocol(LIMITS, Hello.of(LIMITS, agent="client"))
    server = ServerProtocol(LIMITS)
    assert not server.send_queue
    assert wire.carry(client, server) == [ev.HelloReceived(Hello.of(LIMITS, agent="client"))]
    assert not server.send_queue
    server.admit(Hello.of(LIMITS, agent="server"))
    assert wire.carry(server, client) == [ev.HelloReceived(Hello.of(LIMITS, agent="server"))]
    assert client.can_call
    assert (client.failure, server.failure) == (None, None)


def test_a_rejected_client_receives_only_the_reason() -> None:
    server = server_asked()
    server.refuse(Code.UNAUTHENTICATED, "not you")
    (goaway,) = wire.sent(server)
    assert goaway.type is T.GOAWAY
    client = ClientProtocol(LIMITS, Hello.of(LIMITS))
    events = client.receive(frame(*goaway[::2], goaway.payload))
    assert events == [ev.GoawayReceived(Goaway(Code.UNAUTHENTICATED, 0, "not you"))]
    assert client.peer is None
    assert not client.can_call


@pytest.mark.parametrize("verb", ["admit", "refuse"])
def test_a_breach_directly_after_the_hello_leaves_nothing_to_answer(verb: str) -> None:
    server = ServerProtocol(LIMITS)
    events = server.receive(HELLO_FRAME + frame(T.CALL, 1))
    assert [type(event) for event in events] == [ev.HelloReceived, ev.ConnectionFailed]
    if verb == "admit":
        server.admit(Hello.of(LIMITS))
    else:
        server.refuse(Code.UNAUTHENTICATED, "not you")
    (goaway,) = wire.sent(server)
    assert goaway.type is T.GOAWAY
    assert goaway.payload.startswith(Code.PROTOCOL_ERROR.to_bytes(2, "little"))


def hello_with(**changes: int) -> bytes:
    hello = Hello.of(LIMITS, token="shibboleth")  # noqa: S106 - the test looks for it in the errors
    return frame(T.HELLO, 0, encode_hello(msgspec.structs.replace(hello, **changes)))


@pytest.mark.parametrize(
    "changes",
    [
        {"max_frame": 1023},
        {"max_frame": 2**20 + 1, "max_message": 2**21},
        {"max_message": 1023},
        {"max_calls": 0},
        {"max_calls": 65536},
        {"stream_window": 0},
        {"stream_window": 2**31},
    ],
    ids=str,
)
def test_a_hello_with_limits_out_of_range_is_a_breach(changes: dict[str, int]) -> None:
    for rules in (ClientProtocol(LIMITS, Hello.of(LIMITS)), ServerProtocol(LIMITS)):
        events = rules.receive(hello_with(**changes))
        assert failure(events) is Code.PROTOCOL_ERROR
        for name, number in changes.items():
            assert f"{name} {number}" in str(rules.failure)
        assert "shibboleth" not in str(rules.failure)


@pytest.mark.parametrize(
    "changes",
    [
        {"max_frame": 2**20, "max_message": 2**20},
        {"max_message": 1024},
        {"max_message": 2**32 - 1},
        {"max_calls": 65535},
        {"stream_window": 2**31 - 1},
        {"ping_ms": 2**32 - 1},
    ],
    ids=str,
)
def test_a_hello_with_limits_at_the_edge_is_accepted(changes: dict[str, int]) -> None:
    for rules in (ClientProtocol(LIMITS, Hello.of(LIMITS)), ServerProtocol(LIMITS)):
        (event,) = rules.receive(hello_with(**changes))
        assert isinstance(event, ev.HelloReceived)


def test_another_major_version_is_rejected_with_both_numbers() -> None:
    rules = ServerProtocol(LIMITS)
    hello = Hello(
        max_frame=0, max_message=0, max_calls=0, stream_window=0, ping_ms=0, version=(2, 7)
    )
    assert failure(rules.receive(frame(T.HELLO, 0, encode_hello(hello)))) is Code.VERSION
    (goaway,) = wire.sent(rules)
    assert b"2.7" in goaway.payload
    assert b"{}.{}".replace(b"{}", b"%d") % VERSION in goaway.payload


def test_another_minor_version_is_accepted() -> None:
    payload = bytearray(PAYLOADS[T.HELLO])
    payload[5] = VERSION[1] + 1
    (event,) = ServerProtocol(LIMITS).receive(frame(T.HELLO, 0, bytes(payload)))
    assert isinstance(event, ev.HelloReceived)
    assert event.hello.version == (VERSION[0], VERSION[1] + 1)


@pytest.mark.parametrize(
    "payload",
    [b"", PAYLOADS[T.HELLO][:20], b"HTTP" + PAYLOADS[T.HELLO][4:], PAYLOADS[T.HELLO] + b"\xc1"],
    ids=["empty", "cut short", "another magic", "broken map"],
)
def test_a_malformed_hello_is_a_breach(payload: bytes) -> None:
    assert failure(ServerProtocol(LIMITS).receive(frame(T.HELLO, 0, payload))) == 32


def test_a_hello_of_several_small_frames_size_is_one_frame() -> None:
    token = "t" * 3000
    client = ClientProtocol(LIMITS, Hello.of(LIMITS, token=token))
    server = ServerProtocol(LIMITS)
    assert wire.carry(client, server) == [ev.HelloReceived(Hello.of(LIMITS, token=token))]
    server.admit(Hello.of(LIMITS, agent="a" * 3000))
    assert wire.carry(server, client) == [ev.HelloReceived(Hello.of(LIMITS, agent="a" * 3000))]


def test_a_frame_may_be_as_large_as_the_limit_of_its_phase() -> None:
    rules = ServerProtocol(LIMITS)
    header = frame(T.HELLO, 0, bytes(LIMITS.max_hello + 1))[:HEADER_SIZE]
    assert failure(rules.receive(header)) is Code.FRAME_SIZE
    rules = wire.ready_server()
    assert rules.receive(frame(T.CALL, 1, bytes(LIMITS.max_frame), MORE)) == []
    header = frame(T.CALL, 1, bytes(LIMITS.max_frame + 1), MORE)[:HEADER_SIZE]
    assert failure(rules.receive(header)) is Code.FRAME_SIZE


# ------------------------------------------------------------------------------ PING and GOAWAY

BOTH_READY: Final = pytest.mark.parametrize(
    "ready", [wire.ready_client, wire.ready_server], ids=["client", "server"]
)


@BOTH_READY
def test_a_flood_of_pings_is_answered_once_with_the_latest(
    ready: Callable[[], BaseProtocol],
) -> None:
    rules = ready()
    for n in range(1000):
        assert rules.receive(frame(T.PING, 0, n.to_bytes(8, "big"))) == []
    assert wire.sent(rules) == [Frame(T.PING, ACK, 0, (999).to_bytes(8, "big"))]
    assert not rules.send_queue


@BOTH_READY
def test_the_answer_to_a_ping_is_reported(ready: Callable[[], BaseProtocol]) -> None:
    rules = ready()
    rules.ping(b"are you?")
    assert wire.sent(rules) == [Frame(T.PING, NONE, 0, b"are you?")]
    assert rules.receive(frame(T.PING, 0, b"are you?", ACK)) == [ev.PongReceived(b"are you?")]


@BOTH_READY
@pytest.mark.parametrize("flags", [NONE, ACK])
@pytest.mark.parametrize("size", [0, 7, 9])
def test_a_ping_has_eight_bytes(ready: Callable[[], BaseProtocol], size: int, flags: int) -> None:
    assert failure(ready().receive(frame(T.PING, 0, bytes(size), flags))) is Code.PROTOCOL_ERROR


@BOTH_READY
def test_a_flood_of_goaways_is_acked_once(ready: Callable[[], BaseProtocol]) -> None:
    rules = ready()
    for _ in range(1000):
        events = rules.receive(frame(T.GOAWAY, 0, GOAWAY_PAYLOAD))
        assert events == [ev.GoawayReceived(Goaway(Code.OK, 0, "bye"))]
    assert rules.going_away
    assert wire.sent(rules) == [Frame(T.GOAWAY, ACK, 0, b"")]
    assert not rules.send_queue


def test_a_goaway_instead_of_a_hello_is_not_acked() -> None:
    for rules in (ClientProtocol(LIMITS, Hello.of(LIMITS)), ServerProtocol(LIMITS)):
        wire.take_all(rules)
        rules.receive(frame(T.GOAWAY, 0, GOAWAY_PAYLOAD))
        assert not rules.send_queue


@BOTH_READY
@pytest.mark.parametrize("payload", [b"", bytes(5), bytes(6 + 1025 - 8)], ids=len)
def test_a_goaway_needs_a_code_and_a_grace_but_no_text(
    ready: Callable[[], BaseProtocol], payload: bytes
) -> None:
    rules = ready()
    events = rules.receive(frame(T.GOAWAY, 0, payload))
    if len(payload) < 6:
        assert failure(events) is Code.PROTOCOL_ERROR
    else:
        assert events == [ev.GoawayReceived(Goaway(0, 0, "\0" * (len(payload) - 6)))]


@BOTH_READY
def test_goaway_carries_code_grace_and_text(ready: Callable[[], BaseProtocol]) -> None:
    rules = ready()
    rules.goaway(Code.OK, 1500, "maintenance")
    (goaway,) = wire.sent(rules)
    other = wire.ready_client() if isinstance(rules, ServerProtocol) else wire.ready_server()
    events = other.receive(frame(T.GOAWAY, 0, goaway.payload))
    assert events == [ev.GoawayReceived(Goaway(Code.OK, 1500, "maintenance"))]
    assert wire.carry(other, rules) == [ev.GoawayAcked()]


@BOTH_READY
def test_a_goaway_with_a_long_text_fits_the_smallest_frame(
    ready: Callable[[], BaseProtocol],
) -> None:
    rules = ready()
    rules.goaway(Code.OK, 0, "\u00e4" * 5000)
    (goaway,) = wire.sent(rules)
    assert len(goaway.payload) == MIN_WIRE_FRAME


@pytest.mark.usefixtures("one_frame_at_a_time")
def test_the_ack_of_a_goaway_follows_the_first_frame_of_every_call() -> None:
    client = wire.ready_client()
    for _ in range(3):
        client.call(Kind.UNARY, call(size=LARGE))
    client.receive(frame(T.GOAWAY, 0, GOAWAY_PAYLOAD))
    order = [(found.type, found.slot) for found in wire.sent(client)]
    ack = order.index((T.GOAWAY, 0))
    assert {slot for type_, slot in order[:ack]} == {1, 2, 3}


# ---------------------------------------------------------------------------------- large messages

MESSAGES: Final = {
    T.CALL: 0,
    T.RESULT: 0,
    T.ERROR: 0,
    T.ITEM: ITEM_COST,
}  # and the fixed cost of each


def receiver(type_: FrameType) -> BaseProtocol:
    """Return the side that receives such messages; a client has an open call on each slot."""
    if type_ is T.CALL:
        return wire.ready_server()
    rules = wire.ready_client()
    for _ in range(LIMITS.max_calls):
        rules.call(Kind.GENERATOR, call(Kind.GENERATOR))
    wire.take_all(rules)
    return rules


def parts(type_: FrameType, slot: int, message: bytes, size: int = 1000) -> list[bytes]:
    """Split a message into frames."""
    pieces = [message[start : start + size] for start in range(0, len(message), size)] or [b""]
    flags = [MORE] * (len(pieces) - 1) + [NONE]
    return [frame(type_, slot, piece, flag) for piece, flag in zip(pieces, flags, strict=True)]


def of_length(type_: FrameType, length: int) -> bytes:
    """Return a message of this type and length."""
    head = {T.CALL: CALL_PAYLOAD, T.ERROR: PAYLOADS[T.ERROR]}.get(type_, b"")
    return head + bytes(length - len(head))


def body_of(event: ev.Event) -> bytes:
    """Return the message of an event, for a CALL without its head."""
    assert isinstance(
        event, ev.CallReceived | ev.ResultReceived | ev.ErrorReceived | ev.ItemReceived
    )
    return event.body if isinstance(event.body, bytes) else event.body.join()


@pytest.mark.parametrize("type_", MESSAGES)
@given(data=st.data())
def test_messages_split_and_interleaved_in_any_way_arrive_whole(
    type_: FrameType, data: st.DataObject
) -> None:
    """Send one message on each of three slots, in parts of any size, in any order of slots."""
    rules = receiver(type_)
    shortest = {T.CALL: len(CALL_PAYLOAD), T.ERROR: len(PAYLOADS[T.ERROR])}.get(type_, 0)
    messages = {}
    queues = []
    for slot in (1, 2, 3):
        length = data.draw(st.integers(shortest, 2000))
        messages[slot] = of_length(type_, length) + bytes([slot])
        size = data.draw(st.integers(length // 5 + 1, 1024))
        queues.append(parts(type_, slot, messages[slot], size))
    bodies = {}
    while queues := [queue for queue in queues if queue]:
        for event in rules.receive(data.draw(st.sampled_from(queues)).pop(0)):
            assert isinstance(
                event, ev.CallReceived | ev.ResultReceived | ev.ErrorReceived | ev.ItemReceived
            )
            bodies[event.slot] = body_of(event)
    assert bodies.keys() == {1, 2, 3}
    assert all(messages[slot].endswith(bodies[slot]) for slot in bodies)
    if type_ is not T.CALL:
        assert bodies == messages
    large = [len(each) for each in messages.values() if len(each) > LIMITS.max_frame]
    unanswered = sum(large) if type_ is T.CALL else 0
    assert rules._pending_bytes == unanswered


@pytest.mark.parametrize("type_", MESSAGES)
def test_an_empty_part_is_a_breach_unless_it_is_the_last(type_: FrameType) -> None:
    for before in (b"", frame(type_, 1, of_length(type_, 50), MORE)):
        rules = receiver(type_)
        rules.receive(before)
        assert failure(rules.receive(frame(type_, 1, b"", MORE))) is Code.PROTOCOL_ERROR
    rules = receiver(type_)
    rules.receive(frame(type_, 1, of_length(type_, 50), MORE))
    (event,) = rules.receive(frame(type_, 1))
    assert of_length(type_, 50).endswith(body_of(event))


@pytest.mark.parametrize("type_", MESSAGES)
def test_a_message_may_be_as_large_as_max_message_and_no_larger(type_: FrameType) -> None:
    rules = receiver(type_)
    *first, last = parts(type_, 1, of_length(type_, LIMITS.max_message))
    assert rules.receive(b"".join(first)) == []
    (event,) = rules.receive(last)
    assert of_length(type_, LIMITS.max_message).endswith(body_of(event))
    rules = receiver(type_)
    *first, last = parts(type_, 1, of_length(type_, LIMITS.max_message + 1))
    assert rules.receive(b"".join(first)) == []
    assert failure(rules.receive(last)) is Code.FRAME_SIZE


def fill(rules: BaseProtocol, type_: FrameType) -> None:
    """Fill the buffer with parts of two messages, so that 999 bytes are left for slot 1."""
    for slot, size in ((2, 4000), (3, 1001)):
        for start in range(0, size, 1000):
            part = of_length(type_, 1000)[: size - start]
            assert rules.receive(frame(type_, slot, part, MORE)) == []
    assert rules._pending_bytes == LIMITS.max_pending - 999


@pytest.mark.parametrize("type_", [T.RESULT, T.ERROR, T.ITEM])
def test_a_message_beyond_max_pending_is_dropped_and_others_continue(type_: FrameType) -> None:
    rules = receiver(type_)
    fill(rules, type_)
    *first, last = parts(type_, 1, of_length(type_, 2000), 500)
    assert rules.receive(b"".join(first)) == []
    assert rules._pending_bytes == LIMITS.max_pending - 999  # the received parts were released
    (event,) = rules.receive(last)
    assert isinstance(event, ev.MessageDropped)
    assert (event.slot, event.terminal) == (1, type_ is not T.ITEM)
    assert f"{LIMITS.max_pending} bytes" in event.reason
    assert rules.busy_slots == (3 if type_ is T.ITEM else 2)
    for slot in (2, 3):
        (event,) = rules.receive(frame(type_, slot, b"x"))
        assert body_of(event).endswith(b"x")
    assert rules._pending_bytes == 0


def test_a_call_beyond_max_pending_is_rejected_and_others_continue() -> None:
    rules = wire.ready_server()
    fill(rules, T.CALL)
    *first, last = parts(T.CALL, 1, of_length(T.CALL, 2000), 500)
    assert rules.receive(b"".join(first)) == []
    assert not rules.send_queue  # the answer waits for the last part, so that no frame crosses it
    assert rules.receive(last) == []
    (answer,) = wire.sent(rules)
    assert (answer.type, answer.slot) == (T.ERROR, 1)
    assert answer.payload.startswith(Code.RESOURCE_EXHAUSTED.to_bytes(2, "little"))
    for slot in (2, 3):
        (event,) = rules.receive(frame(T.CALL, slot, b"x"))
        assert isinstance(event, ev.CallReceived)
    assert rules._pending_bytes == 4001  # the larger of the two, until the call is answered


def test_an_unanswered_call_counts_towards_max_pending() -> None:
    rules = wire.ready_server()
    size = LIMITS.max_pending // 2
    for slot, expected in ((1, ev.CallReceived), (2, ev.CallReceived), (3, type(None))):
        received = rules.receive(b"".join(parts(T.CALL, slot, of_length(T.CALL, size - 10))))
        assert type(received[0] if received else None) is expected
    (refused,) = wire.sent(rules)
    assert (refused.type, refused.slot) == (T.ERROR, 3)
    assert refused.payload.startswith(Code.RESOURCE_EXHAUSTED.to_bytes(2, "little"))
    rules.result(1, wire.value())  # queuing the answer releases the arguments
    (event,) = rules.receive(b"".join(parts(T.CALL, 3, of_length(T.CALL, size - 10))))
    assert isinstance(event, ev.CallReceived)
    for slot in (2, 3):
        rules.error(slot, wire.error())
    assert rules._pending_bytes == 0


def test_a_call_in_one_frame_never_exceeds_max_pending() -> None:
    """A call that switches a device off is not delayed by the transfer of images."""
    rules = wire.ready_server()
    fill(rules, T.CALL)
    (event,) = rules.receive(frame(T.CALL, 1, of_length(T.CALL, LIMITS.max_frame)))
    assert isinstance(event, ev.CallReceived)
    assert rules._pending_bytes == LIMITS.max_pending - 999


def test_dropping_a_message_ends_with_its_last_frame() -> None:
    rules = wire.ready_server()
    fill(rules, T.CALL)
    part = frame(T.CALL, 1, bytes(1000), MORE)
    for _ in range(LIMITS.max_message // 1000):
        assert rules.receive(part) == []
    assert failure(rules.receive(part)) is Code.FRAME_SIZE


# --- turns: a bounded number of frames in each step ---


@given(most=st.integers(1, 12), cuts=st.lists(st.integers(1, 60), max_size=8))
def test_handling_frames_in_turns_gives_the_same_events(most: int, cuts: list[int]) -> None:
    whole = b"".join(frame(T.PING, 0, bytes([n]) * 8, ACK) for n in range(20))
    rules = wire.ready_server()
    events: list[ev.Event] = []
    for start, end in itertools.pairwise([0, *itertools.accumulate(cuts), len(whole)]):
        events += rules.receive(whole[start:end], most)
        while rules.unprocessed:
            turn = rules.receive(b"", most)
            assert 0 < len(turn) <= most
            events += turn
    assert events == wire.ready_server().receive(whole)


def test_bytes_may_arrive_while_frames_are_unprocessed() -> None:
    rules = wire.ready_server()
    pings = [frame(T.PING, 0, bytes([n]) * 8, ACK) for n in range(5)]
    assert rules.receive(b"".join(pings[:3]), 1) == [ev.PongReceived(bytes(8))]
    assert rules.receive(pings[3] + pings[4], 2) == [
        ev.PongReceived(bytes([n]) * 8) for n in (1, 2)
    ]
    assert rules.unprocessed
    assert len(rules.receive(b"")) == 2
    assert not rules.unprocessed


def test_a_bad_header_fails_only_after_the_frames_before_it_are_handled() -> None:
    rules = wire.ready_server()
    good = frame(T.PING, 0, bytes(8), ACK)
    assert rules.receive(good * 2 + b"\xff" * 8, 1) == [ev.PongReceived(bytes(8))]
    assert rules.failure is None
    pong, failed = rules.receive(b"", 1)
    assert (type(pong), type(failed)) == (ev.PongReceived, ev.ConnectionFailed)
    assert rules.receive(b"") == []


def test_a_breach_drops_the_unprocessed_frames() -> None:
    rules = wire.ready_server()
    bad = frame(T.DATA, 1, b"never opened")
    assert failure(rules.receive(bad + frame(T.PING, 0, bytes(8)) * 3, 1)) is Code.PROTOCOL_ERROR
    assert not rules.unprocessed
    assert rules.control_frames == 0


# --- counters and failures for the caller's timeouts and rate limits ---


def test_the_caller_can_fail_the_connection_on_a_timeout() -> None:
    rules = wire.ready_client()
    slot = rules.call(Kind.UNARY, wire.call())
    event = rules.fail(RemoteProtocolError("far too many", Code.TOO_MANY_FRAMES))
    assert event.error is rules.failure
    (last,) = wire.sent(rules)
    assert last.type is T.GOAWAY
    assert rules.receive(frame(T.RESULT, slot, b"\xc0")) == []


def test_an_unfinished_frame_or_message_is_reported() -> None:
    rules = wire.ready_server()
    whole = frame(T.CALL, 1, of_length(T.CALL, 100), MORE)
    unfinished = []
    for data in (b"", whole[:1], whole[1:], frame(T.CALL, 1, b"x")):
        rules.receive(data)
        unfinished.append(rules.unfinished)
    assert unfinished == [False, True, True, False]


@pytest.mark.parametrize(
    ("sent", "control_frames", "no_op_frames"),
    [
        (frame(T.PING, 0, bytes(8)), 1, 0),
        (frame(T.GOAWAY, 0, bytes(6)), 1, 0),
        (frame(T.PING, 0, bytes(8), ACK), 0, 1),
        (frame(T.GOAWAY, 0, b"", ACK), 0, 1),
        (frame(T.CALL, 1, bytes(1023), MORE), 0, 1),
        (frame(T.CALL, 1, bytes(1024), MORE), 0, 0),
        (frame(T.CALL, 1, CALL_PAYLOAD), 0, 0),
    ],
    ids=["PING", "GOAWAY", "pong", "GOAWAY's ACK", "a small part", "a part", "a CALL"],
)
def test_frames_that_cause_work_without_effect_are_counted(
    sent: bytes, control_frames: int, no_op_frames: int
) -> None:
    rules = wire.ready_server()
    rules.receive(sent)
    assert (rules.control_frames, rules.no_op_frames, rules.late_frames) == (
        control_frames,
        no_op_frames,
        0,
    )


@pytest.mark.parametrize("kind", [Kind.GENERATOR, Kind.STREAM])
def test_ten_credit_frames_are_allowed_for_each_sent_frame(kind: Kind) -> None:
    rules = wire.ready_server()
    rules.receive(frame(T.CALL, 1, wire.payload(wire.call(kind))))
    credit = frame(T.CREDIT, 1, encode_credit(1))
    for sent in (0, 1):
        for _ in range(GRANTS * (sent or 1)):
            assert rules.receive(credit) == [ev.CreditReceived(1)]
        if not sent and kind is Kind.STREAM:
            rules.data(1, b"x")
        elif not sent:
            rules.item(1, wire.value())
    assert failure(rules.receive(credit)) is Code.TOO_MANY_FRAMES


def test_a_large_message_counts_as_the_frames_it_is_sent_in() -> None:
    limits = dataclasses.replace(LIMITS, stream_window=4000)
    rules = wire.ready_server(limits)
    rules.receive(frame(T.CALL, 1, wire.payload(wire.call(Kind.STREAM))))
    rules.data(1, bytes(3 * LIMITS.max_frame))
    credit = frame(T.CREDIT, 1, encode_credit(1))
    assert len(rules.receive(credit * (GRANTS * 5))) == GRANTS * 5
    assert failure(rules.receive(credit)) is Code.TOO_MANY_FRAMES


def test_the_next_message_of_a_slot_is_received_after_a_dropped_one() -> None:
    """The next message on the slot, complete in one frame, is received."""
    rules: BaseProtocol = wire.ready_server()
    fill(rules, T.CALL)
    for part in parts(T.CALL, 1, of_length(T.CALL, 2000)):
        rules.receive(part)
    wire.take_all(rules)
    (event,) = rules.receive(frame(T.CALL, 1, CALL_PAYLOAD))
    assert isinstance(event, ev.CallReceived)

    rules = receiver(T.ITEM)
    fill(rules, T.ITEM)
    for part in parts(T.ITEM, 1, bytes(2000)):
        rules.receive(part)
    assert rules.receive(frame(T.ITEM, 1, b"x")) == [ev.ItemReceived(1, b"x", 1 + ITEM_COST)]
    assert rules.receive(frame(T.RESULT, 1, b"x")) == [ev.ResultReceived(1, b"x")]


@pytest.mark.parametrize("cut", [T.RESULT, T.ITEM], ids=lambda type_: type_.name)
@pytest.mark.parametrize("pieces", [1, 2], ids=["ERROR whole", "ERROR in parts"])
@pytest.mark.parametrize("full", [False, True], ids=["kept", "being dropped"])
def test_an_error_replaces_a_message_that_is_partly_received(
    cut: FrameType, pieces: int, full: bool
) -> None:
    rules = receiver(cut)
    if full:
        fill(rules, cut)
    pending = rules._pending_bytes
    for part in parts(cut, 1, bytes(3000))[:2]:
        assert rules.receive(part) == []
    body = PAYLOADS[T.ERROR]
    *first, last = parts(T.ERROR, 1, body, len(body) // pieces + 1)
    assert rules.receive(b"".join(first)) == []
    assert rules.receive(last) == [ev.ErrorReceived(1, body)]
    assert rules._pending_bytes == pending
    assert rules.busy_slots == 2


@pytest.mark.parametrize("type_", MESSAGES, ids=lambda type_: type_.name)
def test_unfinished_messages_may_total_max_pending_bytes_and_no_more(
    type_: FrameType,
) -> None:
    for size, dropped in ((999, False), (1000, True)):
        rules = receiver(type_)
        fill(rules, type_)
        whole = of_length(type_, size)
        assert rules.receive(frame(type_, 1, whole[:-1], MORE)) == []
        events = rules.receive(frame(type_, 1, whole[-1:]))
        lost = not events or isinstance(events[0], ev.MessageDropped)
        assert lost is dropped


# ------------------------------------------------------------------------------------------ credit


def stream_receiver(role: str, limits: Limits = LIMITS) -> BaseProtocol:
    """Return one side of an open raw stream on slot 1."""
    rules: BaseProtocol
    if role == "client":
        client = wire.ready_client(limits)
        client.call(Kind.STREAM, call(Kind.STREAM))
        rules = client
    else:
        rules = wire.ready_server(limits)
        rules.receive(frame(T.CALL, 1, payload(call(Kind.STREAM))))
    wire.take_all(rules)
    return rules


BOTH: Final = pytest.mark.parametrize("role", ["client", "server"])


@BOTH
def test_data_may_use_its_credit_completely_and_no_more(role: str) -> None:
    rules = stream_receiver(role)
    for size in (1, 998, 1):
        (event,) = rules.receive(frame(T.DATA, 1, bytes(size)))
        assert event == ev.DataReceived(1, bytes(size), end=False)
    assert failure(rules.receive(frame(T.DATA, 1, b"x"))) is Code.FLOW_CONTROL


@BOTH
def test_the_end_of_a_stream_needs_no_credit(role: str) -> None:
    rules = stream_receiver(role)
    rules.receive(frame(T.DATA, 1, bytes(1000)))
    assert rules.receive(frame(T.DATA, 1, b"", END)) == [ev.DataReceived(1, b"", end=True)]


@BOTH
def test_empty_data_without_an_end_is_a_breach(role: str) -> None:
    assert failure(stream_receiver(role).receive(frame(T.DATA, 1))) is Code.PROTOCOL_ERROR


@BOTH
@pytest.mark.parametrize(
    "payload",
    [b"", bytes(3), bytes(4), bytes(5), encode_credit(2**31 - 1000), encode_credit(2**32 - 1)],
    ids=["empty", "short", "zero", "long", "one too many", "most"],
)
def test_credit_out_of_range_is_a_breach(role: str, payload: bytes) -> None:
    rules = stream_receiver(role)
    assert failure(rules.receive(frame(T.CREDIT, 1, payload))) is Code.FLOW_CONTROL


@BOTH
def test_credit_up_to_the_maximum_sum_is_accepted(role: str) -> None:
    rules = stream_receiver(role)
    events = rules.receive(frame(T.CREDIT, 1, encode_credit(2**31 - 1001)))
    assert events == [ev.CreditReceived(1)]
    assert rules.sendable(1) == 2**31 - 1
    rules.data(1, b"x" * 1000)
    assert rules.sendable(1) == 2**31 - 1001


@BOTH
def test_credit_is_returned_by_half_windows_as_the_application_reads(role: str) -> None:
    rules = stream_receiver(role)
    rules.receive(frame(T.DATA, 1, bytes(1000)))
    assert not rules.consume(1, 499)
    assert not rules.send_queue
    assert rules.consume(1, 1)
    assert wire.sent(rules) == [Frame(T.CREDIT, NONE, 1, encode_credit(500))]
    (event,) = rules.receive(frame(T.DATA, 1, bytes(500)))
    assert isinstance(event, ev.DataReceived)
    assert failure(rules.receive(frame(T.DATA, 1, b"x"))) is Code.FLOW_CONTROL


@BOTH
def test_waiting_credit_is_merged_into_one_frame(role: str) -> None:
    rules = stream_receiver(role)
    rules.receive(frame(T.DATA, 1, bytes(1000)))
    for _ in range(2):
        rules.consume(1, 500)
    (credit,) = wire.sent(rules)
    assert credit.type is T.CREDIT
    # Half a window, then the other half and the window's growth, because the reader keeps up.
    assert credit.payload == encode_credit(500 + 500 + 1000)


def test_an_item_may_overshoot_its_credit_by_one_message() -> None:
    rules = client_called(Kind.GENERATOR, frame(T.ITEM, 1, bytes(1000 - ITEM_COST - 1)))
    message = bytes(4000)
    *first, last = parts(T.ITEM, 1, message)
    assert rules.receive(b"".join(first)) == []
    assert rules.receive(last) == [ev.ItemReceived(1, message, 4000 + ITEM_COST)]
    assert failure(rules.receive(frame(T.ITEM, 1, b""))) is Code.FLOW_CONTROL


def test_credit_for_an_overshoot_counts_from_below_zero() -> None:
    rules = client_called(Kind.GENERATOR, *parts(T.ITEM, 1, bytes(4000)))
    assert rules.consume(1, 4000 + ITEM_COST)
    (credit,) = wire.sent(rules)
    # All credit is returned, and the window grows: 1,000 - 4,064 + 4,064 + 1,000.
    assert credit.payload == encode_credit(4000 + ITEM_COST + 1000)
    rules.receive(frame(T.ITEM, 1, bytes(1000)))
    rules.receive(frame(T.ITEM, 1, bytes(1000)))
    assert failure(rules.receive(frame(T.ITEM, 1, b""))) is Code.FLOW_CONTROL


@BOTH
def test_a_window_that_ends_returns_its_share_of_the_budget(role: str) -> None:
    rules = stream_receiver(role)
    rules.receive(frame(T.DATA, 1, bytes(1000)))
    rules.consume(1, 1000)
    assert rules._budget.left == LIMITS.max_total_window - 2000
    if isinstance(rules, ServerProtocol):
        rules.result(1, value())
    else:
        rules.receive(frame(T.RESULT, 1, b"\xc0"))
    assert rules._budget.left == LIMITS.max_total_window


# ----------------------------------------------------------------------------------------- failure


@BOTH_READY
def test_only_events_before_a_breach_are_reported(
    ready: Callable[[], BaseProtocol],
) -> None:
    rules = ready()
    pong = frame(T.PING, 0, b"12345678", ACK)
    events = rules.receive(pong + frame(T.HELLO, 1) + pong)
    assert [type(event) for event in events] == [ev.PongReceived, ev.ConnectionFailed]
    assert rules.receive(pong) == []
    assert rules.receive(frame(T.HELLO, 1)) == []


@BOTH_READY
@pytest.mark.parametrize(
    ("breach", "code"),
    [
        (frame(T.HELLO, 1), Code.PROTOCOL_ERROR),
        (b"\0\0\0\x0b", Code.PROTOCOL_ERROR),
        (b"\0\0\0\x81", Code.PROTOCOL_ERROR),
        (b"\xff\xff\xff\0", Code.FRAME_SIZE),
    ],
    ids=["a frame", "an unknown type", "an unknown flag", "a length"],
)
def test_a_breach_is_sent_to_the_peer_and_stored(
    ready: Callable[[], BaseProtocol], breach: bytes, code: Code
) -> None:
    rules = ready()
    assert failure(rules.receive(breach)) is code
    assert rules.failure is not None
    assert rules.failure.code is code
    assert rules.going_away
    (goaway,) = wire.sent(rules)
    expected = Goaway(code, 0, str(rules.failure))
    assert goaway == Frame(T.GOAWAY, NONE, 0, encode_goaway(expected))


def test_calls_may_still_be_answered_after_a_breach_but_goaway_is_the_last_frame() -> None:
    rules = server_called(Kind.GENERATOR)
    rules.item(1, value())
    rules.receive(frame(T.HELLO, 1))
    rules.item(1, value())  # the task that sends it has not noticed the failure yet
    rules.result(1, value())
    assert [sent.type for sent in wire.sent(rules)] == [T.GOAWAY]
    assert not rules.send_queue


def test_no_call_can_be_made_after_a_breach() -> None:
    rules = client_failed()
    assert not rules.can_call
    with pytest.raises(LocalProtocolError):
        rules.call(Kind.UNARY, call())


# -------------------------------------------------------------------------------------- any bytes


def behave(rules: BaseProtocol, events: list[ev.Event]) -> None:
    """Act as an application would, as soon as possible, in order to reach many states."""
    for event in events:
        match event:
            case ev.HelloReceived() if isinstance(rules, ServerProtocol):
                rules.admit(Hello.of(LIMITS))
            case ev.HelloReceived() if isinstance(rules, ClientProtocol) and rules.can_call:
                for kind in Kind:
                    rules.call(kind, call(kind))
            case ev.ErrorReceived() if isinstance(rules, ClientProtocol) and rules.can_call:
                rules.call(Kind.UNARY, call(size=LARGE))
            case ev.CallReceived() if isinstance(rules, ServerProtocol):
                answer(rules, event)
            case ev.DataReceived(end=False) if isinstance(rules, ServerProtocol):
                with suppress(LocalProtocolError):
                    rules.consume(event.slot, len(event.data))
            case ev.CancelReceived() | ev.DataReceived() if isinstance(rules, ServerProtocol):
                with suppress(LocalProtocolError):  # an earlier event has ended the call
                    rules.error(event.slot, error())
            case _:
                pass


def answer(rules: ServerProtocol, event: ev.CallReceived) -> None:
    match event.head.kind:
        case Kind.UNARY:
            rules.result(event.slot, value(bytes(len(event.body) // 2)))
        case Kind.GENERATOR:
            rules.item(event.slot, value())
        case Kind.STREAM:
            rules.accept(event.slot, value())
            rules.data(event.slot, b"hello")


def feed(rules: BaseProtocol, pieces: list[bytes], *, writes: bool) -> list[ev.Event]:
    """Receive these bytes, and check the invariants that hold for any bytes.

    If `writes` is true, all queued frames are sent after each piece; otherwise none ever is.
    """
    events: list[ev.Event] = []
    had_failed = rules.failure is not None
    for piece in pieces:
        now = rules.receive(piece)
        behave(rules, now)
        if writes:
            wire.take_all(rules)
        events += now
        assert 0 <= rules.busy_slots <= LIMITS.max_calls
        assert 0 <= rules._pending_bytes <= LIMITS.max_pending
        # The slots bound the memory for a peer: three frames each, a HELLO, a GOAWAY.
        assert len(rules.send_queue._urgent) <= 3 * LIMITS.max_calls + 2
    failed = [isinstance(event, ev.ConnectionFailed) for event in events]
    assert not any(failed[:-1])
    assert any(failed) is (rules.failure is not None and not had_failed)
    return events


def pieces_of(data: st.DataObject, stream: bytes) -> list[bytes]:
    """Cut a stream of bytes at random positions."""
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=8).map(sorted))
    return [stream[a:b] for a, b in itertools.pairwise([0, *cuts, len(stream)])]


@pytest.mark.parametrize("phase", PHASES)
@given(data=st.data())
def test_no_bytes_make_receive_raise(phase: str, data: st.DataObject) -> None:
    pieces = pieces_of(data, data.draw(st.binary(max_size=200)))
    feed(PHASES[phase](), pieces, writes=data.draw(st.booleans()))


payloads: Final = st.one_of(st.sampled_from(list(PAYLOADS.values())), st.binary(max_size=40))
any_frames: Final = st.builds(
    frame,
    st.sampled_from(FrameType),
    st.integers(0, LIMITS.max_calls + 1),
    payloads,
    st.sampled_from([NONE, NONE, END, MORE, ACK]),
)


@st.composite
def likely_frames(draw: st.DrawFn, types: tuple[FrameType, ...]) -> bytes:
    """Draw a frame that is plausible: its payload fits its type, and its flags are defined."""
    type_, flags = draw(
        st.sampled_from([cell for cell in (*COLUMNS.values(), *WHEN_READY) if cell[0] in types])
    )
    slot = 0 if type_ in (T.HELLO, T.PING, T.GOAWAY) else draw(st.integers(1, 3))
    return frame(type_, slot, PAYLOADS[type_], flags)


TO: Final = {
    "client": (T.RESULT, T.ERROR, T.ITEM, T.ACCEPT, T.DATA, T.CREDIT, T.PING, T.GOAWAY),
    "server": (T.CALL, T.DATA, T.CREDIT, T.CANCEL, T.PING, T.GOAWAY),
}


def beginner(role: str) -> BaseProtocol:
    return ServerProtocol(LIMITS) if role == "server" else ClientProtocol(LIMITS, Hello.of(LIMITS))


@BOTH
@given(data=st.data())
def test_no_frames_make_receive_raise(role: str, data: st.DataObject) -> None:
    frames = data.draw(st.lists(likely_frames(TO[role]) | any_frames, max_size=30))
    pieces = [HELLO_FRAME, *pieces_of(data, b"".join(frames))]
    feed(beginner(role), pieces, writes=data.draw(st.booleans()))


@BOTH
@given(data=st.data())
def test_events_do_not_depend_on_how_the_bytes_are_cut(role: str, data: st.DataObject) -> None:
    stream = b"".join(data.draw(st.lists(likely_frames(TO[role]), max_size=20)))
    rules, same = (stream_receiver(role) for _ in range(2))
    whole = rules.receive(stream)
    cut = [event for piece in pieces_of(data, stream) for event in same.receive(piece)]
    assert [repr(event) for event in cut] == [repr(event) for event in whole]


def transcript() -> dict[str, list[bytes]]:
    """Record the frames that each side receives in a conversation with every type of frame."""
    client, server = beginner("client"), beginner("server")
    assert isinstance(client, ClientProtocol)
    assert isinstance(server, ServerProtocol)
    received: dict[str, list[bytes]] = {"client": [], "server": []}

    def exchange() -> None:
        for name, source, target in (("server", client, server), ("client", server, client)):
            data = wire.take_all(source)
            behave(target, target.receive(data))
            received[name] += map(bytes, repack(data))

    for _ in range(4):
        exchange()
    client.data(3, b"x" * 700)
    client.consume(2, ITEM_COST + 1)
    client.ping(b"12345678")
    exchange()
    server.item(2, value(bytes(LARGE)))
    exchange()
    client.data(3, b"", end=True)
    client.consume(2, LARGE)
    for _ in range(3):
        exchange()
    server.goaway(Code.OK, 0, "bye")
    exchange()
    client.cancel(2)
    exchange()
    exchange()
    assert (client.failure, server.failure, client.busy_slots, server.busy_slots) == (
        None,
        None,
        0,
        0,
    )
    return received


def repack(data: bytes) -> list[bytes]:
    return [
        frame(found.type, found.slot, found.payload, found.flags) for found in wire.frames(data)
    ]


TRANSCRIPT: Final = transcript()


@st.composite
def mutations(draw: st.DrawFn, role: str) -> list[bytes]:
    """Omit, repeat, swap or corrupt frames of a valid conversation."""
    frames = list(TRANSCRIPT[role])
    for _ in range(draw(st.integers(1, 4))):
        at, other = (draw(st.integers(0, len(frames) - 1)) for _ in range(2))
        match draw(st.sampled_from(["drop", "repeat", "swap", "spoil", "insert"])):
            case "drop" if len(frames) > 1:
                del frames[at]
            case "repeat":
                frames.insert(other, frames[at])
            case "swap":
                frames[at], frames[other] = frames[other], frames[at]
            case "insert":
                frames.insert(at, draw(likely_frames(TO[role]) | any_frames))
            case _:
                spoiled = bytearray(frames[at])
                spoiled[draw(st.integers(0, min(len(spoiled), 24) - 1))] = draw(st.integers(0, 255))
                frames[at] = bytes(spoiled)
    return frames


def partition(data: st.DataObject, frames: list[bytes]) -> list[list[bytes]]:
    """Join some of the frames, so that they arrive together."""
    together = data.draw(st.integers(1, 3))
    return [frames[at : at + together] for at in range(0, len(frames), together)]


@BOTH
@given(data=st.data())
def test_no_corrupted_conversation_makes_receive_raise(role: str, data: st.DataObject) -> None:
    pieces = [b"".join(piece) for piece in partition(data, data.draw(mutations(role)))]
    feed(beginner(role), pieces, writes=data.draw(st.booleans()))


def test_the_conversation_has_every_type_of_frame() -> None:
    types = {
        role: {wire.frames(data)[0].type for data in frames} for role, frames in TRANSCRIPT.items()
    }
    assert types["client"] == {T.HELLO, *TO["client"]}
    assert types["server"] == {T.HELLO, *TO["server"]}
    for role, frames in TRANSCRIPT.items():
        events = feed(beginner(role), frames, writes=True)
        assert not any(isinstance(event, ev.ConnectionFailed) for event in events)
