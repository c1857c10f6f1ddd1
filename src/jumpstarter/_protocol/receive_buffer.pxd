# Types for the compiled form of receive_buffer.py, which has the documentation.

cimport cython

cdef class ReceiveBuffer:
    cdef public list _pieces
    cdef public Py_ssize_t _offset, _size

    cpdef object append(self, data)
    @cython.locals(size=Py_ssize_t, start=Py_ssize_t, count=Py_ssize_t, offset=Py_ssize_t, taken=list)
    cpdef bytes read(self, Py_ssize_t max_bytes)
    cpdef object skip(self, Py_ssize_t size)
    cpdef bytes join(self)
    cpdef object clear(self)
