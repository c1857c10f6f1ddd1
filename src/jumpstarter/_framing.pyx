# cython: language_level=3, auto_pickle=False, autotestdict=False
"""Cut bytes into frames, build frames, and scan a MessagePack value before it is decoded.

A frame is a header of 8 bytes, little-endian, and its payload:

    byte 0..2   length of the payload, u24
    byte 3      low 4 bits the type, high 4 bits the flags: END 0x10, MORE 0x20, ACK 0x40, 0x80 zero
    byte 4..7   the slot, u32

Rules:
- The decoder compares a declared length, as an unsigned number, with the limit before it allocates
  memory. Memory grows only with the bytes that have arrived.
- The decoder checks a header as soon as its first four bytes have arrived, so it recognizes another
  protocol on the port immediately.
- A decoder stays broken after a bad header, because nothing marks where the next frame begins.
- Functions that only calculate are `noexcept nogil`; functions that can fail are `except -1`. No
  pointer outlives the object that it points into. The buffer protocol is the only foreign code that
  runs here. It runs before any state changes or after all of it has changed, so it cannot see or
  re-enter a half-updated decoder.

_framing.pxd declares what the compiled rules call from C.

This module is independent of the meaning of frame types, of the side of the connection, and of the
source of the bytes.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from .errors import Code, FramingError

cdef enum:
    HEADER = 8  # bytes
    JUDGED = 4  # bytes of a header that hold all the fields that can be invalid
    MAX_LENGTH = 0xFFFFFF
    TYPE_BITS = 0x0F
    LAST_TYPE = 10  # GOAWAY
    FLAG_BITS = 0x70
    RESERVED_FLAG = 0x80
    SMALL_PIECE = 4096  # shorter pieces of a payload are merged, which bounds the number of objects
    SHOWN = 16  # bytes from the start of the stream that an error message quotes
    DEEPEST = 512  # levels that fit in the fixed-size stack of `scan`
    KEY_COST = 16  # items: colliding keys, which a peer can choose, cost a dict over 1 µs each
    TIMESTAMP = 0xFF  # the type -1, as an unsigned byte
    BYTES_32 = 0xC6  # bytes whose length has four bytes
    BYTES_HEAD = 5

HEADER_SIZE = HEADER


# ------------------------------------------------------------------------------------------ reading


cdef inline uint32_t read_u24(const uint8_t* at) noexcept nogil:
    return <uint32_t>at[0] | <uint32_t>at[1] << 8 | <uint32_t>at[2] << 16


cdef inline uint32_t read_u32(const uint8_t* at) noexcept nogil:
    return read_u24(at) | <uint32_t>at[3] << 24


cdef inline const char* step(Chunk* chunk, Py_ssize_t size) noexcept nogil:
    """Consume `size` bytes and return a pointer to the first of them."""
    chunk.position += size
    return chunk.data + chunk.position - size


cdef inline const char* start_of(object piece):
    return PyBytes_AS_STRING(piece) if type(piece) is bytes else PyByteArray_AS_STRING(piece)


@cython.final
cdef class FrameDecoder:
    """Cut one direction of a byte stream into frames.

    A decoder has no lock: only one task or thread, the reader of the connection, may use it.

    Args:
        max_frame: Bytes of payload to accept in one frame, 0 to 16,777,215.

    Raises:
        ValueError: `max_frame` is out of range.
    """

    def __cinit__(self, Py_ssize_t max_frame):
        self._failure = None
        self._offset = 0
        self._header_size = 0
        self._pieces = []
        self._gathered = None
        self._held = 0
        self.max_frame = max_frame

    @property
    def max_frame(self):
        """Bytes of payload that the decoder accepts in each frame.

        A change applies to each frame whose header is not complete yet.
        """
        return self._max_frame

    @max_frame.setter
    def max_frame(self, Py_ssize_t value):
        if not 0 <= value <= MAX_LENGTH:
            raise ValueError(f"max_frame={value}: must be from 0 to {MAX_LENGTH}")
        self._max_frame = <uint32_t>value

    @property
    def failure(self):
        """The `FramingError` that broke the decoder, or None."""
        return self._failure

    @property
    def buffered(self):
        """Bytes of the incomplete frame that the decoder holds, including its header."""
        return self._header_size + self._held

    cpdef list feed(self, data):
        """Consume the next bytes of the stream and return the frames that they complete.

        Bytes from the peer never make this raise. At a bad header it returns the frames before it,
        sets `failure`, and drops all later bytes.

        Args:
            data: Received bytes, of any length, cut anywhere. The caller may reuse a buffer after
                the call: the decoder copies from it. A large `bytes` object that lies entirely
                within one payload is kept without a copy.

        Returns:
            A list of `(type, flags, slot, payload)`. `flags` has the bits of the header's fourth
            byte, and `payload` is a `bytes` object of its own.

        Raises:
            FramingError: The decoder was already broken; this is always the same `failure`.
        """
        cdef Py_buffer view
        cdef Chunk chunk
        chunk.position = 0
        if type(data) is bytes:
            chunk.data, chunk.size = PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data)
            return self._take(&chunk, data)
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            chunk.data, chunk.size = <const char*>view.buf, view.len
            return self._take(&chunk, None)
        finally:
            PyBuffer_Release(&view)

    cdef list _take(self, Chunk* chunk, bytes whole):
        """Cut a chunk into frames.

        `whole` is the bytes object that the chunk points into, or None for another buffer. It can
        become a payload, or a piece of one, without a copy.
        """
        cdef list frames = []
        if self._failure is not None:
            raise self._failure.with_traceback(None)
        while self._take_header(chunk) and self._take_payload(chunk, whole, frames):
            pass
        return frames

    cdef int _take_header(self, Chunk* chunk) except -1:
        """Consume the missing bytes of the header; return whether it is complete and valid."""
        cdef Py_ssize_t size
        if self._header_size == HEADER:
            return 1
        size = min(chunk.size - chunk.position, HEADER - self._header_size)
        memcpy(&self._header[self._header_size], step(chunk, size), size)
        self._header_size += size
        if self._header_size < JUDGED:
            return 0
        if read_u24(self._header) > self._max_frame:
            return self._fail("it is too large", Code.FRAME_SIZE, chunk)
        if self._header[3] & RESERVED_FLAG:
            return self._fail("its flag 0x80 must be zero", Code.PROTOCOL_ERROR, chunk)
        if self._header[3] & TYPE_BITS > LAST_TYPE:
            return self._fail(
                f"its type is {self._header[3] & TYPE_BITS}, and the last one known is {LAST_TYPE}",
                Code.PROTOCOL_ERROR,
                chunk,
            )
        return self._header_size == HEADER

    cdef int _take_payload(self, Chunk* chunk, bytes whole, list frames) except -1:
        """Consume the missing bytes of the payload; return whether the frame is complete."""
        cdef Py_ssize_t length = <Py_ssize_t>read_u24(self._header)
        cdef Py_ssize_t size = min(length - self._held, chunk.size - chunk.position)
        cdef const char* data = step(chunk, size)
        cdef bytes payload
        if self._held + size < length:
            if size:
                self._hold(data, size, whole if size == chunk.size else None)
            return 0
        if self._held:
            payload = self._join(data, size)
        elif size == chunk.size and whole is not None:
            payload = whole
        else:
            payload = PyBytes_FromStringAndSize(data, size)
        frames.append((
            self._header[3] & TYPE_BITS,
            self._header[3] & FLAG_BITS,
            read_u32(&self._header[4]),
            payload,
        ))
        self._offset += <uint64_t>(HEADER + length)
        self._forget()
        return 1

    cdef int _hold(self, const char* data, Py_ssize_t size, bytes whole) except -1:
        """Keep a piece of an incomplete payload; `_join` joins them when the last one arrives."""
        if size >= SMALL_PIECE:
            self._pieces.append(PyBytes_FromStringAndSize(data, size) if whole is None else whole)
            self._gathered = None
        else:
            if self._gathered is None:
                self._gathered = bytearray()
                self._pieces.append(self._gathered)
            self._gathered += data[:size]
        self._held += size
        return 0

    cdef bytes _join(self, const char* data, Py_ssize_t size):
        """Build the payload from the held pieces and the last one, which is copied only here."""
        cdef bytes payload = PyBytes_FromStringAndSize(NULL, self._held + size)
        cdef char* at = PyBytes_AS_STRING(payload)
        cdef Py_ssize_t length
        for piece in self._pieces:
            length = len(piece)
            memcpy(at, start_of(piece), length)
            at += length
        memcpy(at, data, size)
        return payload

    cdef int _forget(self) except -1:
        """Drop the header and the pieces of the current frame."""
        self._header_size = 0
        if self._held:
            self._pieces = []
            self._gathered = None
            self._held = 0
        return 0

    cdef int _fail(self, str reason, object code, Chunk* chunk) except -1:
        """Set `failure`, after which the decoder stays broken. Return 0: no frame follows."""
        cdef bytes start = PyBytes_FromStringAndSize(<char*>self._header, self._header_size)
        cdef Py_ssize_t size
        cdef str text = (
            f"frame at byte {self._offset} of the stream, which declares {read_u24(self._header)} "
            f"bytes of payload where {self._max_frame} are allowed: {reason}"
        )
        if self._offset == 0:
            size = min(chunk.size - chunk.position, SHOWN - HEADER)
            start += chunk.data[chunk.position : chunk.position + size]
            text += f". The peer may not speak this protocol: its stream begins with {start!r}"
        self._failure = FramingError(text, code)
        self._forget()
        return 0


# ------------------------------------------------------------------------------------------ writing


cdef int check_header(
    Py_ssize_t type, Py_ssize_t flags, long long slot, Py_ssize_t length
) except -1:
    if not 0 <= type <= LAST_TYPE:
        raise ValueError(f"frame type {type}: must be from 0 to {LAST_TYPE}")
    if flags & ~<Py_ssize_t>FLAG_BITS:
        raise ValueError(f"frame flags {flags:#x}: only the bits {FLAG_BITS:#x} exist")
    if not 0 <= slot <= 0xFFFFFFFF:
        raise ValueError(f"frame slot {slot}: must be from 0 to {0xFFFFFFFF}")
    if not 0 <= length <= MAX_LENGTH:
        raise ValueError(f"frame payload of {length} bytes: must be from 0 to {MAX_LENGTH}")
    return 0


cdef inline void write_header(
    uint8_t* at, Py_ssize_t type, Py_ssize_t flags, long long slot, Py_ssize_t length
) noexcept nogil:
    at[0] = length & 0xFF
    at[1] = length >> 8 & 0xFF
    at[2] = length >> 16 & 0xFF
    at[3] = type | flags
    at[4] = slot & 0xFF
    at[5] = slot >> 8 & 0xFF
    at[6] = slot >> 16 & 0xFF
    at[7] = slot >> 24 & 0xFF


cpdef bytes pack_frame(
    Py_ssize_t type, Py_ssize_t flags, long long slot, payload = b""
):
    """Build a frame with a copy of the payload, for payloads too small for a separate buffer.

    Args:
        type: 0 to 10.
        flags: The bitwise OR of any of END 0x10, MORE 0x20 and ACK 0x40.
        slot: 0 to 2**32 - 1.
        payload: A contiguous buffer of at most 16,777,215 bytes.

    Returns:
        Header and payload in one object.

    Raises:
        ValueError: A number is out of range (OverflowError if it has more than 64 bits).
    """
    cdef Py_buffer view
    cdef bytes frame
    cdef char* at
    PyObject_GetBuffer(payload, &view, PyBUF_SIMPLE)
    try:
        check_header(type, flags, slot, view.len)
        frame = PyBytes_FromStringAndSize(NULL, HEADER + view.len)
        at = PyBytes_AS_STRING(frame)
        write_header(<uint8_t*>at, type, flags, slot, view.len)
        if view.len:
            memcpy(at + HEADER, view.buf, view.len)
    finally:
        PyBuffer_Release(&view)
    return frame


cpdef bytes pack_header(Py_ssize_t type, Py_ssize_t flags, long long slot, Py_ssize_t length):
    """Build only the header, for a payload that is sent as a separate buffer.

    Args:
        type, flags, slot: As for `pack_frame`.
        length: Bytes of the payload that follows, at most 16,777,215.

    Raises:
        ValueError: As for `pack_frame`.
    """
    check_header(type, flags, slot, length)
    cdef bytes header = PyBytes_FromStringAndSize(NULL, HEADER)
    write_header(<uint8_t*>PyBytes_AS_STRING(header), type, flags, slot, length)
    return header


cpdef object seal(bytearray buffer, Py_ssize_t type, Py_ssize_t flags, long long slot):
    """Write the header over the first 8 bytes of a buffer whose rest is the payload.

    Args:
        buffer: 8 bytes of any content, then the payload, as `encode_into(message, buffer, 8)`
            writes it. It is changed in place and keeps its length.
        type, flags, slot: As for `pack_frame`.

    Raises:
        ValueError: As for `pack_frame`, or the buffer is shorter than a header.
    """
    cdef Py_ssize_t length
    if buffer is None:  # `not None` is not allowed in a cpdef function's signature
        raise TypeError("buffer must be a bytearray, not None")
    length = PyByteArray_GET_SIZE(buffer) - HEADER
    if length < 0:
        raise ValueError(f"buffer of {len(buffer)} bytes: a header alone has {HEADER}")
    check_header(type, flags, slot, length)
    write_header(<uint8_t*>PyByteArray_AS_STRING(buffer), type, flags, slot, length)


# ----------------------------------------------------------------------------------------- scanning
# Three tables with a column for each of MessagePack's first bytes 0xc0 to 0xdf: the kind of value,
# the number of bytes of its big-endian length, and the number of other bytes that follow. All other
# first bytes contain the kind and the length themselves.

cdef const char* KINDS = (
    b"\0\4\0\0\0\0\0\5\5\5\0\0\1\1\1\1\1\1\1\1\5\5\5\5\5\1\1\1\2\2\3\3"
)
cdef const char* LENGTH_SIZES = (
    b"\0\0\0\0\1\2\4\1\2\4\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\1\2\4\2\4\2\4"
)
cdef const char* FIXED_SIZES = (
    b"\0\0\0\0\0\0\0\1\1\1\4\10\1\2\4\10\1\2\4\10\2\3\5\11\21\0\0\0\0\0\0\0"
)

cdef enum:
    VALUE = 0  # a value that cannot be the key of a map
    KEY = 1  # str or int: a value that can also be a key
    ARRAY = 2
    MAP = 3
    NEVER_USED = 4
    EXTENSION = 5  # a value only if it is a timestamp

cdef enum Verdict:
    GOOD
    CUT_SHORT
    NO_VALUE
    NO_TIMESTAMP
    BAD_KEY
    TRAILING
    TOO_DEEP  # from here on: valid, but over a limit
    TOO_MANY_ITEMS
    TOO_MANY_CONTAINERS

cdef struct Level:
    uint64_t left  # values of the container that were not read yet, keys included
    bint keyed  # whether it is a map, in which a key is next whenever `left` is even

cdef struct Walk:
    const uint8_t* at  # the next byte
    const uint8_t* end
    uint64_t items  # cost of the values read so far and of those that containers declare
    uint64_t containers  # number of lists and maps read so far
    char kind  # of the last value that was read
    uint64_t count  # its elements (array) or pairs (map), else 0


cdef inline uint64_t read_big_u32(const uint8_t* at) noexcept nogil:
    return <uint64_t>at[0] << 24 | <uint64_t>at[1] << 16 | <uint64_t>at[2] << 8 | at[3]


cdef inline Verdict skip(Walk* walk, uint64_t size) noexcept nogil:
    if <uint64_t>(walk.end - walk.at) < size:
        return CUT_SHORT
    walk.at += size
    return GOOD


cdef Verdict read_extension(Walk* walk, uint64_t size) noexcept nogil:
    """Skip a timestamp: its type, and 4, 8 or 12 bytes. Reject every other extension."""
    if walk.at == walk.end:
        return CUT_SHORT
    if walk.at[0] != TIMESTAMP or not (size == 5 or size == 9 or size == 13):
        return NO_TIMESTAMP
    return skip(walk, size)


cdef Verdict read_wide(Walk* walk, int column) noexcept nogil:
    """Skip the rest of a value, or of a container's head, whose first byte is in the tables."""
    cdef uint64_t length = 0
    walk.kind = KINDS[column]
    if walk.kind == NEVER_USED:
        return NO_VALUE
    if walk.end - walk.at < LENGTH_SIZES[column]:
        return CUT_SHORT
    for _ in range(LENGTH_SIZES[column]):
        length = length << 8 | walk.at[0]
        walk.at += 1
    if walk.kind == ARRAY or walk.kind == MAP:
        walk.count = length
        return GOOD
    length += <uint64_t>FIXED_SIZES[column]
    if walk.kind == EXTENSION:
        return read_extension(walk, length)
    return skip(walk, length)


