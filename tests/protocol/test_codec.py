"""Tests of the payload encoders and decoders, with valid, invalid and random input."""

from __future__ import annotations

import contextlib
import datetime as dt
import enum
import gc
import itertools
import math
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jumpstarter._framing import HEADER_SIZE
from jumpstarter._limits import Limits
from jumpstarter._protocol.codec import (
    call_prefix,
    decode_call,
    decode_cancel,
    decode_credit,
    decode_error,
    decode_goaway,
    decode_hello,
    decode_nodes,
    decode_value,
    encode_call,
    encode_cancel,
    encode_credit,
    encode_error,
    encode_goaway,
    encode_hello,
    encode_message,
    encode_request,
    encode_value,
    set_timeout,
    truncate,
)
from jumpstarter._protocol.frames import (
    HEADER_SPACE,
    MAX_METHOD_NAME,
    MAX_TEXT,
    NIL,
    CallHead,
    ErrorBody,
    Goaway,
    Hello,
    Kind,
    Node,
)
from jumpstarter._protocol.large_message import LargeMessage, Message, head_of
from jumpstarter._protocol.receive_buffer import ReceiveBuffer
from jumpstarter.errors import ArgumentError, Code

LIMITS: Final = Limits()
U16, U32 = st.integers(0, 2**16 - 1), st.integers(0, 2**32 - 1)

integers = st.integers(-(2**63), 2**64 - 1)
scalars = (
    st.none() | st.booleans() | integers | st.floats(allow_nan=False) | st.text() | st.binary()
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | integers, inner),
    max_leaves=20,
)


def through(value: Any, limits: Limits = LIMITS) -> Any:
    """Encode a value and decode it again."""
    return decode_value(encode_value(value)[HEADER_SIZE:], limits)


def nested(levels: int) -> list[Any]:
    """Return a list nested to a depth."""
    value: list[Any] = []
    for _ in range(levels - 1):
        value = [value]
    return value


# ---------------------------------------------------------------------------------- user values


@given(values)
def test_values_survive_a_round_trip(value: Any) -> None:
    arrived = through(value)
    assert arrived == value
    assert repr(arrived) == repr(value)  # True is not 1, and 1 is not 1.0


def test_values_that_json_would_lose_survive_a_round_trip() -> None:
    largest = [2**53 + 1, 2**64 - 1, -(2**63), b"\xff\x00", {1: "one"}, -0.0, math.inf]
    assert repr(through(largest)) == repr(largest)
    assert math.isnan(through(math.nan))


def test_a_megabyte_of_text_and_of_bytes_survives_a_round_trip() -> None:
    assert through(["\N{GREEK SMALL LETTER PI}" * 2**20, bytes(2**20)]) == [
        "\u03c0" * 2**20,
        bytes(2**20),
    ]


class Colour(enum.Enum):
    RED = "red"


@dataclass
class Point:
    x: int
    y: int


MOMENT: Final = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("value", "arrives"),
    [
        ((1, (2,)), [1, [2]]),
        (frozenset({1}), [1]),
        (bytearray(b"ab"), b"ab"),
        (memoryview(b"ab"), b"ab"),
        (Colour.RED, "red"),
        (Code.GROUP, 20),
        (Point(1, 2), {"x": 1, "y": 2}),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (MOMENT, MOMENT),
    ],
    ids=lambda value: type(value).__name__,
)
def test_types_without_a_messagepack_form_become_the_nearest_one(value: Any, arrives: Any) -> None:
    assert through(value) == arrives
    assert type(through(value)) is type(arrives)


def contains_itself() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


UNENCODABLE: Final[list[tuple[str, Any, str]]] = [
    ("int above 64 bits", 2**64, "outside -2**63 to 2**64-1; send it as a string"),
    ("int below 64 bits", -(2**63) - 1, "outside -2**63 to 2**64-1"),
    ("complex", 1j, "complex"),
    ("object", object(), "object"),
    ("function", len, "builtin_function_or_method"),
    ("exception", ValueError("x"), "ValueError"),
    ("self-reference", contains_itself(), "nested too deeply, or contains itself"),
    ("100,000 levels", nested(100_000), "an object of type list is nested too deeply"),
    ("lone surrogate", "ab\ud800", "not valid Unicode (surrogates not allowed at 2); send bytes"),
    ("lone surrogate as a key", {"\udfff": 1}, "not valid Unicode"),
]


