# Types for the compiled form of deferred_signals.py, which has the documentation.

cdef tuple _CATCHABLE, _SIGNALS

cdef class SignalDeferral:
    cdef public object _block

    cpdef object start(self)
    cpdef object start_late(self)
    cpdef object end(self)
