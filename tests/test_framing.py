"""Test the frame decoder, the packers and the scan against the oracle in `reference_framing`."""

from __future__ import annotations

import datetime as dt
import gc
import itertools
import subprocess
import sys
import threading
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz.framing import decodes
from jumpstarter._framing import (
    HEADER_SIZE,
    FrameDecoder,
    find_tail,
    pack_frame,
    pack_header,
    scan,
    seal,
)
from jumpstarter.errors import Code, FramingError
from reference_framing import Breach, Frame, MessageError, ReferenceDecoder, ReferenceScan
from reference_framing import pack_header as reference_header

END, MORE, ACK = 0x10, 0x20, 0x40
MAX_FRAME = 64 * 1024
NO_LIMITS = (512, 2**31, 2**31)
KEY_COST = 16  # items that each key of a map counts for

# The decoder reads this table, and the packers write it.
FRAMES: list[tuple[Frame, bytes]] = [
    ((0, 0, 0, b""), bytes.fromhex("000000 00 00000000")),
    ((1, MORE, 7, b"abc"), bytes.fromhex("030000 21 07000000 616263")),
    ((6, END, 0x01020304, b"\x00"), bytes.fromhex("010000 16 04030201 00")),
    ((9, ACK, 0, b"12345678"), bytes.fromhex("080000 49 00000000 3132333435363738")),
    ((10, END | MORE | ACK, 2**32 - 1, b""), bytes.fromhex("000000 7a ffffffff")),
    ((2, 0, 1, b"x" * 0x1234), bytes.fromhex("341200 02 01000000") + b"x" * 0x1234),
    ((5, 0, 1, b"y" * MAX_FRAME), bytes.fromhex("000001 05 01000000") + b"y" * MAX_FRAME),
]

# Invalid headers, each with its error code and a part of the error's text.
BAD_HEADERS = [
    ("010001 01 00000000", Code.FRAME_SIZE, "declares 65537 bytes of payload where 65536"),
    ("ffffff 01 00000000", Code.FRAME_SIZE, "declares 16777215 bytes"),
    ("000000 81 00000000", Code.PROTOCOL_ERROR, "flag 0x80"),
    ("000000 0b 00000000", Code.PROTOCOL_ERROR, "type is 11"),
    ("000000 7f 00000000", Code.PROTOCOL_ERROR, "type is 15"),
]

headers = st.tuples(
    st.integers(0, 10),
    st.sampled_from([0, END, MORE, ACK, END | MORE, END | ACK, MORE | ACK, END | MORE | ACK]),
    st.integers(0, 2**32 - 1),
)
frames = st.tuples(headers, st.binary(max_size=40)).map(lambda pair: (*pair[0], pair[1]))


def drip(decoder: FrameDecoder, stream: bytes, cuts: list[int]) -> list[Frame]:
    """Feed a stream in chunks, cut at the given positions, until the decoder breaks."""
    received: list[Frame] = []
    edges = [0, *sorted(cuts), len(stream)]
    for start, stop in itertools.pairwise(edges):
        if decoder.failure is None:
            received += decoder.feed(stream[start:stop])
    return received


def broken(decoder: FrameDecoder) -> FramingError:
    assert decoder.failure is not None
    return decoder.failure


def breach_of(failure: FramingError | None) -> Breach | None:
    if failure is None:
        return None
    return Breach(failure.code, int(str(failure).split()[3]))


# ------------------------------------------------------------------------------------------ packing


@pytest.mark.parametrize(("frame", "wire"), FRAMES)
def test_the_three_packers_write_the_table(frame: Frame, wire: bytes) -> None:
    kind, flags, slot, payload = frame
    buffer = bytearray(HEADER_SIZE) + payload
    seal(buffer, kind, flags, slot)
    assert buffer == wire
    assert pack_frame(kind, flags, slot, payload) == wire
    assert pack_header(kind, flags, slot, len(payload)) + payload == wire
    assert reference_header(kind, flags, slot, len(payload)) + payload == wire