@pytest.mark.parametrize(
    ("value", "reason"), [case[1:] for case in UNENCODABLE], ids=[case[0] for case in UNENCODABLE]
)
def test_encoding_an_unsupported_value_raises_the_reason(value: Any, reason: str) -> None:
    for hidden in (value, [1, {"a": value}]):
        with pytest.raises(ArgumentError) as caught:
            encode_value(hidden)
        assert reason in str(caught.value)


def test_a_failed_encoding_leaves_the_callers_prefix_unchanged() -> None:
    prefix = b"prefix"
    with pytest.raises(ArgumentError):
        encode_value([b"x" * 100_000, 1j], prefix)
    assert encode_value(None, prefix) == prefix + NIL


# A receiver's limits do not depend on the message's size.


@pytest.mark.parametrize("padding", ["", "x" * 200])
@pytest.mark.parametrize("key", [1.5, None, True, b"k", (1, 2)])
def test_a_maps_key_is_a_str_or_an_int(key: Any, padding: str) -> None:
    with pytest.raises(ArgumentError, match="a map's key must be str or int"):
        through([{key: 1}, padding])


@pytest.mark.parametrize("padding", ["", "x" * 200])
@pytest.mark.parametrize("kind", [0, 5, 127, -128, -2])
def test_no_extension_but_the_timestamp_is_a_value(kind: int, padding: str) -> None:
    with pytest.raises(ArgumentError, match="an extension must be a timestamp"):
        through([msgspec.msgpack.Ext(kind, b"1234"), padding])


@pytest.mark.parametrize(
    ("body", "arrives"),
    [
        (b"\x82\xa1a\x01\xa1a\x02", {"a": 2}),
        (b"\x82\x01\x01\x01\x02", {1: 2}),
        (b"\x82\x01\x01\xd3\0\0\0\0\0\0\0\x01\x02", {1: 2}),
        (b"\x82\x01\x01\xa11\x02", {1: 1, "1": 2}),
    ],
    ids=["text", "number", "the same number, written longer", "a number and its text"],
)
def test_the_last_of_two_values_for_one_key_wins(body: bytes, arrives: Any) -> None:
    assert decode_value(body, LIMITS) == arrives


@pytest.mark.parametrize(
    ("limits", "fits", "too_much", "reason"),
    [
        (Limits(), nested(64), nested(65), "deeper than 64 levels"),
        (Limits(max_depth=2), nested(2), nested(3), "deeper than 2 levels"),
        (Limits(max_items=4), [1, 2, 3], [1, 2, 3, 4], "more than 4 values"),
        (Limits(max_items=20), {"a": 1}, {"a": 1, "b": 2}, "more than 20 values"),
        (Limits(max_containers=3), [[], []], [[], [], []], "more than 3 lists and maps"),
    ],
    ids=["default depth", "depth", "items", "keys", "containers"],
)
def test_decoding_rejects_a_message_beyond_a_limit(
    limits: Limits, fits: Any, too_much: Any, reason: str
) -> None:
    assert through(fits, limits) == fits
    with pytest.raises(ArgumentError, match=reason):
        through(too_much, limits)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        b"\xa2a",
        b"\xa1\xff",
        b"\xc0\xc0",
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xd6\xff\x00\x00",
        b"\xc7\x0c\xff" + b"\xff" * 12,
        b"\x91" * 100_000,
    ],
    ids=lambda body: f"{body[:6].hex()}, {len(body)} bytes",
)
def test_decoding_rejects_malformed_values(body: bytes) -> None:
    with pytest.raises(ArgumentError, match=f"the {len(body)} bytes cannot be decoded"):
        decode_value(body, LIMITS)


def test_the_deepest_message_is_decoded_in_a_small_thread() -> None:
    deepest = nested(LIMITS.max_depth)
    arrived: list[Any] = []
    before = threading.stack_size(256 * 1024)
    try:
        thread = threading.Thread(target=lambda: arrived.append(through(deepest)))
        thread.start()
    finally:
        threading.stack_size(before)
    thread.join(timeout=30)
    assert arrived == [deepest]


