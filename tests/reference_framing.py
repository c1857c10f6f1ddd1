"""The tests' oracle for `jumpstarter._framing`: the same functions in simple Python.

It is slow, keeps whole streams, and shares only the error codes with the extension. A
breach is a `Breach(code, position)` instead of an exception.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import NamedTuple

from jumpstarter.errors import Code

Frame = tuple[int, int, int, bytes]


# The range of a datetime, in seconds since 1970: the years 1 to 9999.
FIRST_SECOND, LAST_SECOND = -62_135_596_800, 253_402_300_799


class Breach(NamedTuple):
    code: Code
    position: int  # bytes into the stream, where the bad frame begins; or into the message


class MessageError(Exception):
    def __init__(self, code: Code) -> None:
        super().__init__(code.name)
        self.code = code


def pack_header(kind: int, flags: int, slot: int, length: int) -> bytes:
    return struct.pack("<II", length | (kind | flags) << 24, slot)


@dataclass
class ReferenceDecoder:
    max_frame: int
    stream: bytes = b""
    position: int = 0
    breach: Breach | None = None
    frames: list[Frame] = field(default_factory=list)

    def feed(self, data: bytes) -> list[Frame]:
        """Consume bytes and return the frames that they complete; none after a breach."""
        before = len(self.frames)
        self.stream += data
        while self.breach is None and self._next_frame():
            pass
        return self.frames[before:]

    def _next_frame(self) -> bool:
        header = self.stream[self.position : self.position + 8]
        if len(header) < 4:
            return False
        (word,) = struct.unpack("<I", header[:4])
        length, kind, flags = word & 0xFFFFFF, word >> 24 & 0x0F, word >> 24 & 0xF0
        if length > self.max_frame:
            self.breach = Breach(Code.FRAME_SIZE, self.position)
        elif flags & 0x80 or kind > 10:
            self.breach = Breach(Code.PROTOCOL_ERROR, self.position)
        end = self.position + 8 + length
        if self.breach is not None or len(self.stream) < end or len(header) < 8:
            return False
        (slot,) = struct.unpack("<I", header[4:])
        self.frames.append((kind, flags, slot, self.stream[self.position + 8 : end]))
        self.position = end
        return True


@dataclass
class ReferenceScan:
    """A recursive scan of one message; `run` returns the number of its values, or raises.

    Afterwards `readable` tells whether all texts and times are valid. A scan does not check that,
    but a decoder must.
    """

    message: bytes
    max_depth: int
    max_items: int
    max_containers: int
    position: int = 0
    items: int = 1
    containers: int = 0
    readable: bool = field(default=True, init=False)

    def run(self) -> int:
        self._value(depth=0)
        if self.position != len(self.message):
            raise MessageError(Code.INVALID_ARGUMENT)
        return self.items

    def _take(self, size: int) -> bytes:
        taken = self.message[self.position : self.position + size]
        if len(taken) < size:
            raise MessageError(Code.INVALID_ARGUMENT)
        self.position += size
        return taken

    def _number(self, size: int) -> int:
        return int.from_bytes(self._take(size), "big")

    def _value(self, depth: int, *, key: bool = False) -> None:
        first = self._take(1)[0]
        match first:
            case _ if first < 0x80 or first >= 0xE0 or 0xCC <= first <= 0xD3:  # int
                self._take(1 << (first & 3) if 0xCC <= first <= 0xD3 else 0)
                return
            case _ if 0xA0 <= first < 0xC0 or 0xD9 <= first <= 0xDB:  # str
                self._text(first & 0x1F if first < 0xC0 else self._number(1 << (first - 0xD9)))
                return
            case 0xC0 | 0xC2 | 0xC3:  # nil, bool
                pass
            case 0xC4 | 0xC5 | 0xC6:  # bin
                self._take(self._number(1 << (first - 0xC4)))
            case 0xC7 | 0xC8 | 0xC9:  # ext
                self._extension(self._number(1 << (first - 0xC7)))
            case 0xCA | 0xCB:  # float
                self._take(4 if first == 0xCA else 8)
            case 0xD4 | 0xD5 | 0xD6 | 0xD7 | 0xD8:  # fixext
                self._extension(1 << (first - 0xD4))
            case _:
                self._container(first, depth, key=key)
        if key:
            raise MessageError(Code.INVALID_ARGUMENT)

    def _extension(self, size: int) -> None:
        if self._take(1) != b"\xff" or size not in {4, 8, 12}:  # the timestamp's
            raise MessageError(Code.INVALID_ARGUMENT)
        number = self._number(size)
        nanoseconds, seconds = divmod(number, 2**34 if size == 8 else 2**64)
        if seconds >= 2**63:
            seconds -= 2**64
        last = seconds == LAST_SECOND and nanoseconds >= 999_999_500  # rounds up out of range
        if nanoseconds >= 10**9 or not FIRST_SECOND <= seconds <= LAST_SECOND or last:
            self.readable = False

    def _text(self, size: int) -> None:
        try:
            self._take(size).decode()
        except UnicodeDecodeError:
            self.readable = False

    def _container(self, first: int, depth: int, *, key: bool) -> None:
        match first:
            case _ if 0x80 <= first < 0xA0:
                count, keyed = first & 0x0F, first < 0x90
            case 0xDC | 0xDD | 0xDE | 0xDF:
                count, keyed = self._number(4 if first & 1 else 2), first >= 0xDE
            case _:
                raise MessageError(Code.INVALID_ARGUMENT)
        if key:
            raise MessageError(Code.INVALID_ARGUMENT)
        self.items += count * (1 + 16 if keyed else 1)
        self.containers += 1
        over = (depth >= self.max_depth, self.containers > self.max_containers)
        if any(over) or self.items > self.max_items:
            raise MessageError(Code.RESOURCE_EXHAUSTED)
        for _ in range(count):
            if keyed:
                self._value(depth + 1, key=True)
            self._value(depth + 1)
