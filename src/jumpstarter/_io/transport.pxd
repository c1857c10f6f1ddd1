# Types for the compiled form of transport.py, which has the documentation.

cdef int _READ_SIZE, _BULK_SIZE, _MAX_BUFFERS

cdef class SocketTransport:
    cdef dict __dict__  # tests put other methods there
    cdef object __weakref__
    cdef public object _stream
    cdef public int _fd
    cdef public bint expects_more, keepalive, silent

    cpdef list try_write(self, buffers)
    cpdef object try_read(self)
    cpdef object try_read_on(self)
