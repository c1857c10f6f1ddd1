# The C interface of the frame codec, for the compiled rules. _framing.pyx has the documentation.

from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef struct Chunk:
    const char* data  # the received bytes
    Py_ssize_t size
    Py_ssize_t position  # index of the first byte that is not consumed yet

cdef class FrameDecoder:
    cdef uint32_t _max_frame  # bytes
    cdef object _failure  # a FramingError once broken, else None
    cdef uint64_t _offset  # bytes of the stream before the current frame
    cdef uint8_t[8] _header  # of the current frame, as received
    cdef Py_ssize_t _header_size  # bytes of the header that have arrived
    # Pieces of the current payload, in order: large ones as received, small ones merged into a
    # bytearray.
    cdef list _pieces
    cdef bytearray _gathered  # the last of _pieces while small pieces may be added to it, else None
    cdef Py_ssize_t _held  # bytes in _pieces

    cpdef list feed(self, data)
    cdef list _take(self, Chunk* chunk, bytes whole)
    cdef int _take_header(self, Chunk* chunk) except -1
    cdef int _take_payload(self, Chunk* chunk, bytes whole, list frames) except -1
    cdef int _hold(self, const char* data, Py_ssize_t size, bytes whole) except -1
    cdef bytes _join(self, const char* data, Py_ssize_t size)
    cdef int _forget(self) except -1
    cdef int _fail(self, str reason, object code, Chunk* chunk) except -1

cpdef bytes pack_frame(Py_ssize_t type, Py_ssize_t flags, long long slot, payload=*)
cpdef bytes pack_header(Py_ssize_t type, Py_ssize_t flags, long long slot, Py_ssize_t length)
cpdef object seal(bytearray buffer, Py_ssize_t type, Py_ssize_t flags, long long slot)
cpdef Py_ssize_t scan(
    message, Py_ssize_t max_depth, Py_ssize_t max_items, Py_ssize_t max_containers
) except -1
cpdef Py_ssize_t find_tail(piece, Py_ssize_t start, uint64_t size) except -2
