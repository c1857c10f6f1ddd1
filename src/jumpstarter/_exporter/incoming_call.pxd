# Types for the compiled form of incoming_call.py, which has the documentation.

from .._util.trio_private cimport cancel_status

cdef double _INFINITE
cdef object _UNARY

cdef class IncomingCall:
    cdef object __weakref__
    cdef public long long slot
    cdef public object head, _body, _scope, changed, forwarder, status, stream
    cdef public tuple arguments
    cdef public bint cancelled, in_thread, late
    cdef public double deadline
    cdef public Py_ssize_t values

    cpdef object enter(self, scope, task)
    cpdef object attach(self, scope)
    cpdef bint leave(self, task) except -1
    cpdef object cancel(self, reason)
    cpdef object take_body(self)
    cpdef object forget_arguments(self, exported)
    cpdef object received(self, event)

cpdef object check_scopes(before, task)