# ----------------------------------------------------------------------------------------- CALL


heads = st.builds(
    CallHead,
    timeout_ms=U32,
    target=U16,
    kind=st.sampled_from(Kind),
    keywords=st.booleans(),
    nested=st.booleans(),
    method=st.text(min_size=1, max_size=60),
)


@given(heads, st.lists(scalars).map(tuple))
def test_calls_survive_a_round_trip(head: CallHead, args: tuple[Any, ...]) -> None:
    prefix = call_prefix(
        head.target, head.kind, head.method, keywords=head.keywords, nested=head.nested
    )
    buffer = encode_call(prefix, args)
    set_timeout(buffer, head.timeout_ms)
    arrived, body = decode_call(bytes(buffer[HEADER_SIZE:]))
    assert arrived == head
    assert decode_value(body, LIMITS) == list(args)


LARGE: Final = 64 * 1024
large_bytes = st.integers(LARGE, LARGE + 300).map(lambda size: bytes(size - 1) + b"x")


def whole(message: Message) -> bytes:
    """Return a message without its header space."""
    tail = message.tail if isinstance(message, LargeMessage) else b""
    return bytes(head_of(message)[HEADER_SIZE:]) + tail


def in_pieces(data: bytes, cuts: list[int]) -> ReceiveBuffer:
    """Return bytes as they are when they have arrived in several frames."""
    buffer = ReceiveBuffer()
    bounds = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    for start, end in itertools.pairwise(bounds):
        buffer.append(data[start:end])
    return buffer


cuts = st.lists(st.integers(1, LARGE), max_size=5)


@given(heads, st.lists(values).map(tuple), large_bytes, st.booleans(), cuts)
def test_large_calls_survive_a_round_trip(
    head: CallHead, args: tuple[Any, ...], tail: bytes, is_last: bool, cuts: list[int]
) -> None:
    prefix = call_prefix(head.target, head.kind, head.method)
    args = (*args, tail) if is_last else (tail, *args, 0)
    message = encode_request(prefix, args)
    set_timeout(message, head.timeout_ms)
    assert whole(message)[4:] == bytes(encode_call(prefix, args)[HEADER_SIZE + 4 :])
    arrived, body = decode_call(in_pieces(whole(message), cuts))
    assert (arrived.target, arrived.method) == (head.target, head.method)
    assert arrived.timeout_ms == head.timeout_ms
    assert decode_value(body, LIMITS) == list(args)


@given(st.one_of(large_bytes, st.lists(values), large_bytes.map(lambda tail: [1, tail])), cuts)
def test_large_results_survive_a_round_trip(value: Any, cuts: list[int]) -> None:
    message = encode_message(value, "result")
    assert whole(message) == bytes(encode_value(value)[HEADER_SIZE:])
    assert decode_value(in_pieces(whole(message), cuts), LIMITS) == value


def test_large_bytes_are_not_copied_into_their_message() -> None:
    data = bytes(LARGE)
    result, call = encode_message(data, "result"), encode_request(b"prefix..", ("a", data))
    assert isinstance(result, LargeMessage)
    assert isinstance(call, LargeMessage)
    assert result.tail is call.tail is data
    assert isinstance(encode_message(data[1:], "result"), bytearray)
    assert isinstance(encode_message(bytearray(data), "result"), bytearray)  # it may change
    assert isinstance(encode_request(b"prefix..", ("a" * 1100, data)), bytearray)


@pytest.mark.parametrize(
    ("encoded", "why"),
    [
        (b"\x92\xc1\xc6\x00\x01\x00\x00", "0xc1 begins no value"),
        (b"\x92\xa1\xff\xc6\x00\x01\x00\x00", "utf-8|UTF-8"),
        (b"\x93\x01\xc6\x00\x01\x00\x00", "cut short"),
        (b"\x91\xc6\x00\x00\xff\xff", "has ended, and more follows"),
        (b"\x81\x01\xc7\x00\x01\x00\x00", "cut short|extension"),
    ],
)
def test_large_values_are_checked(encoded: bytes, why: str) -> None:
    data = encoded + bytes(LARGE)
    with pytest.raises(ArgumentError, match=f"the {len(data)} bytes cannot be decoded.*({why})"):
        decode_value(in_pieces(data, [1000, 40_000]), LIMITS)


