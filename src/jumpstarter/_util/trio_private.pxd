# Types for the compiled form of trio_private.py, which has the documentation.

cpdef object cancel_status(task)
cpdef bint is_cancelled(task) except -1
