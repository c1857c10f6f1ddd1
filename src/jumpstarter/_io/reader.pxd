# Types for the compiled form of reader.py, which has the documentation.

cimport cython

from .._protocol.base cimport BaseProtocol
from .ownership cimport Ownership
from .transport cimport SocketTransport

cdef int _GOES_ON, _PARKED, _AT_END, _READS
cdef object _LOOP, _HELD

cdef class ThreadReader:
    cdef public list left
    cdef public object _connection
    cdef public SocketTransport _socket
    cdef public Ownership _ownership
    cdef public BaseProtocol _rules

    cpdef list take(self, Py_ssize_t max_frames=*)
    @cython.locals(ownership=Ownership)
    cpdef bytes read_bytes(self)
    @cython.locals(rules=BaseProtocol)
    cpdef list receive(self, bytes data, Py_ssize_t max_frames=*)
    cpdef list take_buffered(self)

cdef class ConnectionReader(ThreadReader):
    cdef public bint _is_quiet
    cdef public double last_read, hello_deadline
    cdef public object _clock, _dispatch_lock, _transport

    cpdef int _idle_descriptor(self) except -2
    @cython.locals(ownership=Ownership, rules=BaseProtocol)
    cdef int _quiet_descriptor(self) except -2
    @cython.locals(ownership=Ownership)
    cdef int _descriptor(self) except -2
    @cython.locals(ownership=Ownership)
    cpdef int _read_now(self) except -2
    @cython.locals(rules=BaseProtocol)
    cdef int _read_all(self) except -2
    @cython.locals(rules=BaseProtocol, events=list)
    cpdef bint _handle(self, data) except -1
