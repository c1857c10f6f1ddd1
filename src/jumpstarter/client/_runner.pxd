# Types for the compiled form of _runner.py, which has the documentation.

cimport cython

from .. cimport _stepping
from .._io cimport leading
from ._outgoing_call cimport OutgoingCall, Request

cdef object _ENDED, _NO_LIMIT, _limit
cdef double _INFINITE

cdef class BlockingRunner:
    cdef object __weakref__
    cdef public Request _request
    cdef public object _channel, _portal

    @cython.locals(seconds=double, call=OutgoingCall)
    cpdef object call(self, decode=*)
    cpdef object _call_in_loop(self, decode)