def test_values_before_large_bytes_are_limited_and_counted() -> None:
    data = bytes(encode_value([[1, [2]], b"x" * LARGE])[HEADER_SIZE:])
    flat = bytes(encode_value([1, 2, b"x" * LARGE])[HEADER_SIZE:])
    counts: list[int] = []
    decode_value(in_pieces(data, []), LIMITS, counts.append)
    decode_value(in_pieces(flat, []), LIMITS, counts.append)
    assert counts == [6, 4]
    with pytest.raises(ArgumentError, match="more than 3 values"):
        decode_value(in_pieces(flat, []), replace(LIMITS, max_items=3))


def test_a_call_prefix_can_be_reused() -> None:
    prefix = call_prefix(1, Kind.UNARY, "on")
    first, second = encode_call(prefix, (1,)), encode_call(prefix, (2,))
    set_timeout(first, 7)
    assert decode_call(bytes(first[HEADER_SIZE:]))[0].timeout_ms == 7
    assert decode_call(bytes(second[HEADER_SIZE:]))[0].timeout_ms == 0
    assert prefix.startswith(HEADER_SPACE)


@pytest.mark.parametrize("name", ["m", "m" * MAX_METHOD_NAME, "\u00e9" * 127])
def test_a_name_has_up_to_255_bytes(name: str) -> None:
    payload = bytes(encode_call(call_prefix(1, Kind.UNARY, name), ())[HEADER_SIZE:])
    assert decode_call(payload)[0].method == name


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "1 to 255 bytes, not 0"),
        ("m" * 256, "1 to 255 bytes, not 256"),
        ("\u00e9" * 128, "1 to 255 bytes, not 256"),
        (b"on", "a str, not bytes"),
        (None, "a str, not NoneType"),
    ],
)
def test_a_method_name_of_invalid_length_is_rejected(name: Any, reason: str) -> None:
    with pytest.raises(ArgumentError, match=reason):
        call_prefix(1, Kind.UNARY, name)


def test_a_method_name_with_a_surrogate_is_encoded_with_replacement() -> None:
    payload = bytes(encode_call(call_prefix(1, Kind.UNARY, "o\ud800n"), ())[HEADER_SIZE:])
    assert decode_call(payload)[0].method == "o?n"


@pytest.mark.parametrize(
    "payload",
    [
        "",
        "00000000 0100 00",
        "00000000 0100 00 00",
        "00000000 0100 00 05 6f6e",
        "00000000 0100 03 02 6f6e",
        "00000000 0100 3f 02 6f6e",
        "00000000 0100 20 02 6f6e",
        "00000000 0100 00 02 ffff",
    ],
    ids=["empty", "cut", "no name", "cut name", "kind 3", "kind 63", "unknown mark", "no UTF-8"],
)
def test_a_malformed_call_is_rejected(payload: str) -> None:
    with pytest.raises(ArgumentError, match="malformed CALL"):
        decode_call(bytes.fromhex(payload))


# ---------------------------------------------------------------------------------------- ERROR

bodies = st.recursive(
    st.builds(
        ErrorBody, st.text(max_size=30), st.text(), st.lists(st.text()), st.none() | st.text()
    ),
    lambda inner: st.builds(
        ErrorBody,
        st.text(max_size=30),
        st.text(),
        st.just([]),
        st.none(),
        st.lists(st.tuples(U16, inner), max_size=3),
    ),
    max_leaves=8,
)


def error_through(body: ErrorBody, code: int = Code.UNKNOWN) -> ErrorBody:
    arrived_code, arrived = decode_error(bytes(encode_error(code, body)[HEADER_SIZE:]), LIMITS)
    assert arrived_code == code
    return arrived


@given(U16, bodies)
def test_errors_and_groups_survive_a_round_trip(code: int, body: ErrorBody) -> None:
    assert error_through(body, code) == body


