# Types for the compiled form of answering.py, which has the documentation.

cimport cython

from .._io.event_router cimport EventRouter
from .._protocol.codec cimport decode_value, encode_value
from .._protocol.server cimport ServerProtocol
from .._stepping cimport advance, enter_copied_context, leave_context
from .._util.trio_private cimport is_cancelled
from .incoming_call cimport IncomingCall, check_scopes

cdef Py_ssize_t _TINY
cdef object _EAGER, _THREAD, _OWN_TASK, _UNARY
cdef frozenset _PLAIN

cdef class BaseDispatcher:
    cdef public object _exporter, _values, executor
    cdef public EventRouter _connection
    cdef public ServerProtocol _rules

    @cython.locals(target=Py_ssize_t, targets=list)
    cpdef object _exported(self, head)
    cpdef object execution_mode(self, event)
    cpdef bint needs_task(self, IncomingCall call) except -1
    cpdef object forget(self, IncomingCall call)
    cpdef object run_sync(self, IncomingCall call)
    cpdef tuple _find(self, head)
    cpdef tuple _arguments(self, IncomingCall call, exported, bytes body)
    cpdef bytearray _encode(self, value, what)
    cpdef tuple begin(self, IncomingCall call)

cdef class BaseSession:
    cdef public object _exporter, _clock, _all_answered
    cdef public EventRouter _connection
    cdef public ServerProtocol _rules
    cdef public BaseDispatcher _dispatcher
    cdef public set running
    cdef public bint _is_awaited

    cpdef object on_call(self, event)
    cpdef IncomingCall take(self, event)
    cpdef IncomingCall _call(self, event)
    cpdef object answer_now(self, IncomingCall call, scope, task)
    cpdef object _begin(self, IncomingCall call, task)
    cpdef object run_sync(self, IncomingCall call)
    cpdef object answered(self, IncomingCall call, bytearray result)
    cpdef bint may_answer(self, IncomingCall call) except -1
    cpdef object _forget(self, IncomingCall call)
    cpdef object _finish(self, IncomingCall call, result, error)

cdef bint _is_coroutine_function(function) except -1
cdef bint _is_awaitable(value) except -1