cdef inline Verdict read_value(Walk* walk) noexcept nogil:
    """Skip one value, or the head of one container."""
    cdef uint8_t first
    if walk.at == walk.end:
        return CUT_SHORT
    first = walk.at[0]
    walk.at += 1
    walk.count = 0
    if first >= 0xC0 and first < 0xE0:
        return read_wide(walk, first - 0xC0)
    if first < 0x80 or first >= 0xA0:
        walk.kind = KEY
        return skip(walk, first & 0x1F) if 0xA0 <= first < 0xC0 else GOOD
    walk.kind = ARRAY if first >= 0x90 else MAP
    walk.count = first & 0x0F
    return GOOD


cdef Verdict walk_through(
    Walk* walk, Py_ssize_t max_depth, uint64_t max_items, uint64_t max_containers
) noexcept nogil:
    cdef Level[DEEPEST] outer  # the containers around the current one
    cdef Level here = Level(left=1, keyed=False)
    cdef Py_ssize_t depth = 0
    cdef Verdict verdict
    walk.items = 1
    walk.containers = 0
    while True:
        while here.left == 0:
            if depth == 0:
                return GOOD if walk.at == walk.end else TRAILING
            depth -= 1
            here = outer[depth]
        verdict = read_value(walk)
        if verdict != GOOD:
            return verdict
        if here.keyed and here.left % 2 == 0 and walk.kind != KEY:
            return BAD_KEY
        here.left -= 1
        if walk.kind != ARRAY and walk.kind != MAP:
            continue
        walk.containers += 1
        walk.items += walk.count * (1 + KEY_COST if walk.kind == MAP else 1)
        walk.count *= 2 if walk.kind == MAP else 1
        if depth == max_depth:
            return TOO_DEEP
        if walk.containers > max_containers:
            return TOO_MANY_CONTAINERS
        if walk.items > max_items:
            return TOO_MANY_ITEMS
        outer[depth] = here
        depth += 1
        here = Level(left=walk.count, keyed=walk.kind == MAP)


