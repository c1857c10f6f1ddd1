# Types for the compiled form of trio_private.py, which has the documentation.

cimport cython

cpdef object cancel_status(task)
cpdef bint is_cancelled(task) except -1
@cython.locals(deadline=double, own=double)
cpdef double effective_deadline() except? -1
cdef bint _awaits_ctrl_c(task) except -1