@given(headers, st.binary(max_size=100))
def test_every_kind_of_buffer_packs_alike(header: tuple[int, int, int], payload: bytes) -> None:
    expected = reference_header(*header, len(payload)) + payload
    assert pack_frame(*header, payload) == expected
    assert pack_frame(*header, bytearray(payload)) == expected
    assert pack_frame(*header, memoryview(b"-" + payload)[1:]) == expected
    assert pack_frame(*header)[HEADER_SIZE:] == b""


@pytest.mark.parametrize(
    ("kind", "flags", "slot", "wrong"),
    [
        (11, 0, 0, "type 11"),
        (-1, 0, 0, "type -1"),
        (0, 0x80, 0, "flags 0x80"),
        (0, 0x01, 0, "flags 0x1"),
        (0, 0x110, 0, "flags 0x110"),
        (0, -16, 0, "flags -0x10"),
        (0, 0, 2**32, "slot 4294967296"),
        (0, 0, -1, "slot -1"),
    ],
)
def test_a_number_out_of_range_is_refused(kind: int, flags: int, slot: int, wrong: str) -> None:
    buffer = bytearray(b"untouched")
    with pytest.raises(ValueError, match=wrong):
        pack_frame(kind, flags, slot)
    with pytest.raises(ValueError, match=wrong):
        pack_header(kind, flags, slot, 0)
    with pytest.raises(ValueError, match=wrong):
        seal(buffer, kind, flags, slot)
    assert buffer == b"untouched"


def test_a_length_has_24_bits() -> None:
    largest = bytes(2**24 - 1)
    assert pack_frame(6, 0, 1, largest)[:4] == pack_header(6, 0, 1, 2**24 - 1)[:4]
    assert pack_header(6, 0, 1, 2**24 - 1)[:4] == b"\xff\xff\xff\x06"
    for length in (2**24, 2**32, -1):
        with pytest.raises(ValueError, match=f"payload of {length} bytes"):
            pack_header(6, 0, 1, length)
    with pytest.raises(ValueError, match="payload of 16777216 bytes"):
        pack_frame(6, 0, 1, bytes(2**24))
    with pytest.raises(ValueError, match="payload of 16777216 bytes"):
        seal(bytearray(2**24 + HEADER_SIZE), 6, 0, 1)
    with pytest.raises(OverflowError):
        pack_header(6, 0, 2**64, 0)


def test_seal_needs_space_for_the_header() -> None:
    with pytest.raises(ValueError, match="buffer of 7 bytes"):
        seal(bytearray(7), 1, 0, 1)


def test_seal_completes_the_output_of_encode_into() -> None:
    buffer = bytearray(HEADER_SIZE)
    msgspec.msgpack.Encoder().encode_into(["on", 1], buffer, HEADER_SIZE)
    seal(buffer, 2, 0, 3)
    assert FrameDecoder(MAX_FRAME).feed(bytes(buffer)) == [(2, 0, 3, b"\x92\xa2on\x01")]


@pytest.mark.parametrize("payload", [None, "text", 5, [1, 2], memoryview(b"abcd")[::2]])
def test_only_a_contiguous_buffer_is_a_payload(payload: object) -> None:
    with pytest.raises((TypeError, BufferError)):
        pack_frame(6, 0, 1, payload)  # type: ignore[arg-type]


# ----------------------------------------------------------------------------------------- decoding


@pytest.mark.parametrize(("frame", "wire"), FRAMES)
@pytest.mark.parametrize("step", [1, 3, 7, 4095, 4096, 4097, 10**6])
def test_the_decoder_reads_the_table_in_chunks_of_any_size(
    frame: Frame, wire: bytes, step: int
) -> None:
    decoder = FrameDecoder(MAX_FRAME)
    stream = wire + wire
    received = drip(decoder, stream, list(range(step, len(stream), step)))
    assert received == [frame, frame]
    assert decoder.buffered == 0
    assert decoder.failure is None
    assert all(type(payload) is bytes for _, _, _, payload in received)


