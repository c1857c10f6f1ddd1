# Types for the compiled form of writer.py, which has the documentation.

cimport cython

from .._protocol.base cimport BaseProtocol
from .._protocol.send_queue cimport SendQueue, WriteBatch
from .ownership cimport Ownership

cdef object _IDLE, _WRITING, _BROKEN

cdef class Writer:
    cdef public object state, failure
    cdef public list rest
    cdef public Ownership _ownership
    cdef public BaseProtocol _rules
    cdef public long long _max_unsent, _max_pending
    cdef public object _connection, _drained, _guard, _mostly_writable, _nursery
    cdef public object _transport, _wakeup, _writable

    cpdef object fail(self, exc)
    cpdef object flush(self)
    @cython.locals(queue=SendQueue)
    cpdef object flush_now(self)
    cpdef object flush_soon(self)
    @cython.locals(queue=SendQueue)
    cpdef bint is_full(self) except -1
    @cython.locals(queue=SendQueue)
    cpdef object _write_batches(self)
    @cython.locals(is_full=bint, batch=WriteBatch)
    cdef list _next_buffers(self)
