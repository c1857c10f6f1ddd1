"""Check the code against the specification: its test vectors, its tables and its examples."""

from __future__ import annotations

import dataclasses
from typing import Final

import msgspec
import pytest

from jumpstarter._framing import HEADER_SIZE, FrameDecoder, pack_frame
from jumpstarter._limits import MAX_WIRE_FRAME
from jumpstarter._protocol import events as ev
from jumpstarter._protocol.codec import decode_goaway, decode_nodes, encode_value
from jumpstarter._protocol.frames import KEYWORDS, NESTED, Flag, FrameType, Kind, Node
from jumpstarter.errors import ERROR_CLASSES, SYSTEM_ERROR_CLASSES, Code
from rehearsal import (
    DECODERS,
    ENCODERS,
    EVENTS,
    LIMITS,
    BaseProtocol,
    Conversation,
    Fields,
    decoded,
    rendered,
)
from specification import (
    EXCHANGES,
    FLAGS,
    TEXT,
    VECTORS,
    Breach,
    Exchange,
    Frame,
    examples,
    table,
    unhex,
    value_of,
)

# -------------------------------------------------------------------------- single frames


def by_name(vector: Frame | Exchange | Breach) -> str:
    return vector.name


WRITTEN: Final = [vector for vector in VECTORS.frames if not vector.read_only]


@pytest.mark.parametrize("vector", WRITTEN, ids=by_name)
def test_each_frame_is_written_as_listed(vector: Frame) -> None:
    payload = ENCODERS[vector.type](vector.fields) if vector.fields else b""
    flags = sum(FLAGS[name] for name in vector.flags)
    written = pack_frame(FrameType[vector.type], flags, vector.id, payload)
    assert written.hex(" ") == unhex(vector.bytes).hex(" ")


@pytest.mark.parametrize("vector", VECTORS.frames, ids=by_name)
def test_each_frame_is_read_as_listed(vector: Frame) -> None:
    [(type_, flags, id_, payload)] = FrameDecoder(MAX_WIRE_FRAME).feed(unhex(vector.bytes))
    assert (FrameType(type_).name, id_) == (vector.type, vector.id)
    assert flags == sum(FLAGS[name] for name in vector.flags)
    if vector.fields:
        fields = DECODERS[vector.type](payload)
        assert repr(fields) == repr(decoded(vector))  # repr: NaN is not NaN
    else:
        assert payload == b""


def test_every_frame_type_and_every_flag_has_a_vector() -> None:
    assert {vector.type for vector in VECTORS.frames} == set(FrameType.__members__)
    assert {flag for vector in VECTORS.frames for flag in vector.flags} == {"END", "ACK"}
    fragments = [b for exchange in VECTORS.exchanges for step in exchange.steps for b in step.bytes]
    assert any(unhex(fragment)[3] & FLAGS["MORE"] for fragment in fragments)


# Interpret the document's byte table of a payload, and compare it with the document's vectors:
# neither can then be wrong without the other.


class Table:
    """Read a payload by the rows of its byte table."""

    def __init__(self, payload: bytes) -> None:
        self.payload = payload
        self.fields: Fields = {}

    def number(self, text: str) -> int:
        return sum(
            int(part) if part.isdecimal() else int(self.fields[part])
            for part in text.replace("`", "").split(" + ")
        )

    def read(self, row: dict[str, str]) -> None:
        start = self.number(row["offset"])
        stop = len(self.payload) if row["size"] == "rest" else start + self.number(row["size"])
        raw = self.payload[start:stop]
        match row["type"]:
            case "u8" | "u16" | "u24" | "u32":
                assert len(raw) * 8 == int(row["type"][1:])
                value: object = int.from_bytes(raw, "little")
            case "utf-8":
                value = raw.decode()
            case "msgpack":
                value = msgspec.msgpack.decode(raw)
            case type_:
                assert type_ == "bytes"
                value = raw
        self.fields[row["field"]] = value


# Fields that a table lists only for the reader: constants, and values derived from other fields.
CONSTANTS: Final = {"magic": b"JMPS", "reserved": 0}