@given(st.lists(frames), st.data())
def test_any_chunking_gives_the_same_frames(sent: list[Frame], data: st.DataObject) -> None:
    stream = b"".join(pack_frame(*frame) for frame in sent)
    cuts = data.draw(st.lists(st.integers(0, len(stream))))
    assert drip(FrameDecoder(MAX_FRAME), stream, cuts) == sent


@given(st.lists(frames), st.data())
def test_a_reused_buffer_gives_the_same_frames(sent: list[Frame], data: st.DataObject) -> None:
    stream = b"".join(pack_frame(*frame) for frame in sent)
    buffer = bytearray(len(stream))
    decoder = FrameDecoder(MAX_FRAME)
    received: list[Frame] = []
    edges = [0, *sorted(data.draw(st.lists(st.integers(0, len(stream))))), len(stream)]
    for start, stop in itertools.pairwise(edges):
        buffer[: stop - start] = stream[start:stop]
        received += decoder.feed(memoryview(buffer)[: stop - start])
    assert received == sent


# Frames at or just over the limit, with the declared length or one byte less or more.
nearly_frames = st.builds(
    lambda length, kind, slot, more: (
        length.to_bytes(3, "little")
        + bytes([kind])
        + slot.to_bytes(4, "little")
        + bytes(max(0, min(length, 100) + more))
    ),
    st.sampled_from([32, 32, 31, 33, 0, 0x2000, 0x200000]),
    st.integers(0, 10) | st.integers(0, 10) | st.integers(0, 255),
    st.integers(0, 2**32 - 1),
    st.just(0) | st.integers(-2, 2),
)