cpdef Py_ssize_t scan(
    message, Py_ssize_t max_depth, Py_ssize_t max_items, Py_ssize_t max_containers
) except -1:
    """Check one MessagePack value against limits before it is decoded, and count its values.

    A decoder recurses on the C stack and can take 72 bytes of memory for one byte of the message. A
    scan neither recurses nor allocates memory, so a message that passes it is safe to decode. It
    checks neither that text is UTF-8 nor that keys are unique.

    Args:
        message: A contiguous buffer that holds one value and nothing after it.
        max_depth: Levels of lists and maps, 0 to 512. A single number or text has none.
        max_items: Values, including the outermost one and the containers. The key of a map counts
            as 16. The declared length of a container counts as soon as its head is read.
        max_containers: Lists and maps.

    Returns:
        The number of values, counted as for `max_items`.

    Raises:
        FramingError: With `Code.RESOURCE_EXHAUSTED` if the message exceeds a limit. With
            `Code.INVALID_ARGUMENT` if it is truncated, continues after its value, or contains the
            unused byte 0xc1, an extension other than the timestamp, or a map's key that is neither
            str nor int.
        ValueError: A limit is out of range.
    """
    cdef Py_buffer view
    cdef Walk walk
    cdef Verdict verdict
    cdef Py_ssize_t position
    if not 0 <= max_depth <= DEEPEST or max_items < 0 or max_containers < 0:
        raise ValueError(
            f"limits {max_depth}, {max_items}, {max_containers}: must not be negative, "
            f"and the depth at most {DEEPEST}"
        )
    PyObject_GetBuffer(message, &view, PyBUF_SIMPLE)
    try:
        walk.at = <const uint8_t*>view.buf
        walk.end = walk.at + view.len
        verdict = walk_through(&walk, max_depth, max_items, max_containers)
        position = walk.at - <const uint8_t*>view.buf
    finally:
        PyBuffer_Release(&view)
    if verdict != GOOD:
        raise refusal(verdict, position, max_depth, max_items, max_containers)
    return <Py_ssize_t>walk.items