def test_an_error_text_over_a_megabyte_is_truncated_with_a_mark() -> None:
    text = "x" * MAX_TEXT
    assert error_through(ErrorBody("E", text)).message == text
    longer = text + "y" * 1000
    arrived = error_through(ErrorBody("E", longer, [longer], longer))
    mark = f"{text}... [cut: {MAX_TEXT + 1000} characters in all]"
    assert arrived == ErrorBody("E", mark, [mark], mark)


def test_the_type_and_the_notes_of_an_error_are_bounded() -> None:
    arrived = error_through(ErrorBody("T" * 1000, "", [str(n) for n in range(100)]))
    assert arrived.type == "T" * 255 + "... [cut: 1000 characters in all]"
    assert arrived.notes == [str(n) for n in range(64)]


def test_the_members_of_a_group_are_truncated_and_cleaned_too() -> None:
    member = ErrorBody("E", "\ud800" + "x" * MAX_TEXT)
    [(_, arrived)] = error_through(ErrorBody("G", "", [], None, [(3, member)])).members
    assert arrived.message.startswith("?xxx")
    assert arrived.message.endswith(f"[cut: {MAX_TEXT + 1} characters in all]")


def test_broken_unicode_in_an_error_is_replaced() -> None:
    broken = "a\ud800b\udfffc"
    fixed = "a?b?c"
    body = error_through(ErrorBody(broken, broken, [broken], broken))
    assert body == ErrorBody(fixed, fixed, [fixed], fixed)


@pytest.mark.parametrize(
    ("text", "length", "expected"),
    [
        ("", 3, ""),
        ("abc", 3, "abc"),
        ("abcd", 3, "abc... [cut: 4 characters in all]"),
        ("\u00e9\u00e9\u00e9\u00e9", 3, "\u00e9\u00e9\u00e9... [cut: 4 characters in all]"),
        ("a\udc80", 3, "a?"),
    ],
)
def test_cut_truncates_with_a_mark_and_makes_text_encodable(
    text: str, length: int, expected: str
) -> None:
    assert truncate(text, length) == expected


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "cannot be read"),
        (b"\xc0", "cannot be read"),
        (b"\x91\xa1E", "cannot be read"),
        (b"\x92\x01\xa1m", "cannot be read"),
        (b"\x92\xa1E\xa1\xff", "cannot be read"),
        (b"\x92\xa1E\xa1m\xc0", "it has ended, and more follows"),
        (b"\x91" * 1000, "deeper than 64 levels"),
        (b"\xdd\xff\xff\xff\xff", "more than 65536 values"),
    ],
)
def test_a_malformed_error_body_becomes_text(body: bytes, reason: str) -> None:
    code, arrived = decode_error(b"\x03\x00" + body, LIMITS)
    assert code == Code.INVALID_ARGUMENT
    assert arrived.type == ""
    assert reason in arrived.message


@pytest.mark.parametrize("payload", [b"", b"\x03"])
def test_an_error_without_a_code_becomes_text(payload: bytes) -> None:
    assert decode_error(payload, LIMITS) == (
        Code.UNKNOWN,
        ErrorBody("", "the exporter sent an ERROR without a code"),
    )


def test_an_error_may_omit_empty_fields_and_have_unknown_ones() -> None:
    short = msgspec.msgpack.encode(["E", "m"])
    long = msgspec.msgpack.encode(["E", "m", [], None, [], None, None, "of version 1.7"])
    assert decode_error(b"\x02\x00" + short, LIMITS) == (2, ErrorBody("E", "m"))
    assert decode_error(b"\x02\x00" + long, LIMITS) == (2, ErrorBody("E", "m"))


# ----------------------------------------------------------------------------------------- HELLO

hellos = st.builds(
    Hello,
    version=st.tuples(st.integers(0, 255), st.integers(0, 255)),
    max_frame=U32,
    max_message=U32,
    max_calls=U32,
    stream_window=U32,
    ping_ms=U32,
    agent=st.text(),
    token=st.text(),
)


