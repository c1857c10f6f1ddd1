# Types for the compiled form of _call_sender.py, which has the documentation.

cimport cython

from .._io.event_router cimport EventRouter
from .._io.ownership cimport Ownership, SharedWakeup
from .._protocol.client cimport ClientProtocol
from .._util cimport trio_private
from ._loop cimport lane_of_loop
from ._outgoing_call cimport OutgoingCall, Request

cdef double _INFINITE

cdef class CallSender:
    cdef object __weakref__
    cdef public object name, limits, token, _slots
    cdef public EventRouter connection
    cdef public ClientProtocol _rules
    cdef public bint _closing
    cdef public int _lone_calls
    cdef public list _spare

    @cython.locals(rules=ClientProtocol)
    cpdef bint start(self, OutgoingCall call, double seconds) except -1
    @cython.locals(waiter=SharedWakeup)
    cpdef object _wait_on(self, OutgoingCall call)
    @cython.locals(seconds=double)
    cpdef object _begin(self, OutgoingCall call)
    @cython.locals(is_free=bint, ownership=Ownership)
    cpdef bint _open_now(self, OutgoingCall call, double seconds, bint registers) except -1
    @cython.locals(request=Request)
    cpdef object _queue(self, OutgoingCall call, double seconds)
    @cython.locals(connection=EventRouter)
    cpdef object _check_open(self, Request request)

@cython.locals(deadline=double)
cpdef double seconds_left() except? -1