cpdef Py_ssize_t find_tail(piece, Py_ssize_t start, uint64_t size) except -2:
    """Find the large bytes in which an encoded value ends, or the last element of its array.

    The value may go on behind the piece, and is not checked: the part before these bytes can be
    scanned and decoded with short bytes in their place, `c4 00`.

    Args:
        piece: The first bytes of the value, or more: a contiguous buffer.
        start: Where the value begins in it.
        size: The value's bytes in all.

    Returns:
        The position of the five bytes in the piece that declare these bytes, `c6` and their number.
        -1 if the value does not end so, or contains another container before.

    Raises:
        ValueError: The value would begin outside of the piece.
    """
    cdef Py_buffer view
    cdef Walk walk
    cdef uint64_t left = 1
    cdef Py_ssize_t found = -1
    PyObject_GetBuffer(piece, &view, PyBUF_SIMPLE)
    if not 0 <= start <= view.len:
        PyBuffer_Release(&view)
        raise ValueError(f"start {start}: must be a position in the piece")
    walk.at = <const uint8_t*>view.buf + start
    walk.end = <const uint8_t*>view.buf + view.len
    if read_value(&walk) == GOOD and walk.kind == ARRAY:
        left = walk.count
    else:
        walk.at = <const uint8_t*>view.buf + start
    while left > 1 and read_value(&walk) == GOOD and walk.count == 0:
        left -= 1
    if left == 1 and walk.end - walk.at >= BYTES_HEAD and walk.at[0] == BYTES_32:
        start = walk.at - <const uint8_t*>view.buf - start
        if start + BYTES_HEAD + read_big_u32(walk.at + 1) == size:
            found = walk.at - <const uint8_t*>view.buf
    PyBuffer_Release(&view)
    return found


cdef object refusal(
    Verdict verdict,
    Py_ssize_t position,
    Py_ssize_t max_depth,
    Py_ssize_t max_items,
    Py_ssize_t max_containers,
):
    cdef str reason = {
        CUT_SHORT: "it is cut short",
        NO_VALUE: "0xc1 begins no value",
        NO_TIMESTAMP: "an extension must be a timestamp: type -1, and 4, 8 or 12 bytes",
        BAD_KEY: "a map's key must be str or int",
        TRAILING: "it has ended, and more follows",
        TOO_DEEP: f"it nests deeper than {max_depth} levels",
        TOO_MANY_ITEMS: f"it has more than {max_items} values (the key of a map counts {KEY_COST})",
        TOO_MANY_CONTAINERS: f"it has more than {max_containers} lists and maps",
    }[verdict]
    return FramingError(
        f"message is refused at byte {position}: {reason}",
        Code.RESOURCE_EXHAUSTED if verdict >= TOO_DEEP else Code.INVALID_ARGUMENT,
    )
