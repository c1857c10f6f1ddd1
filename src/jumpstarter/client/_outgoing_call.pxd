# Types for the compiled form of _outgoing_call.py, which has the documentation.

cimport cython

from .._io.ownership cimport SharedWakeup
from .._protocol.codec cimport call_prefix, decode_value, encode_request

cdef object _NEW, _SENT, _ABANDONED, _ENDED, _NOT_NESTED, _RESULT

cdef class Request:
    cdef public object buffer, kind, method, _driver
    cdef public bint nested

cdef class OutgoingCall:
    cdef object __weakref__
    cdef public object channel, state, baton, _failure, error, value, _ended
    cdef public SharedWakeup _waiter
    cdef public Request request
    cdef public long long slot

    cpdef object opened(self, long long slot)
    cpdef object received(self, event)
    cpdef object _end(self, failure)
    cpdef object _wake(self)
    cpdef bint collect(self) except -1
    cpdef object borrow(self, SharedWakeup waiter)
    cpdef SharedWakeup give_back(self)
    cpdef SharedWakeup wakeup(self)
    cpdef SharedWakeup next_wakeup(self)