@given(
    st.lists(nearly_frames | nearly_frames | frames.map(lambda f: pack_frame(*f)) | st.binary()),
    st.data(),
)
def test_any_bytes_decode_as_in_the_oracle(pieces: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(pieces)
    cuts = data.draw(st.lists(st.integers(0, len(stream))))
    decoder, reference = FrameDecoder(32), ReferenceDecoder(32)
    assert drip(decoder, stream, cuts) == reference.feed(stream)
    assert breach_of(decoder.failure) == reference.breach
    rest = len(stream) - reference.position
    assert decoder.buffered == (rest if reference.breach is None else 0)


@given(st.lists(st.integers(1, 9000), min_size=1, max_size=40))
def test_a_payload_of_small_and_large_pieces_is_joined_in_order(sizes: list[int]) -> None:
    payload = b"".join(index.to_bytes(1, "big") * size for index, size in enumerate(sizes))
    stream = pack_frame(6, 0, 1, payload)
    cuts = [HEADER_SIZE + sum(sizes[:index]) for index in range(len(sizes))]
    assert drip(FrameDecoder(2**24 - 1), stream, cuts) == [(6, 0, 1, payload)]


def test_a_frame_in_a_million_pieces_is_held_in_few_blocks() -> None:
    size = 1_000_000
    decoder = FrameDecoder(size)
    decoder.feed(pack_header(6, 0, 1, size))
    before = sys.getallocatedblocks()
    for _ in range(size - 1):
        decoder.feed(b"z")
    assert sys.getallocatedblocks() - before < 100
    assert decoder.buffered == HEADER_SIZE + size - 1
    assert decoder.feed(b"z") == [(6, 0, 1, b"z" * size)]


def test_a_declared_length_allocates_nothing() -> None:
    promise = pack_header(6, 0, 1, 2**24 - 1)
    decoders = [FrameDecoder(2**24 - 1) for _ in range(1000)]  # 16 GB if they allocated it
    for decoder in decoders:
        assert decoder.feed(promise + b"x") == []
        assert decoder.buffered == HEADER_SIZE + 1


def test_a_chunk_is_released_although_a_piece_of_it_is_held() -> None:
    """A peer could otherwise keep a large chunk in memory with the few bytes at its end."""
    decoder = FrameDecoder(MAX_FRAME)
    chunk = pack_frame(6, 0, 1, bytes(60_000)) + pack_frame(6, 0, 1, b"rest")[:-1]
    before = sys.getrefcount(chunk)
    decoder.feed(chunk)
    assert decoder.buffered == HEADER_SIZE + 3
    assert sys.getrefcount(chunk) == before


def test_feeding_nothing_gives_nothing() -> None:
    decoder = FrameDecoder(MAX_FRAME)
    assert decoder.feed(b"") == []
    decoder.feed(b"\x00\x00\x00")
    assert decoder.feed(b"") == []
    assert decoder.buffered == 3


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_a_buffer_that_may_change_is_copied(kind: Callable[[bytearray], bytearray]) -> None:
    decoder = FrameDecoder(MAX_FRAME)
    received = bytearray(pack_frame(6, 0, 1, b"a" * 5000)[:-1])
    assert decoder.feed(kind(received)) == []
    received[:] = bytes(len(received))
    assert decoder.feed(b"a") == [(6, 0, 1, b"a" * 5000)]


@pytest.mark.parametrize("data", [None, "text", 5, [1]])
def test_only_a_buffer_is_fed(data: object) -> None:
    with pytest.raises(TypeError):
        FrameDecoder(MAX_FRAME).feed(data)  # type: ignore[arg-type]


# ----------------------------------------------------------------------------------------- breaches


@pytest.mark.parametrize(("header", "code", "text"), BAD_HEADERS)
@pytest.mark.parametrize("size", [4, 8])
def test_a_bad_header_is_seen_at_its_fourth_byte(
    header: str, code: Code, text: str, size: int
) -> None:
    good = pack_frame(1, 0, 1, b"good")
    decoder = FrameDecoder(MAX_FRAME)
    assert decoder.feed(good + bytes.fromhex(header)[:3]) == [(1, 0, 1, b"good")]
    assert decoder.failure is None
    assert decoder.feed(bytes.fromhex(header)[3:size]) == []
    assert broken(decoder).code is code
    assert text in str(decoder.failure)
    assert "at byte 12 of the stream" in str(decoder.failure)
    assert "begins with" not in str(decoder.failure)
    assert decoder.buffered == 0


def test_only_frames_before_a_bad_header_are_returned() -> None:
    good = pack_frame(1, 0, 1, b"good")
    decoder = FrameDecoder(MAX_FRAME)
    assert decoder.feed(good * 3 + b"\x00\x00\x00\xff" + good) == [(1, 0, 1, b"good")] * 3
    assert broken(decoder).code is Code.PROTOCOL_ERROR


def test_a_broken_decoder_stays_broken() -> None:
    decoder = FrameDecoder(MAX_FRAME)
    decoder.feed(b"\xff" * 8)
    failure = broken(decoder)
    for data in (b"", pack_frame(1, 0, 1, b"good")):
        with pytest.raises(FramingError) as caught:
            decoder.feed(data)
        assert caught.value is failure
        assert decoder.failure is failure


@pytest.mark.parametrize(
    "preamble",
    [
        b"HTTP/1.1 400 Bad Request\r\n",
        b"GET / HTTP/1.1\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"220 mail.example ESMTP\r\n",
        b"\xff\xff\xff\xff\xff\xff\xff\xff",
    ],
)
def test_another_protocol_is_recognized_by_its_first_bytes(preamble: bytes) -> None:
    decoder = FrameDecoder(MAX_FRAME)
    assert decoder.feed(preamble) == []
    assert f"may not speak this protocol: its stream begins with {preamble[:16]!r}" in str(
        decoder.failure
    )


@pytest.mark.parametrize("limit", [0, 1, MAX_FRAME, 2**24 - 1])
def test_a_payload_may_have_the_limit_and_not_one_byte_more(limit: int) -> None:
    decoder = FrameDecoder(limit)
    assert decoder.feed(pack_frame(6, 0, 1, bytes(limit))) == [(6, 0, 1, bytes(limit))]
    if limit < 2**24 - 1:
        assert decoder.feed(pack_header(6, 0, 1, limit + 1)) == []
        assert broken(decoder).code is Code.FRAME_SIZE


def test_the_limit_can_be_changed_between_headers() -> None:
    decoder = FrameDecoder(10)
    decoder.feed(pack_frame(6, 0, 1, b"0123456789")[:-1])
    decoder.max_frame = 5
    assert decoder.max_frame == 5
    assert decoder.feed(b"9") == [(6, 0, 1, b"0123456789")]
    decoder.feed(pack_header(6, 0, 1, 6))
    assert breach_of(decoder.failure) == Breach(Code.FRAME_SIZE, 18)


@pytest.mark.parametrize("limit", [-1, 2**24, 2**40])
def test_a_limit_must_fit_in_a_header(limit: int) -> None:
    with pytest.raises(ValueError, match=f"max_frame={limit}"):
        FrameDecoder(limit)
    decoder = FrameDecoder(7)
    with pytest.raises(ValueError, match=f"max_frame={limit}"):
        decoder.max_frame = limit
    assert decoder.max_frame == 7


# ----------------------------------------------------------------------------------------- scanning


def outcome(message: bytes, *limits: int) -> int | Code:
    try:
        return scan(message, *limits)
    except FramingError as exc:
        return exc.code


def reference_outcome(message: bytes, *limits: int) -> int | Code:
    try:
        return ReferenceScan(message, *limits).run()
    except MessageError as exc:
        return exc.code


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text()
    | st.binary()
    | st.just("long" * 20_000)
    | st.datetimes(timezones=st.just(dt.UTC)),
    lambda inner: (
        st.lists(inner, max_size=20)
        | st.dictionaries(st.text() | st.integers(-(2**63), 2**64 - 1), inner, max_size=20)
    ),
)

