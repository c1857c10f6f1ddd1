# Types for the compiled form of transport.py, which has the documentation.

cdef int _READ_SIZE, _BULK_SIZE, _MAX_BUFFERS
