"""Fuzz targets: the decoder and the scan must agree with their oracle on mutated bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec

from jumpstarter._framing import FrameDecoder, scan
from jumpstarter._limits import Limits
from jumpstarter._protocol import codec as m
from jumpstarter._protocol.frames import Hello
from jumpstarter.errors import ArgumentError, Code, FramingError
from reference_framing import MessageError, ReferenceDecoder, ReferenceScan

from .corpus import LONGEST, TO_CLIENT, TO_SERVER, Frame
from .mutation import Mutator

MAX_FRAME: Final = LONGEST
LARGE_FRAME: Final = 9000  # bytes; two pieces of this size are too large to be gathered
NARROW: Final = (4, 60, 8)  # depth, items, containers
LIMITS: Final = Limits(max_items=10_000, max_containers=1000)


def streams(mutator: Mutator) -> Iterator[list[bytes]]:
    """Make streams of frames, split anywhere: each one intact, then four times mutated."""
    while True:
        frames = mutator.frames(mutator.random.choice((TO_SERVER, TO_CLIENT)))
        if mutator.random.random() < 0.05:
            size = mutator.random.choice((5000, LARGE_FRAME, LARGE_FRAME + 1))
            frames.insert(1, Frame(6, 0, 1, mutator.random.randbytes(size)))
        stream = b"".join(map(mutator.wire, frames))
        yield mutator.pieces(stream)
        for _ in range(4):
            yield mutator.pieces(mutator.bytes_changed(stream))


def check_stream(pieces: list[bytes]) -> int:
    """Feed a decoder these pieces, and the oracle all of them joined. Returns a count of frames."""
    large = sum(map(len, pieces)) > LARGE_FRAME
    return _check_stream(pieces, MAX_FRAME) + (_check_stream(pieces, LARGE_FRAME) if large else 0)


def _check_stream(pieces: list[bytes], max_frame: int) -> int:
    decoder, oracle = FrameDecoder(max_frame), ReferenceDecoder(max_frame)
    frames = []
    buffer = bytearray(max(map(len, pieces), default=0))
    for number, piece in enumerate(pieces):
        if decoder.failure is not None:
            break
        if number % 2:  # like a bulk read, whose buffer the next read overwrites
            buffer[: len(piece)] = piece
            frames += decoder.feed(memoryview(buffer)[: len(piece)])
        else:
            frames += decoder.feed(piece)
    stream = b"".join(pieces)
    assert frames == oracle.feed(stream)
    if oracle.breach is None:
        assert decoder.failure is None
        assert decoder.buffered == len(stream) - oracle.position
    else:
        assert decoder.failure is not None
        assert decoder.failure.code is oracle.breach.code
        assert f"frame at byte {oracle.breach.position} of" in str(decoder.failure)
        assert decoder.buffered == 0
    return len(frames) + 1


def messages(mutator: Mutator) -> Iterator[list[bytes]]:
    """Make batches of one value: intact, then four times with its bytes mutated."""
    while True:
        message = mutator.message()
        yield [message, *(mutator.bytes_changed(message) for _ in range(4))]


def check_messages(batch: list[bytes]) -> int:
    """Compare `scan` with the oracle on each message, and pass the message to all `READERS`."""
    wide = (LIMITS.max_depth, LIMITS.max_items, LIMITS.max_containers)
    for message in batch:
        assert judged(message, NARROW) == _by_oracle(ReferenceScan(message, *NARROW))
        oracle = ReferenceScan(message, *wide)
        verdict = judged(message, wide)
        assert verdict == _by_oracle(oracle)
        if not isinstance(verdict, Code):
            assert decodes(message) is oracle.readable
        for read in READERS:
            try:
                read(message)
            except ArgumentError as exc:
                str(exc)
    return len(batch)


def judged(message: bytes, limits: tuple[int, int, int]) -> int | Code:
    """Return `scan`'s count for a message, or the code of its error."""
    try:
        return scan(message, *limits)
    except FramingError as exc:
        return exc.code


def _by_oracle(oracle: ReferenceScan) -> int | Code:
    try:
        return oracle.run()
    except MessageError as exc:
        return exc.code


def decodes(message: bytes) -> bool:
    """Return True if msgspec can decode a message that `scan` accepted."""
    try:
        msgspec.msgpack.decode(message)
    except Exception:  # noqa: BLE001 - the exception classes differ between versions of msgspec
        return False
    return True


# All functions that read a peer's value. They may raise ArgumentError, and nothing else.
HELLO_HEAD: Final = m.encode_hello(Hello.of(LIMITS))[:28]
READERS: Final[tuple[Callable[[bytes], Any], ...]] = (
    lambda body: m.decode_value(body, LIMITS),
    lambda body: m.decode_error(b"\x02\x00" + body, LIMITS),
    lambda body: m.decode_nodes(body, LIMITS),
    lambda body: m.decode_hello(HELLO_HEAD + body),
    m.decode_call,
    m.decode_goaway,
)