# Bytes that are mostly first bytes of values, so that scans get further than a few bytes.
message_bytes = st.lists(
    st.integers(0, 255) | st.integers(0x80, 0xDF) | st.sampled_from([0, 1, 2, 0xDC, 0xDE])
).map(bytes)


def count(value: object) -> int:
    match value:
        case dict():
            return 1 + sum(KEY_COST + count(inner) for inner in value.values())
        case list():
            return 1 + sum(count(inner) for inner in value)
        case _:
            return 1


@given(values)
def test_a_scan_accepts_and_counts_values_of_msgspec(value: object) -> None:
    message = msgspec.msgpack.encode(value)
    assert scan(message, *NO_LIMITS) == count(value)
    assert scan(bytearray(message), *NO_LIMITS) == count(value)
    assert scan(memoryview(b"-" + message)[1:], *NO_LIMITS) == count(value)


@given(values, st.data())
def test_a_scan_rejects_truncated_and_trailing_bytes(value: object, data: st.DataObject) -> None:
    message = msgspec.msgpack.encode(value)
    shorter = message[: data.draw(st.integers(0, len(message) - 1))]
    assert outcome(shorter, *NO_LIMITS) is Code.INVALID_ARGUMENT
    assert outcome(message + b"\x00", *NO_LIMITS) is Code.INVALID_ARGUMENT


@given(message_bytes, st.integers(0, 4), st.integers(0, 40), st.integers(0, 6))
def test_any_bytes_scan_as_in_the_oracle(
    message: bytes, max_depth: int, max_items: int, max_containers: int
) -> None:
    limits = (max_depth, max_items, max_containers)
    assert outcome(message, *limits) == reference_outcome(message, *limits)


def depth(value: object) -> int:
    match value:
        case dict():
            return 1 + max(map(depth, value.values()), default=0)
        case list():
            return 1 + max(map(depth, value), default=0)
        case _:
            return 0


@given(values, st.tuples(*[st.integers(-1, 1)] * 3))
def test_a_value_at_its_limits_scans_as_in_the_oracle(value: object, more: tuple[int, ...]) -> None:
    message = msgspec.msgpack.encode(value)
    oracle = ReferenceScan(message, *NO_LIMITS)
    used = (depth(value), oracle.run(), oracle.containers)
    limits = [max(0, size + extra) for size, extra in zip(used, more, strict=True)]
    assert outcome(message, *limits) == reference_outcome(message, *limits)