def test_an_error_body_with_too_many_values_becomes_a_text_with_the_reason() -> None:
    members = [[2, ["E", "m", [], None, []]]] * 8_000
    body = msgspec.msgpack.encode(["G", "g", [], None, members])
    assert len(decode_error(b"\x14\x00" + body, LIMITS)[1].members) == 8_000
    body = msgspec.msgpack.encode(["G", "g", ["n"] * 65_536, None, []])
    code, arrived = decode_error(b"\x14\x00" + body, LIMITS)
    assert (code, arrived.type, arrived.notes) == (Code.GROUP, "", [])
    assert "more than 65536 values" in arrived.message


@given(hellos)
def test_a_hello_of_any_version_survives_a_round_trip(hello: Hello) -> None:
    assert decode_hello(encode_hello(hello)) == hello


def test_a_hello_carries_the_limits() -> None:
    limits = Limits(max_frame=1024, max_calls=7, stream_window=9, ping_interval=1.5)
    hello = Hello.of(limits, "agent/1", "open sesame")
    assert (hello.max_frame, hello.max_message) == (1024, limits.max_message)
    assert (hello.max_calls, hello.stream_window, hello.ping_ms) == (7, 9, 1500)
    assert (hello.agent, hello.token) == ("agent/1", "open sesame")
    assert hello.version == (1, 2)


def test_an_exporter_says_in_its_hello_that_it_is_in_exclusive_use() -> None:
    exclusive = Hello.of(LIMITS, "exporter/1", exclusive=True)
    assert decode_hello(encode_hello(exclusive)) == exclusive
    assert not Hello.of(LIMITS, "exporter/1").exclusive
    assert b"exclusive" not in encode_hello(Hello.of(LIMITS, "exporter/1"))


FIXED: Final = encode_hello(Hello.of(LIMITS))[:28]


def test_a_hello_may_omit_known_keys_and_have_unknown_ones() -> None:
    assert decode_hello(FIXED + b"\x80") == Hello.of(LIMITS)
    more = msgspec.msgpack.encode({"agent": "a", "features": [1, {"x": 2}]})
    assert decode_hello(FIXED + more) == Hello.of(LIMITS, "a")


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "begins with b'', not b'JMPS'"),
        (FIXED[:27], "28 bytes"),
        (FIXED, "cut short"),
        (b"HTTP" + FIXED[4:] + b"\x80", "begins with b'HTTP', not b'JMPS'"),
        (FIXED + b"\xc0", "Expected `object`"),
        (FIXED + b"\x81\xa5agent\x01", "Expected `str`"),
        (FIXED + b"\x80\x80", "more follows"),
        (FIXED + b"\x81\xa1a" + b"\x91" * 8 + b"\x90", "deeper than 8 levels"),
        (FIXED + b"\x81\xa1a\xdc\x01\x00", "more than 256 values"),
    ],
)
def test_a_malformed_hello_is_rejected(payload: bytes, reason: str) -> None:
    with pytest.raises(ArgumentError, match="malformed HELLO") as caught:
        decode_hello(payload)
    assert reason in str(caught.value)


# ------------------------------------------------------------------------- CREDIT, CANCEL, GOAWAY


@given(U32)
def test_credit_survives_a_round_trip(delta: int) -> None:
    assert decode_credit(encode_credit(delta)) == delta


@pytest.mark.parametrize("payload", [b"", b"\x01\x00\x00", b"\x01\x00\x00\x00\x00"])
def test_a_malformed_credit_decodes_as_zero(payload: bytes) -> None:
    assert decode_credit(payload) == 0


@given(U16)
def test_cancel_survives_a_round_trip(code: int) -> None:
    assert decode_cancel(encode_cancel(code)) == code


@pytest.mark.parametrize("payload", [b"", b"\x01", b"\x01\x00\x00"])
def test_a_malformed_cancel_decodes_as_none(payload: bytes) -> None:
    assert decode_cancel(payload) is None


@given(U16, U32, st.text(max_size=256))
def test_goaway_survives_a_round_trip(code: int, grace_ms: int, text: str) -> None:
    goaway = Goaway(code, grace_ms, text)
    assert decode_goaway(encode_goaway(goaway)) == goaway


