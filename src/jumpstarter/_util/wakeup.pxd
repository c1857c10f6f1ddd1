# Types for the compiled form of wakeup.py, which has the documentation.

cimport cython

from . cimport trio_private

cdef object _SUCCEEDED

cdef class Sleeper:
    cdef public object task

cdef class Wakeup:
    cdef public Sleeper _sleeper
    cdef public object _request

    @cython.locals(sleeper=Sleeper)
    cpdef object set(self)
    @cython.locals(sleeper=Sleeper)
    cpdef object wait(self)