@given(values, st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=3))
def test_a_message_with_wrong_bytes_scans_as_in_the_oracle(
    value: object, changes: list[tuple[int, int]]
) -> None:
    message = bytearray(msgspec.msgpack.encode(value))
    for position, byte in changes:
        message[position % len(message)] = byte
    limits = (64, 10_000, 1000)
    assert outcome(bytes(message), *limits) == reference_outcome(bytes(message), *limits)


@given(message_bytes)
def test_a_message_that_passes_the_scan_can_be_decoded(message: bytes) -> None:
    if type(outcome(message, 64, 10_000, 1000)) is Code:
        return
    # The decoder need only reject invalid UTF-8 and out-of-range times.
    oracle = ReferenceScan(message, 64, 10_000, 1000)
    oracle.run()
    assert decodes(message) is oracle.readable


NEVER = {  # messages that a scan accepts and a decoder rejects
    "text": b"\xa1\xff",
    "text cut": b"\xa2a\xc3",
    "surrogate": b"\xa3\xed\xa0\x80",
    "key": b"\x81\xa1\xff\xc0",
    "deep": b"\x91\x81\x00\x91\xd9\x01\x80",
    "time of too many nanoseconds": b"\xd7\xff\xee\x6b\x28\x00" + bytes(4),
    "time before the year 1": b"\xc7\x0c\xff" + bytes(4) + b"\x80" + bytes(7),
    "time after the year 9999": b"\xc7\x0c\xff" + bytes(4) + b"\x7f" + bytes(7),
}


@pytest.mark.parametrize("message", NEVER.values(), ids=NEVER)
def test_the_oracle_knows_which_values_a_decoder_still_rejects(message: bytes) -> None:
    oracle = ReferenceScan(message, *NO_LIMITS)
    assert scan(message, *NO_LIMITS) == oracle.run()
    assert not oracle.readable
    assert not decodes(message)


@given(st.datetimes(timezones=st.just(dt.UTC)) | st.text())
def test_the_oracle_knows_which_values_are_readable(value: object) -> None:
    oracle = ReferenceScan(msgspec.msgpack.encode(value), *NO_LIMITS)
    oracle.run()
    assert oracle.readable


@pytest.mark.parametrize("first", range(256))
def test_every_first_byte_scans_as_in_the_oracle(first: int) -> None:
    for size in range(24):
        for follows in (b"\x00", b"\x01", b"\xff"):
            message = bytes([first]) + follows * size
            keyed = b"\x81" + message + b"\x00"
            assert outcome(message, *NO_LIMITS) == reference_outcome(message, *NO_LIMITS)
            assert outcome(keyed, *NO_LIMITS) == reference_outcome(keyed, *NO_LIMITS)


@pytest.mark.parametrize(
    "key", [None, True, 1.5, b"bin", [], {}, dt.datetime(2024, 1, 1, tzinfo=dt.UTC)]
)
def test_a_key_is_str_or_int(key: object) -> None:
    message = b"\x81" + msgspec.msgpack.encode(key) + b"\x01"
    with pytest.raises(FramingError, match="a map's key must be str or int") as caught:
        scan(message, *NO_LIMITS)
    assert caught.value.code is Code.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (b"", "at byte 0: it is cut short"),
        (b"\xa5abc", "at byte 1: it is cut short"),
        (b"\x92\x01\xc1", "at byte 3: 0xc1 begins no value"),
        (b"\x01\x02", "at byte 1: it has ended, and more follows"),
        (b"\xdb\xff\xff\xff\xff", "at byte 5: it is cut short"),
        (b"\xc6\xff\xff\xff\xff\x00", "at byte 5: it is cut short"),
        (b"\xc7\x0c", "at byte 2: it is cut short"),
        (b"\xd6\xff\x00\x00\x00", "at byte 1: it is cut short"),
        (b"\xc9\xff\xff\xff\xff\xff", "at byte 5: an extension must be a timestamp"),
    ],
)
def test_a_scan_rejects_malformed_messages(message: bytes, text: str) -> None:
    with pytest.raises(FramingError, match=text) as caught:
        scan(message, *NO_LIMITS)
    assert caught.value.code is Code.INVALID_ARGUMENT


