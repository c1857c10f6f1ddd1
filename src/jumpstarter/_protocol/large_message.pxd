# Types for the compiled form of large_message.py, which has the documentation.

cdef class LargeMessage:
    cdef public bytearray head
    cdef public bytes tail

cpdef bytearray head_of(message)
