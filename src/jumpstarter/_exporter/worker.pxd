# Types for the compiled form of worker.py, which has the documentation.

cimport cython

from .. cimport _nonblocking
from .._io.event_router cimport EventRouter
from .._io.ownership cimport Ownership
from .._io.reader cimport ConnectionReader
from .._io.writer cimport Writer
from .._protocol.base cimport BaseProtocol
from .answering cimport BaseSession
from .incoming_call cimport IncomingCall

cdef object _HELD, _NONE

cdef class Worker:
    cdef public IncomingCall call
    cdef public object scope, watch
    cdef public double looks_at
    cdef public bint holds, is_watched
    cdef public long long holdings
    cdef public bint _may_hold
    cdef public EventRouter _connection
    cdef public object _loop
    cdef public BaseSession _session
    cdef public BaseProtocol _rules
    cdef public Ownership _ownership
    cdef public ConnectionReader _reader
    cdef public Writer _writer
    cdef public set _quick
    cdef public object _limiter
    cdef public double _unsent_since, _most_busy
    cdef public long long _in_turn, _max_in_turn

    @cython.locals(call=IncomingCall, began=double, ended=double)
    cpdef tuple lead(self)
    cdef object _note(self, IncomingCall call, double took)
    @cython.locals(ownership=Ownership, writer=Writer, leads=bint)
    cdef bint _send(self, IncomingCall call, bytearray answer, double now) except -1
    @cython.locals(ownership=Ownership)
    cdef bint _take_role(self) except -1
    cdef bint _may_lead(self) except -1
    cdef bint _may_wait(self, double now) except -1
    @cython.locals(ownership=Ownership, is_over=bint, stays=int)
    cdef object _wait_for_next(self)
    @cython.locals(call=IncomingCall)
    cdef object _take(self, list events)
    cdef bint _should_hold(self, IncomingCall call) except -1
    @cython.locals(call=IncomingCall)
    cpdef object look_at_deadline(self)
    cdef object _give_up(self)
    @cython.locals(ownership=Ownership)
    cdef object _stop_holding(self)
    cpdef object release(self)
    cdef object _lose(self, exc)
