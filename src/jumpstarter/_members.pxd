# The C interface for the compiled modules. _members.pyx has the documentation.

cimport cython

@cython.final
cdef class Member:
    cdef object _owner
    cdef Py_ssize_t _offset

    cpdef object get(self, instance)

cpdef Member member_of(owner, name)
