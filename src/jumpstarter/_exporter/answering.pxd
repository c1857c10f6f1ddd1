# Types for the compiled form of answering.py, which has the documentation.

cimport cython

from .._io.event_router cimport EventRouter
from .._protocol.codec cimport decode_value, encode_message
from .._protocol.server cimport ServerProtocol
from .._stepping cimport advance, enter_copied_context, leave_context
from .._util.trio_private cimport is_cancelled
from .incoming_call cimport IncomingCall, check_scopes
from .routes cimport Route, Routes

cdef Py_ssize_t _TINY
cdef double _INFINITE
cdef object _EAGER, _THREAD, _OWN_TASK
cdef frozenset _PLAIN

cdef class BaseDispatcher:
    cdef public object _exporter, _values, executor
    cdef public EventRouter _connection
    cdef public Routes _routes
    cdef public ServerProtocol _rules

    @cython.locals(route=Route)
    cpdef object execution_mode(self, event)
    @cython.locals(route=Route)
    cpdef bint is_direct(self, IncomingCall call) except -1
    cpdef object forget(self, IncomingCall call)
    cpdef object run_sync(self, IncomingCall call)
    @cython.locals(route=Route)
    cpdef tuple _find(self, head)
    cpdef tuple _arguments(self, IncomingCall call, exported, body)
    cpdef object _encode(self, value, what)
    cpdef tuple begin(self, IncomingCall call)

cdef class BaseSession:
    cdef public object _exporter, _clock, _all_answered
    cdef public EventRouter _connection
    cdef public ServerProtocol _rules
    cdef public BaseDispatcher _dispatcher
    cdef public IncomingCall begun
    cdef public set running
    cdef public bint _is_awaited

    cpdef object on_call(self, event)
    cpdef IncomingCall take(self, event)
    cpdef IncomingCall _call(self, event)
    @cython.locals(connection=EventRouter, call=IncomingCall)
    cpdef object begin_calls(self, list calls, scope, task)
    cpdef object _answer_now(self, IncomingCall call, task)
    cpdef object _begin(self, IncomingCall call, task)
    cpdef object run_sync(self, IncomingCall call)
    cpdef object answered(self, IncomingCall call, result)
    cpdef bint may_answer(self, IncomingCall call) except -1
    cpdef object _forget(self, IncomingCall call)
    @cython.locals(connection=EventRouter)
    cpdef object _finish(self, IncomingCall call, result, error)

cdef bint _is_awaitable(value) except -1
