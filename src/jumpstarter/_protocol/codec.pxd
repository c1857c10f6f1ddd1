# Types for the compiled form of codec.py, which has the documentation. What is missing here is rare,
# or an lru_cache, and remains a Python function.

cimport cython

from .._framing cimport scan

cdef Py_ssize_t _HEAD_SIZE, _TIMEOUT_SIZE
cdef bytes _NO_TIMEOUT
cdef frozenset _TYPES_WITHOUT_KEYS
cdef object _encoder, _decoder
cdef Py_ssize_t _MANY

cpdef bytearray encode_value(value, bytes prefix=*, root=*)
@cython.locals(count=Py_ssize_t, pause_gc=bint)
cpdef object decode_value(body, limits, admit=*)
cpdef object call_prefix(target, kind, method, bint keywords=*, bint nested=*)
cpdef bytearray encode_call(bytes prefix, tuple args)
cdef object _check_keys_of_call(bytearray buffer, Py_ssize_t start, tuple args)
cpdef object set_timeout(bytearray buffer, timeout_ms)
@cython.locals(name_length=Py_ssize_t, end=Py_ssize_t)
cpdef tuple decode_call(bytes payload)
cpdef object encode_credit(delta)
cpdef long long decode_credit(payload) except -1
cpdef object encode_cancel(code)
cpdef object decode_cancel(payload)
