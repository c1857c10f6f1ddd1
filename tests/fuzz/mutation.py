"""Mutate frames and values: by grammar, so that parsing advances far, and by bytes."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Final

from jumpstarter._protocol.frames import FrameType

from .corpus import BREACHES, FRAMES, HELLO, LONGEST, VALUE_AT, VALUES, Frame

SLOTS: Final = (1, 1, 1, 2, 2, 3, 3, 0, 4, 0xFFFF, 2**32 - 1)
FLAGS: Final = (0, 0, 0, 0x10, 0x20, 0x20, 0x40, 0x30, 0x70, 0x80, 0xF0)
NUMBERS: Final = (0, 1, 2, 0x7F, 0x80, 0xFF, 2**16 - 1, 2**24 - 1, 2**31 - 1, 2**31, 2**32 - 1)
PART: Final = 1024  # bytes in a good part of a message
DEEPEST: Final = 70  # levels; a few more than the limit


class Mutator:
    """A random source, and the mutations that it applies to the corpus.

    Args:
        seed: The same seed generates the same cases in the same order.
    """

    def __init__(self, seed: str) -> None:
        self.random = random.Random(seed)
        self._others: list[Frame] = []  # the stream that `_insert` takes frames from
        self._moves: tuple[Callable[[list[Frame], int], None], ...] = (
            self._repeat,
            self._insert,
            self._insert,
            self._move,
            self._remove,
            self._to_slot,
            self._to_slot,
            self._in_parts,
            self._in_parts,
            self._change_payload,
            self._change_payload,
            self._change_type,
            self._change_flags,
            self._insert_breach,
        )

    # ---------------------------------------------------------------------------------- frames

    def frames(self, streams: Sequence[list[Frame]]) -> list[Frame]:
        """Interleave streams after a HELLO, and apply up to eight mutations."""
        pick = self.random.choice
        frames = list(pick(streams)[1:])
        for _ in range(self.random.choice((0, 1, 3, 8))):
            at = self.random.randint(0, len(frames))
            frames[at:at] = [frame for frame in pick(streams)[1:] if frame.slot]
        self._others = pick(streams)
        for _ in range(self.random.choice((0, 1, 2, 4, 8))):
            if frames:
                pick(self._moves)(frames, self.random.randrange(len(frames)))
        return [HELLO, *frames]

    def wire(self, frame: Frame) -> bytes:
        """Encode a frame; one in three hundred gets a wrong length or mutated bytes."""
        type_, flags, slot, payload = frame
        length = len(payload)
        wrong = self.random.random() < 1 / 300
        if wrong and self.random.random() < 0.5:
            length = self.random.choice((0, length + 1, max(0, length - 1), *NUMBERS)) & 0xFFFFFF
        header = (length | (type_ | flags) << 24 | slot << 32).to_bytes(8, "little")
        if wrong and self.random.random() < 0.7:
            return self.bytes_changed(header + payload)
        return header + payload

    def _repeat(self, frames: list[Frame], at: int) -> None:
        frames[at:at] = [frames[at]] * self.random.choice((1, 1, 2, 5, 20))

    def _insert(self, frames: list[Frame], at: int) -> None:
        frames.insert(at + 1, self.random.choice(self._others))

    def _insert_breach(self, frames: list[Frame], at: int) -> None:
        frames.insert(at + 1, self.random.choice((*BREACHES, *FRAMES)))

    def _move(self, frames: list[Frame], at: int) -> None:
        frames.insert(self.random.randrange(len(frames)), frames.pop(at))

    def _remove(self, frames: list[Frame], at: int) -> None:
        del frames[at]

    def _to_slot(self, frames: list[Frame], at: int) -> None:
        frames[at] = frames[at]._replace(slot=self.random.choice(SLOTS))

    def _change_type(self, frames: list[Frame], at: int) -> None:
        frames[at] = frames[at]._replace(type=self.random.randrange(12))

    def _change_flags(self, frames: list[Frame], at: int) -> None:
        frames[at] = frames[at]._replace(flags=self.random.choice(FLAGS))

    def _in_parts(self, frames: list[Frame], at: int) -> None:
        """Split a message into parts, of the right size or smaller, sometimes without its end."""
        frame = frames[at]
        count = self.random.choice((1, 1, 2, 3, 5))
        filling = bytes(self.random.choice((PART, PART, PART, PART - 1, 1, 0)))
        first = frame._replace(flags=frame.flags | 0x20, payload=frame.payload[:PART] or filling)
        parts = [first, *[first._replace(payload=filling)] * (count - 1)]
        frames[at : at + (self.random.random() < 0.2)] = parts

    def _change_payload(self, frames: list[Frame], at: int) -> None:
        frame = frames[at]
        payload = frame.payload
        match frame.type:
            case FrameType.CREDIT if self.random.random() < 0.8:
                payload = self.random.choice(NUMBERS).to_bytes(4, "little")
            case FrameType.CANCEL if self.random.random() < 0.8:
                payload = self.random.choice((1, 21, 0, 0xFFFF)).to_bytes(2, "little")
            case FrameType.DATA:
                payload = bytes(self.random.choice((0, 1, 100, 999, 1000, LONGEST, LONGEST + 1)))
            case FrameType.CALL if len(payload) > 8 and self.random.random() < 0.5:
                kind = self.random.choice((0, 1, 2, 0x80, 0x41, 3, 63))
                payload = payload[:6] + bytes([kind]) + payload[7:]
            case type_ if type_ in VALUE_AT and self.random.random() < 0.7:
                payload = payload[: VALUE_AT[FrameType(type_)]] + self.message()
            case _:
                payload = self.bytes_changed(payload)
        frames[at] = frame._replace(payload=payload)

    # ----------------------------------------------------------------------------------- bytes

    def bytes_changed(self, data: bytes) -> bytes:
        """Change, truncate, duplicate, insert or remove some bytes."""
        changed = bytearray(data)
        for _ in range(self.random.choice((1, 1, 1, 2, 4))):
            at = self.random.randrange(len(changed) + 1)
            size = self.random.choice((1, 1, 2, 4, 16))
            match self.random.randrange(6):
                case 0:
                    changed[at : at + 1] = bytes([self.random.randrange(256)])
                case 1:
                    del changed[at : at + size]
                case 2:
                    changed[at:at] = self.random.randbytes(size)
                case 3:
                    changed[at:at] = changed[at : at + size]
                case 4:
                    del changed[at:]
                case 5:
                    changed[at : at + 1] = bytes([1 << self.random.randrange(8)])
        return bytes(changed)

    def pieces(self, stream: bytes) -> list[bytes]:
        """Split bytes at random positions: at few, at many, or at all of them."""
        count = self.random.choice((0, 1, 3, 10, len(stream)))
        if count >= len(stream):
            return [stream[at : at + 1] for at in range(len(stream))]
        cuts = sorted(self.random.randrange(len(stream) + 1) for _ in range(count))
        return [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]

    # ---------------------------------------------------------------------------------- values

    def message(self) -> bytes:
        """Make one MessagePack value, in any encoding that it may have; most are well-formed."""
        draw = self.random.random()
        if draw < 0.25:
            return self.random.choice(VALUES)
        if draw < 0.30:
            opening = self.random.choice((b"\x91", b"\x81\x00", b"\xdc\x00\x01"))
            return opening * self.random.randrange(DEEPEST) + b"\xc0"
        return self._value(self.random.choice((0, 1, 1, 2, 3)))

    def _value(self, depth: int) -> bytes:
        if depth == 0 or self.random.random() < 0.2:
            return self._leaf()
        count = self.random.choice((0, 1, 1, 2, 2, 3, 4, 17))
        promised = self.random.choice(NUMBERS) if self.random.random() < 0.02 else count
        if self.random.random() < 0.5:
            values = [self._value(depth - 1) for _ in range(count)]
            return self._head(promised, (0x90, 16), (0xDC, 2), (0xDD, 4)) + b"".join(values)
        pairs = [self._key() + self._value(depth - 1) for _ in range(count)]
        return self._head(promised, (0x80, 16), (0xDE, 2), (0xDF, 4)) + b"".join(pairs)

    def _head(self, count: int, small: tuple[int, int], *wide: tuple[int, int]) -> bytes:
        """Encode a length in any form that can hold it; `wide` are pairs of first byte and size."""
        base, room = small
        forms = [(first, size) for first, size in wide if count < 256**size]
        if count < room and self.random.random() < 0.7:
            return bytes([base + count])
        first, size = self.random.choice(forms)
        return bytes([first]) + count.to_bytes(size, "big")

    def _key(self) -> bytes:
        if self.random.random() < 0.01:
            return self._leaf()
        return self._text() if self.random.random() < 0.6 else self._integer()

    def _text(self) -> bytes:
        size = self.random.choice((0, 1, 5, 31, 32, 40))
        text = self.random.randbytes(size) if self.random.random() < 0.05 else b"x" * size
        return self._head(size, (0xA0, 32), (0xD9, 1), (0xDA, 2), (0xDB, 4)) + text

    def _integer(self) -> bytes:
        first = self.random.choice((0, 0x7F, 0xE0, 0xFF, *range(0xCC, 0xD4)))
        size = 1 << (first & 3) if 0xCC <= first < 0xD4 else 0
        return bytes([first]) + self.random.randbytes(size)

    def _leaf(self) -> bytes:
        match self.random.randrange(8):
            case 0 | 1:
                return self._text()
            case 2 | 3:
                return self._integer()
            case 4:
                return self.random.choice((b"\xc0", b"\xc2", b"\xc3", b"\xc1"))
            case 5:
                size = self.random.choice((0, 1, 300))
                return self._head(size, (0, 0), (0xC4, 1), (0xC5, 2), (0xC6, 4)) + bytes(size)
            case 6:
                return self.random.choice((b"\xca" + bytes(4), b"\xcb" + self.random.randbytes(8)))
            case _:
                return self._extension()

    def _extension(self) -> bytes:
        kind = bytes([self.random.choice((0xFF, 0xFF, 0xFF, 0, 1))])
        size = self.random.choice((4, 8, 12, 1, 2, 16, 5))
        data = bytes(size) if self.random.random() < 0.5 else self.random.randbytes(size)
        if size in {1, 2, 4, 8, 16} and self.random.random() < 0.6:
            return bytes([0xD4 + size.bit_length() - 1]) + kind + data
        return self._head(size, (0, 0), (0xC7, 1), (0xC8, 2), (0xC9, 4)) + kind + data