@pytest.mark.parametrize("vector", VECTORS.frames, ids=by_name)
def test_the_byte_tables_read_every_frame(vector: Frame) -> None:
    wire = unhex(vector.bytes)
    header = Table(wire)
    for row in table("Header"):
        header.read(row)
    kind = FrameType[vector.type] | sum(FLAGS[name] for name in vector.flags)
    assert header.fields == {
        "length": len(wire) - HEADER_SIZE,
        "type and flags": kind,
        "id": vector.id,
    }
    if not vector.fields:
        assert len(wire) == HEADER_SIZE
        return
    payload = Table(wire[HEADER_SIZE:])
    for row in table(vector.type):
        payload.read(row)
    expected = {name: value_of(value) for name, value in vector.fields.items()}
    if vector.type in {"DATA", "PING"}:
        expected = decoded(vector)
    for name, constant in CONSTANTS.items():
        assert payload.fields.pop(name, constant) == constant
    payload.fields.pop("name_length", None)
    assert repr(payload.fields) == repr(expected)


# ------------------------------------------------------------------------------ exchanges


@pytest.mark.parametrize("piece", [None, 1, 7])
@pytest.mark.parametrize("exchange", VECTORS.exchanges, ids=by_name)
def test_each_exchange_is_sent_and_received_as_listed(
    exchange: Exchange, piece: int | None
) -> None:
    Conversation(exchange, piece).play()


@pytest.mark.parametrize("piece", [None, 1])
@pytest.mark.parametrize("breach", VECTORS.breaches, ids=by_name)
def test_each_breach_ends_the_connection_with_its_code(breach: Breach, piece: int | None) -> None:
    conversation = Conversation(EXCHANGES.get(breach.after), piece)
    conversation.play()
    rules: BaseProtocol = conversation.client if breach.to == "client" else conversation.server
    *_, last = conversation.feed(rules, unhex(breach.bytes))
    assert rendered(last) == {"event": "failed", "code": breach.code}
    sent = FrameDecoder(MAX_WIRE_FRAME).feed(b"".join(rules.next_batch().buffers))
    [payload] = [rest for *header, rest in sent if header == [FrameType.GOAWAY, 0, 0]]
    goaway = decode_goaway(payload)
    assert goaway is not None
    assert (goaway.code, goaway.grace_ms) == (breach.code, 0)
    assert goaway.text == str(rules.failure)[:1024]
    assert rules.receive(unhex(breach.bytes)) == []


# -------------------------------------------------------------------- the document's tables


def numbered(heading: str, key: str) -> dict[str, int]:
    return {row["name"]: int(row[key], 0) for row in table(heading)}


def test_the_tables_of_numbers_match_the_code() -> None:
    assert numbered("Types", "type") == dict(FrameType.__members__)
    assert numbered("Flags", "bit") == FLAGS == {f.name: f for f in Flag if f}
    assert numbered("Kinds", "value") == dict(Kind.__members__)
    assert numbered("Codes", "code") == dict(Code.__members__)
    assert [int(row["mark"], 0) for row in table("Marks")] == [KEYWORDS, NESTED]


def test_the_table_of_types_has_the_flags_that_are_listed_and_no_other() -> None:
    listed = {(row["name"], row["flags"]) for row in table("Types") if row["flags"]}
    seen = {(v.type, flag) for v in VECTORS.frames for flag in v.flags}
    more = {(name, "MORE") for name in ("CALL", "RESULT", "ERROR", "ITEM")}
    assert listed == seen | more


def test_the_table_of_limits_has_every_limit_and_its_default() -> None:
    listed = {row["limit"]: row["default"].split()[0].replace(",", "") for row in table("Limits")}
    assert {name: float(text) for name, text in listed.items()} == dataclasses.asdict(LIMITS)


def test_the_report_s_table_has_the_fields_of_a_node() -> None:
    assert [row["key"] for row in table("The report")] == list(Node.__struct_fields__)


def test_a_report_is_read_and_written_as_listed() -> None:
    [vector] = [vector for vector in VECTORS.frames if vector.name == "RESULT of report"]
    payload = unhex(vector.bytes)[HEADER_SIZE:]
    nodes = decode_nodes(payload, LIMITS)
    assert (nodes[0].description, nodes[0].methods_description) == ("", {})
    assert nodes[1].description == "The rail of board 7"
    assert nodes[1].methods_description == {"on": "Power board 7"}
    assert (nodes[0].read_only, nodes[1].read_only) == ([], ["read"])
    assert bytes(encode_value(nodes, b"")) == payload


