# Types for the compiled form of codec.py, which has the documentation. What is missing here is rare,
# or an lru_cache, and remains a Python function.

cimport cython

from .._framing cimport find_tail, scan
from .large_message cimport LargeMessage, head_of
from .receive_buffer cimport ReceiveBuffer

cdef Py_ssize_t _BYTES_HEAD, _LARGE, _HEAD_SIZE, _MAX_HEAD, _TIMEOUT_SIZE
cdef bytes _NO_BYTES, _NO_TIMEOUT
cdef frozenset _TYPES_WITHOUT_KEYS
cdef object _encoder, _decoder
cdef Py_ssize_t _MANY

cpdef bytearray encode_value(value, bytes prefix=*, root=*)
@cython.locals(count=Py_ssize_t, pause_gc=bint)
cpdef object decode_value(body, limits, admit=*, Py_ssize_t size=*)
@cython.locals(size=Py_ssize_t, tail=Py_ssize_t, head=bytes)
cdef object _decode_large(ReceiveBuffer body, limits, admit)
cpdef object call_prefix(target, kind, method, bint keywords=*, bint nested=*)
cpdef object encode_message(value, root)
cpdef bytearray encode_call(bytes prefix, tuple args)
@cython.locals(buffer=bytearray)
cpdef object encode_request(bytes prefix, tuple args)
cdef object _check_keys_of_call(bytearray buffer, Py_ssize_t start, tuple args)
cpdef object set_timeout(message, timeout_ms)
@cython.locals(data=bytes, name_length=Py_ssize_t, end=Py_ssize_t)
cpdef tuple decode_call(payload)
cdef tuple _decode_large_call(ReceiveBuffer buffer)
cpdef object encode_credit(delta)
cpdef long long decode_credit(payload) except -1
cpdef object encode_cancel(code)
cpdef object decode_cancel(payload)