@pytest.mark.parametrize(
    "value",
    "00 e0 c0 c3 a3616263 d901 61 da0001 61 db00000001 61 cc01 cd0001 ce00000001 cf0000000000000001"
    " d001 d10001 d200000001 d30000000000000001 ca00000000 cb0000000000000000 c40161 c5000161"
    " c60000000161 d6ff00000000 d7ff0000000000000000 c70cff000000000000000000000000 9100 8100c0"
    " dc000100 dd0000000100 de00010000 df000000010000".replace(" 61", "61").split(),
)
def test_a_list_truncated_anywhere_is_rejected(value: str) -> None:
    """A scan that overran the message would read the following bytes, which look like values."""
    message = b"\x93" + bytes.fromhex(value) * 3
    assert scan(message, *NO_LIMITS) > 3
    for size in range(len(message)):
        followed = memoryview(message[:size] + bytes(50))[:size]
        with pytest.raises(FramingError, match="it is cut short") as caught:
            scan(followed, *NO_LIMITS)
        assert int(str(caught.value).split()[5].strip(":")) <= size


# Sizes of extensions, and their first byte, followed by the length unless that byte implies it.
EXTENSIONS = [
    *(
        (size, bytes([first]))
        for size, first in zip((1, 2, 4, 8, 16), range(0xD4, 0xD9), strict=True)
    ),
    *((size, bytes([0xC7, size])) for size in range(20)),
    *((size, bytes([0xC8, 0, size])) for size in range(20)),
    *((size, bytes([0xC9, 0, 0, 0, size])) for size in range(20)),
]


@pytest.mark.parametrize(("size", "head"), EXTENSIONS)
def test_only_the_timestamp_extension_is_accepted(size: int, head: bytes) -> None:
    for kind in range(256):
        message = head + bytes([kind]) + bytes(size)
        if kind == 0xFF and size in {4, 8, 12}:
            assert scan(message, *NO_LIMITS) == 1
            assert msgspec.msgpack.decode(message) == dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
        else:
            with pytest.raises(FramingError, match="an extension must be a timestamp") as caught:
                scan(message, *NO_LIMITS)
            assert caught.value.code is Code.INVALID_ARGUMENT


@pytest.mark.parametrize(
    "head", ["dd ffffffff", "df ffffffff", "dd 00000064", "de 0006", "86", "dc 0064"]
)
def test_the_declared_length_of_a_container_counts_immediately(head: str) -> None:
    with pytest.raises(FramingError, match="more than 100 values") as caught:
        scan(bytes.fromhex(head), 64, 100, 10)
    assert caught.value.code is Code.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("opening", [b"\x91", b"\x81\x00"])
@pytest.mark.parametrize("limit", [0, 1, 64, 512])
def test_a_message_may_nest_to_the_limit_and_not_one_level_deeper(
    opening: bytes, limit: int
) -> None:
    cost = 1 if opening == b"\x91" else KEY_COST + 1
    assert scan(opening * limit + b"\xc0", limit, 10**6, 10**6) == cost * limit + 1
    with pytest.raises(FramingError, match=f"deeper than {limit} levels") as caught:
        scan(opening * (limit + 1) + b"\xc0", limit, 10**6, 10**6)
    assert caught.value.code is Code.RESOURCE_EXHAUSTED


def test_values_and_containers_may_reach_their_limits_and_not_exceed_them() -> None:
    message = msgspec.msgpack.encode([[], [], {"a": 1}])
    assert scan(message, 2, 5 + KEY_COST, 4) == 5 + KEY_COST
    with pytest.raises(FramingError, match="more than 20 values"):
        scan(message, 2, 4 + KEY_COST, 4)
    with pytest.raises(FramingError, match="more than 3 lists and maps"):
        scan(message, 2, 5 + KEY_COST, 3)


def test_a_container_that_ends_frees_its_level() -> None:
    message = msgspec.msgpack.encode([[[]], [[]], {"a": {"b": 1}}])
    assert scan(message, 3, 100, 100) == 8 + 2 * KEY_COST