def test_the_table_of_events_has_every_event() -> None:
    listed = [name for row in table("Test vectors") for name in row["event"].split(", ")]
    assert sorted(listed) == sorted(EVENTS.values())


# The exchange that brings a slot into the state of a row of the state tables.
SERVER_SLOTS: Final = {
    "never used": "HELLO",
    "part of a CALL has come": "a large call is under way",
    "open: unary": "a call is under way",
    "open: generator": "a generator is under way",
    "open: raw stream": "a raw stream is open",
    "open: raw stream, the client's half has ended": "a raw stream whose client has ended its half",
    "ended": "a generator's large result is under way",
    "free": "a call that fails",
}
CLIENT_SLOTS: Final = {
    "free": "a call that fails",
    "part of its CALL has left": "a large call is under way",
    "open: unary": "a call is under way",
    "open: generator": "a generator is under way",
    "open: raw stream, not accepted": "a raw stream is being opened",
    "open: raw stream": "a raw stream is open",
    "open: raw stream, the server's half has ended": "a raw stream whose server has ended its half",
    "part of an ITEM has come": "a generator's large item is under way",
    "part of a RESULT has come": "a generator's large result is under way",
    "part of an ERROR has come": "a large error is under way",
}
OF_A_SLOT: Final = [row["name"] for row in table("Types") if row["id"] == "slot"]


def cells(role: str, slots: dict[str, str]) -> list[tuple[str, str, str]]:
    """Return every cell of a state table, and a breach for each column that it omits."""
    rows = table(f"What a frame does to a {role}")
    assert [row["slot"] for row in rows] == list(slots)
    return [
        (slots[row["slot"]], name, row.get(name, "breach")) for row in rows for name in OF_A_SLOT
    ]


def outcome(rules: BaseProtocol, wire: bytes) -> str:
    """Return the state tables' word for the effect of a frame."""
    late = rules.late_frames
    match rules.receive(wire):
        case [ev.ConnectionFailed()]:
            return "breach"
        case [ev.CallReceived()]:
            return "opens"
        case [ev.ResultReceived() | ev.ErrorReceived()]:
            return "ends"
        case [event]:
            return EVENTS[type(event)]
        case rest:
            assert not rest
            return (
                "late" if rules.late_frames > late else "refused" if rules.send_queue else "nothing"
            )


def frame_of(name: str) -> bytes:
    """Return the first vector of this type, in slot 1."""
    wire = next(unhex(vector.bytes) for vector in VECTORS.frames if vector.type == name)
    return wire[:4] + (1).to_bytes(4, "little") + wire[8:]


@pytest.mark.parametrize(("before", "frame", "does"), cells("server", SERVER_SLOTS))
def test_the_server_s_state_table(before: str, frame: str, does: str) -> None:
    conversation = Conversation(EXCHANGES[before])
    conversation.play()
    assert outcome(conversation.server, frame_of(frame)) == does


@pytest.mark.parametrize(("before", "frame", "does"), cells("client", CLIENT_SLOTS))
def test_the_client_s_state_table(before: str, frame: str, does: str) -> None:
    conversation = Conversation(EXCHANGES[before])
    conversation.play()
    assert outcome(conversation.client, frame_of(frame)) == does


@pytest.mark.parametrize(("name", "lines"), examples())
def test_an_example_in_the_text_is_the_vector_of_its_name(name: str, lines: list[str]) -> None:
    shown = [(side, unhex(rest)) for side, _, rest in (line.partition(" ") for line in lines)]
    steps = EXCHANGES[name].steps
    assert shown == [(step.side, unhex(frame)) for step in steps for frame in step.bytes]


def test_the_text_contains_examples() -> None:
    assert len(examples()) == TEXT.count("```vector ") > 0


def test_the_table_of_kinds_has_every_class_that_is_narrower_than_its_code() -> None:
    listed = {
        (ERROR_CLASSES[Code[row["with code"]]], kind.partition(" ")[0])
        for row in table("ERROR", 1)
        for kind in row["kinds"].split(", ")
    }
    assert listed == set(SYSTEM_ERROR_CLASSES)
