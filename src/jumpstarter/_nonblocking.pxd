# The C interface for the compiled modules. _nonblocking.pyx has the documentation.

cimport cython

cpdef read(int fd, Py_ssize_t size)
cpdef Py_ssize_t write(int fd, data) except -1
cpdef Py_ssize_t write_many(int fd, list buffers) except -1
cpdef bint is_readable(int fd) except -1
cpdef object watch(int epoll, int fd, bint readable)
cpdef double monotonic() except -1
cpdef unsigned long get_ident() noexcept
cpdef bint is_crowded() except -1
cpdef int count_waiting() noexcept
cpdef bint look(int fd) except -1
cpdef bint wait_readable(int fd, int milliseconds, bint is_answer=*) except -1
cpdef object pass_batons(list batons, bint keeps_gil=*)

@cython.final
cdef class Baton:
    cdef void* _lock
    cdef public bint is_passed

    cpdef bint wait(self, double seconds) except -1
