"""Replay the wire vectors: convert fields to payloads and back, and play whole exchanges."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec

from jumpstarter._framing import HEADER_SIZE
from jumpstarter._limits import Limits
from jumpstarter._protocol import events as ev
from jumpstarter._protocol.client import ClientProtocol
from jumpstarter._protocol.codec import (
    call_prefix,
    decode_call,
    decode_cancel,
    decode_credit,
    decode_error,
    decode_goaway,
    decode_hello,
    decode_value,
    encode_call,
    encode_cancel,
    encode_credit,
    encode_error,
    encode_goaway,
    encode_hello,
    encode_value,
    set_timeout,
)
from jumpstarter._protocol.frames import KEYWORDS, NESTED, CallHead, ErrorBody, Goaway, Hello, Kind
from jumpstarter._protocol.receive_buffer import ReceiveBuffer
from jumpstarter._protocol.server import ServerProtocol
from jumpstarter.errors import Code
from specification import EXCHANGES, Exchange, Message, Step, unhex, value_of

Fields = dict[str, Any]
BaseProtocol = ClientProtocol | ServerProtocol

LIMITS: Final = Limits()
EVENTS: Final = {
    ev.HelloReceived: "hello",
    ev.CallReceived: "call",
    ev.ResultReceived: "result",
    ev.ErrorReceived: "error",
    ev.ItemReceived: "item",
    ev.AcceptReceived: "accept",
    ev.DataReceived: "data",
    ev.CreditReceived: "credit",
    ev.CancelReceived: "cancel",
    ev.PongReceived: "pong",
    ev.GoawayReceived: "goaway",
    ev.GoawayAcked: "goaway-ack",
    ev.ConnectionFailed: "failed",
}


# ---------------------------------------------------------------- fields to payloads, and back


def hello_of(fields: Fields) -> Hello:
    numbers = ("max_frame", "max_message", "max_calls", "stream_window", "ping_ms")
    return Hello(
        version=(fields["major"], fields["minor"]),
        **{name: fields[name] for name in numbers},
        **fields["about"],
    )


def fields_of_hello(hello: Hello) -> Fields:
    fields = msgspec.structs.asdict(hello)
    major, minor = fields.pop("version")
    about = {name: fields.pop(name) for name in ("agent", "token")}
    if name := fields.pop("name"):
        about["name"] = name
    if fields.pop("exclusive"):
        about["exclusive"] = True
    return {"major": major, "minor": minor, **fields, "about": about}


def kind_of(fields: Fields) -> Kind:
    return Kind(fields["kind"] & ~(KEYWORDS | NESTED))


def call_of(fields: Fields) -> bytearray:
    marks = {"keywords": bool(fields["kind"] & KEYWORDS), "nested": bool(fields["kind"] & NESTED)}
    prefix = call_prefix(fields["target"], kind_of(fields), fields["method"], **marks)
    buffer = encode_call(prefix, tuple(value_of(fields["arguments"])))
    set_timeout(buffer, fields["timeout_ms"])
    return buffer


def fields_of_call(head: CallHead) -> Fields:
    fields = msgspec.structs.asdict(head)
    marks = fields.pop("keywords") * KEYWORDS | fields.pop("nested") * NESTED
    return {**fields, "kind": head.kind | marks}


def decode_call_fields(payload: bytes) -> Fields:
    head, body = decode_call(payload)
    return {**fields_of_call(head), "arguments": decode_value(body, LIMITS)}


def error_of(fields: Fields) -> bytearray:
    body = msgspec.convert(value_of(fields["error"]), ErrorBody)
    return encode_error(fields["code"], body)


def decode_error_fields(payload: bytes) -> Fields:
    code, body = decode_error(payload, LIMITS)
    return {"code": code, "error": body}


def decode_goaway_fields(payload: bytes) -> Fields:
    goaway = decode_goaway(payload)
    assert goaway is not None
    return msgspec.structs.asdict(goaway)


def value_buffer(fields: Fields) -> bytearray:
    return encode_value(value_of(fields["value"]))


def decode_value_field(payload: bytes) -> Fields:
    return {"value": decode_value(payload, LIMITS)}


ENCODERS: Final[dict[str, Callable[[Fields], bytes | bytearray]]] = {
    "HELLO": lambda fields: encode_hello(hello_of(fields)),
    "CALL": lambda fields: call_of(fields)[HEADER_SIZE:],
    "RESULT": lambda fields: value_buffer(fields)[HEADER_SIZE:],
    "ERROR": lambda fields: error_of(fields)[HEADER_SIZE:],
    "ITEM": lambda fields: value_buffer(fields)[HEADER_SIZE:],
    "ACCEPT": lambda fields: value_buffer(fields)[HEADER_SIZE:],
    "DATA": lambda fields: unhex(fields["data"]),
    "CREDIT": lambda fields: encode_credit(fields["delta"]),
    "CANCEL": lambda fields: encode_cancel(fields["code"]),
    "PING": lambda fields: unhex(fields["opaque"]),
    "GOAWAY": lambda fields: encode_goaway(Goaway(**fields)),
}
DECODERS: Final[dict[str, Callable[[bytes], Fields]]] = {
    "HELLO": lambda payload: fields_of_hello(decode_hello(payload)),
    "CALL": decode_call_fields,
    "RESULT": decode_value_field,
    "ERROR": decode_error_fields,
    "ITEM": decode_value_field,
    "ACCEPT": decode_value_field,
    "DATA": lambda payload: {"data": payload},
    "CREDIT": lambda payload: {"delta": decode_credit(payload)},
    "CANCEL": lambda payload: {"code": decode_cancel(payload)},
    "PING": lambda payload: {"opaque": payload},
    "GOAWAY": decode_goaway_fields,
}


def decoded(message: Message) -> Fields:
    """Return a vector's fields in the form that the decoders return."""
    fields = {name: value_of(value) for name, value in message.fields.items()}
    match message.type:
        case "HELLO":
            about = fields["about"]
            known = {key: about.get(key, "") for key in ("agent", "token")}
            fields["about"] = known | {
                key: about[key] for key in ("name", "exclusive") if key in about
            }
        case "ERROR":
            fields["error"] = msgspec.convert(fields["error"], ErrorBody)
        case "DATA" | "PING":
            fields = {name: unhex(value) for name, value in fields.items()}
    return fields


