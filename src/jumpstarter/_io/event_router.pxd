# Types for the compiled form of event_router.py, which has the documentation.

cimport cython

from .._protocol.base cimport BaseProtocol
from .ownership cimport Ownership
from .reader cimport ConnectionReader
from .writer cimport Writer

cdef object _CALL, _DROPPED, _RESULT, _ERROR
cdef tuple _FOR_CONNECTION

cdef class EventRouter:
    cdef object __weakref__
    cdef public BaseProtocol rules
    cdef public object name
    cdef public dict handlers
    cdef public Py_ssize_t slot_waiters
    cdef public object ended
    cdef public Ownership ownership
    cdef public Writer writer
    cdef public ConnectionReader reader
    cdef public object _owner, _rate_limits

    @cython.locals(rules=BaseProtocol)
    cpdef object act_on(self, list events)
