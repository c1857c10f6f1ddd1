# Types for the compiled form of ownership.py, which has the documentation.

cimport cython

from .. cimport _nonblocking
from .._util.wakeup cimport Sleeper, Wakeup

cdef object _LOOP, _THREAD, _HELD, _TASK, _NONE

cdef class Ownership:
    cdef object __weakref__
    cdef public object lock, reader, error, arriving, watch, new_watch
    cdef public unsigned long long holder, leader, led_by_threads, led_by_tasks
    cdef public bint at_end, has_read, _parked, _posted
    cdef public list letters, batons
    cdef public object _leading, _on_bug, _returned, _token
    cdef public int _fd, _watch_fd

    cpdef bint held_here(self) except -1
    cpdef bint finds_bytes(self) except -1
    cpdef bint is_readable(self) except -1
    cpdef bint park(self) except -1
    cpdef bint take_role_for_task(self, waiting) except -1
    cpdef bint is_led_by(self, waiting) except -1
    cpdef object _post(self)
    cpdef object acquire(self)
    cpdef object release(self)
    cpdef bint take_role(self) except -1
    cpdef object hold(self)
    cpdef object resume(self)
    cpdef bint poll(self, int milliseconds, bint is_answer=*) except -1
    cpdef bint leads_here(self) except -1
    cpdef object give_up(self, bint restart)

cpdef object pass_baton(Ownership ownership, baton)

cdef class SharedWakeup(Wakeup):
    cdef public Ownership _ownership
    cdef public bint _posted
    cdef public object baton

    @cython.locals(sleeper=Sleeper)
    cpdef bint is_idle(self) except -1
    cpdef object set(self)