# ------------------------------------------------------------------------------ exchanges


class Conversation:
    """A client and a server protocol that send and receive the steps of an exchange."""

    def __init__(self, exchange: Exchange | None, piece: int | None = None) -> None:
        self.steps = [] if exchange is None else list(_steps_of(exchange))
        self.piece = piece  # bytes per delivery; None for a whole step
        hellos = {
            step.side: message.fields
            for step in self.steps
            for message in step.says
            if message.type == "HELLO"
        }
        hello = hello_of(hellos["client"]) if hellos else Hello.of(LIMITS)
        self.client = ClientProtocol(_limits_of(hellos.get("client")), hello)
        self.server = ServerProtocol(_limits_of(hellos.get("server")))

    def play(self) -> None:
        """Run all steps, and check that each side sends and receives exactly as listed."""
        crossing: tuple[Step, bytes] | None = None
        for step in self.steps:
            wire = self._send(step)
            if step.crosses:
                crossing = step, wire
                continue
            if crossing is not None:
                self._deliver(*crossing)
                crossing = None
            self._deliver(step, wire)

    def _send(self, step: Step) -> bytes:
        expected = b"".join(map(unhex, step.bytes))
        if not step.raw:
            rules = self.client if step.side == "client" else self.server
            for message in step.says:
                _say(rules, message)
            assert b"".join(rules.next_batch().buffers).hex(" ") == expected.hex(" ")
        return expected

    def _deliver(self, step: Step, wire: bytes) -> None:
        if step.hears is not None:
            hearer = self.server if step.side == "client" else self.client
            heard = [rendered(event) for event in self.feed(hearer, wire)]
            assert heard == [_as_heard(event) for event in step.hears]

    def feed(self, rules: BaseProtocol, wire: bytes) -> list[ev.Event]:
        """Deliver bytes in pieces, and return all events that result."""
        piece = self.piece or len(wire)
        pieces = [wire[start : start + piece] for start in range(0, len(wire), piece)]
        return [event for part in pieces for event in rules.receive(part)]


