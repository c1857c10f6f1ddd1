# Types for the compiled form of wakeup.py, which has the documentation.

cdef object _SUCCEEDED

cdef class Wakeup:
    cdef public object _task

    cpdef object set(self)
