# Types for the compiled form of trio_private.py, which has the documentation.

cimport cython

from .._members cimport Member, member_of

cdef Member _CANCEL_STATUS, _RUNNER, _IS_CANCELLED, _SCOPE, _PARENT, _DEADLINE, _SHIELD
cdef Member _KI_PENDING, _MAIN_TASK, _TRIO_TOKEN

cpdef object request_to_sleep(abort)
cpdef object current_task()
cpdef object current_token()
cpdef object cancel_status(task)
cpdef bint is_cancelled(task) except -1
@cython.locals(deadline=double, own=double)
cpdef double effective_deadline() except? -1
cdef bint _awaits_ctrl_c(task) except -1