def test_a_goaway_too_long_for_the_wire_is_truncated() -> None:
    goaway = decode_goaway(encode_goaway(Goaway(1, 2**40, "\u00e9" * 1000 + "\ud800")))
    assert goaway == Goaway(1, 2**32 - 1, "\u00e9" * 509)
    odd = decode_goaway(encode_goaway(Goaway(1, 0, "x" + "\u00e9" * 1000)))
    assert odd == Goaway(1, 0, "x" + "\u00e9" * 508 + "\N{REPLACEMENT CHARACTER}")


@pytest.mark.parametrize("payload", [b"", bytes(5), bytes(6 + 1025)])
def test_a_malformed_goaway_decodes_as_none(payload: bytes) -> None:
    assert decode_goaway(payload) is None


# ------------------------------------------------------------------------------------ the report

nodes = st.lists(
    st.builds(
        Node,
        target=st.integers(1, 65535),
        parent=st.none() | st.integers(1, 65535),
        name=st.text(),
        uuid=st.uuids().map(str),
        labels=st.dictionaries(st.text(), st.text()),
        client=st.text(),
        methods=st.dictionaries(st.text(), st.sampled_from(Kind).map(int)),
        doc=st.text(),
        signatures=st.dictionaries(st.text(), st.text()),
        docs=st.dictionaries(st.text(), st.text()),
    ),
    max_size=4,
)


@given(nodes)
def test_a_report_survives_a_round_trip(report: list[Node]) -> None:
    assert decode_nodes(bytes(encode_value(report)[HEADER_SIZE:]), LIMITS) == report


def test_a_report_may_omit_texts_and_have_unknown_keys() -> None:
    bare = {
        "target": 1,
        "parent": None,
        "name": "",
        "uuid": "uuid",
        "labels": {},
        "client": "client",
        "methods": {"on": 0},
    }
    node = Node(1, None, "", "uuid", {}, "client", {"on": 0})
    for report in ([bare], [{**bare, "icon": b"\x89PNG", "docs": {}}]):
        assert decode_nodes(bytes(encode_value(report)[HEADER_SIZE:]), LIMITS) == [node]
    assert decode_value(encode_value([node])[HEADER_SIZE:], LIMITS) == [bare]


def test_a_report_obeys_the_limits_of_values() -> None:
    report = [Node(1, None, "", "uuid", {}, "client", {})]
    with pytest.raises(ArgumentError, match="more than 20 values"):  # most are names of fields
        decode_nodes(bytes(encode_value(report)[HEADER_SIZE:]), Limits(max_items=10))


@pytest.mark.parametrize(
    "report",
    [None, {}, [None], [{}], [{"target": "1"}]],
    ids=["nil", "map", "nil inside", "empty map", "wrong type"],
)
def test_a_malformed_report_is_rejected(report: Any) -> None:
    with pytest.raises(ArgumentError, match="the exporter's report cannot be read"):
        decode_nodes(bytes(encode_value(report)[HEADER_SIZE:]), LIMITS)


# ----------------------------------------------------------------------------------- random bytes

DECODERS: Final[list[Callable[[bytes], object]]] = [
    decode_call,
    decode_hello,
    decode_credit,
    decode_cancel,
    decode_goaway,
    lambda payload: decode_error(payload, LIMITS),
    lambda payload: decode_nodes(payload, LIMITS),
    lambda payload: decode_value(payload, LIMITS),
]


@given(st.binary(max_size=100) | st.binary(max_size=60).map(lambda tail: FIXED + tail))
def test_decoders_reject_random_bytes_with_their_own_errors(payload: bytes) -> None:
    for decode in DECODERS:
        with contextlib.suppress(ArgumentError):
            decode(payload)


MANY: Final = b"\xdc\x75\x30" + b"\x90" * 29_999  # a list of 30,000 values, without the last


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("last", [b"\xc0", b"\xa1\xff"], ids=["None", "not UTF-8"])
def test_decoding_leaves_the_garbage_collector_as_it_was(last: bytes, *, enabled: bool) -> None:
    """Decoding many values pauses it."""
    before = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        with contextlib.nullcontext() if last == b"\xc0" else pytest.raises(ArgumentError):
            assert len(decode_value(MANY + last, Limits())) == 30_000
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if before else gc.disable)()