def rendered(event: ev.Event) -> Fields:
    """Return an event in the notation of the vectors."""
    match event:
        case ev.HelloReceived(hello=hello):
            fields = fields_of_hello(hello)
        case ev.CallReceived(head=head):
            fields = {"slot": event.slot, **fields_of_call(head), "body": event.body}
        case ev.GoawayReceived(goaway=goaway):
            fields = msgspec.structs.asdict(goaway)
        case ev.ConnectionFailed(error=error):
            fields = {"code": error.code}
        case _:
            fields = msgspec.structs.asdict(event)
    if isinstance(body := fields.get("body"), ReceiveBuffer):  # without emptying it
        fields["body"] = b"".join(body._pieces)[body.offset :]
    return {"event": EVENTS[type(event)], **fields}


def _as_heard(listed: Fields) -> Fields:
    binary = {"body", "data", "payload"}
    return {name: unhex(value) if name in binary else value for name, value in listed.items()}


def _steps_of(exchange: Exchange) -> Iterator[Step]:
    if exchange.after:
        yield from _steps_of(EXCHANGES[exchange.after])
    yield from exchange.steps


def _limits_of(hello: Fields | None) -> Limits:
    if hello is None:
        return LIMITS
    names = ("max_frame", "max_message", "max_calls", "stream_window")
    return Limits(ping_interval=hello["ping_ms"] / 1000, **{name: hello[name] for name in names})


# How each side sends a message. The protocol answers PING, GOAWAY and violations by itself.


def _error(rules: ServerProtocol, message: Message) -> None:
    if message.abandons:
        rules.abandon(message.id)
    rules.error(message.id, error_of(message.fields))


def _goaway(rules: ServerProtocol, message: Message) -> None:
    code, text = Code(message.fields["code"]), message.fields["text"]
    if message.refuses:
        rules.refuse(code, text)
    else:
        rules.goaway(code, message.fields["grace_ms"], text)


_CLIENT: Final[dict[str, Callable[[ClientProtocol, Message], object]]] = {
    "HELLO": lambda _rules, _message: None,  # queued by the constructor
    "CALL": lambda rules, message: rules.call(kind_of(message.fields), call_of(message.fields)),
    "CANCEL": lambda rules, message: rules.cancel(message.id, Code(message.fields["code"])),
}
_SERVER: Final[dict[str, Callable[[ServerProtocol, Message], object]]] = {
    "HELLO": lambda rules, message: rules.admit(hello_of(message.fields)),
    "RESULT": lambda rules, message: rules.result(message.id, value_buffer(message.fields)),
    "ERROR": _error,
    "ITEM": lambda rules, message: rules.item(message.id, value_buffer(message.fields)),
    "ACCEPT": lambda rules, message: rules.accept(message.id, value_buffer(message.fields)),
    "GOAWAY": _goaway,
}
_BOTH: Final[dict[str, Callable[[BaseProtocol, Message], object]]] = {
    "DATA": lambda rules, message: rules.data(
        message.id, unhex(message.fields["data"]), end="END" in message.flags
    ),
    "CREDIT": lambda rules, message: rules.consume(message.id, message.read),
    "PING": lambda rules, message: rules.ping(unhex(message.fields["opaque"])),
}


def _say(rules: BaseProtocol, message: Message) -> None:
    if message.type in _BOTH:
        _BOTH[message.type](rules, message)
    elif isinstance(rules, ClientProtocol):
        _CLIENT[message.type](rules, message)
    else:
        _SERVER[message.type](rules, message)
