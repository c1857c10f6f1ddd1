# Types for the compiled form of routes.py, which has the documentation.

cimport cython

cdef object _UNARY

cdef class Route:
    cdef public Py_ssize_t _index
    cdef public bint is_direct
    cdef public object exported, head, method, mode, target

    cpdef bint is_of(self, head, list targets) except -1

cdef class Routes:
    cdef public dict _known, _timed
    cdef public list _targets

    @cython.locals(route=Route)
    cpdef Route find(self, head)
    @cython.locals(route=Route)
    cpdef Route _find(self, head)