@pytest.mark.parametrize("limits", [(-1, 1, 1), (513, 1, 1), (1, -1, 1), (1, 1, -1)])
def test_limits_of_a_scan_have_their_range(limits: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="must not be negative"):
        scan(b"\xc0", *limits)


# --------------------------------------------------------------------------- memory, stack, threads


def exercise() -> None:
    decoder = FrameDecoder(MAX_FRAME)
    stream = pack_frame(1, 0, 1, b"x" * 9000) + pack_frame(2, 0, 2) + b"\xff" * 9
    drip(decoder, stream, list(range(0, len(stream), 1000)))
    with pytest.raises(FramingError):
        decoder.feed(b"")
    FrameDecoder(10).feed(b"\x05\x00\x00\x06")
    seal(bytearray(20), 1, 0, 1)
    with pytest.raises(ValueError, match="type 99"):
        pack_frame(99, 0, 0, bytearray(5))
    scan(b"\x81\xa1a\x90", 2, 20, 10)
    for message in (b"\xc1", b"\x91" * 9):
        with pytest.raises(FramingError):
            scan(bytearray(message), 2, 10, 10)


def test_neither_success_nor_failure_leaks() -> None:
    def rounds(number: int) -> int:
        gc.collect()
        before = sys.getallocatedblocks()
        for _ in range(number):
            exercise()
        gc.collect()
        return sys.getallocatedblocks() - before

    rounds(100)
    assert rounds(1000) < 100  # one leaked block in each round would make 1000


def test_the_same_failure_raised_again_and_again_does_not_grow() -> None:
    decoder = FrameDecoder(MAX_FRAME)
    decoder.feed(b"\xff" * 8)
    depths = set()
    for _ in range(3):
        with pytest.raises(FramingError) as caught:
            decoder.feed(b"")
        depths.add(len(caught.traceback))
    assert len(depths) == 1


def test_a_buffer_is_free_again_after_every_call() -> None:
    message = bytearray(b"\xc1")
    with pytest.raises(FramingError):
        scan(message, 1, 1, 1)
    with pytest.raises(ValueError, match="type 99"):
        pack_frame(99, 0, 0, message)
    message.append(0)  # raises BufferError if the bytearray is still exported


def test_the_deepest_scan_fits_in_a_small_stack() -> None:
    program = """
import threading
from jumpstarter._framing import scan
from jumpstarter.errors import FramingError

def deepest():
    assert scan(b"\\x91" * 512 + b"\\xc0", 512, 10**6, 10**6) == 513
    try:
        scan(b"\\x91" * 10**6, 512, 10**6, 10**6)
    except FramingError as exc:
        print(exc.code.name)

threading.stack_size(256 * 1024)
thread = threading.Thread(target=deepest)
thread.start()
thread.join()
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("RESOURCE_EXHAUSTED\n", "")


def test_decoders_of_several_threads_are_independent() -> None:
    stream = b"".join(wire for _, wire in FRAMES)
    expected = [frame for frame, _ in FRAMES]
    results: list[list[Frame]] = []

    def read(step: int) -> None:
        decoder = FrameDecoder(MAX_FRAME)
        results.append(drip(decoder, stream, list(range(step, len(stream), step))))

    threads = [threading.Thread(target=read, args=(step,)) for step in range(90, 98)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert results == [expected] * 8


@given(st.binary(max_size=40), st.integers(), st.integers(0, 2**64 - 1))
def test_the_end_of_a_value_is_looked_for_within_its_piece_only(
    piece: bytes, start: int, size: int
) -> None:
    if 0 <= start <= len(piece):
        assert -1 <= find_tail(piece, start, size) <= max(-1, len(piece) - 5)
    else:
        with pytest.raises((ValueError, OverflowError)):
            find_tail(piece, start, size)


@pytest.mark.parametrize("start", [-1, -5, 16, 2**40])
def test_a_value_that_begins_outside_of_its_piece_is_refused(start: int) -> None:
    value = b"\xc6\x00\x00\x00\x0aabcdefghij"
    assert find_tail(value, 0, len(value)) == 0
    with pytest.raises(ValueError, match="must be a position in the piece"):
        find_tail(value, start, len(value))
