# Types for the compiled form of flow_control.py, which has the documentation.

cdef class Budget:
    cdef public long long left

    cpdef bint reserve(self, long long amount) except -1

cdef class SendWindow:
    cdef public long long available, grants

    cpdef object spend(self, long long amount, long long frames)
    cpdef bint grant(self, long long delta) except -1

cdef class ReceiveWindow:
    cdef public Budget _budget
    cdef public long long _limit, _returning, _waiting
    cdef public long long available, size

    cpdef object receive(self, long long amount)
    cpdef long long consume(self, long long amount) except -1
    cdef long long _grow(self) except -1
    cpdef object close(self)
