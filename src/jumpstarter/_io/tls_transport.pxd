# Types for the compiled form of tls_transport.py, which has the documentation.

cimport cython

from .. cimport _nonblocking
from .transport cimport SocketTransport

cdef int _READ_SIZE, _RECORD_SIZE, _WRITE_SIZE, _ANSWERS
cdef Py_ssize_t _ALL
cdef object _PENDING

cdef class TlsEngine:
    cdef public object _incoming, _outgoing, _tls, failure
    cdef public bint has_ended, is_established

    cpdef object shake_hands(self)
    cpdef object feed(self, ciphertext)
    @cython.locals(wanted=Py_ssize_t, piece=bytes)
    cpdef bytes decrypt(self, Py_ssize_t size=*)
    cpdef object encrypt(self, data)
    cpdef bytes take(self)
    cpdef bint has_ciphertext(self) except -1
    cpdef object check_answers(self)

cdef class TlsTransport(SocketTransport):
    cdef public TlsEngine _engine
    cdef public object _ciphertext

    cpdef list try_write(self, buffers)
    @cython.locals(written=Py_ssize_t)
    cpdef bint _flush(self) except -1
    @cython.locals(engine=TlsEngine)
    cpdef object try_read(self)
    cpdef object try_read_on(self)
