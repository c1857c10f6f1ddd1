# Types for the compiled form of leading.py, which has the documentation.

cimport cython

from .. cimport _nonblocking
from .._protocol.base cimport BaseProtocol
from .event_router cimport EventRouter
from .ownership cimport Ownership
from .reader cimport ConnectionReader

cdef object _NONE

@cython.locals(ownership=Ownership, rules=BaseProtocol, leads=bint, started=bint, over=bint)
cpdef bint begin(EventRouter connection, awaited, start, double seconds) except -1
@cython.locals(ownership=Ownership, reader=ConnectionReader, rules=BaseProtocol, patience=int, until=double, over=bint, readable=bint)
cdef object _lead(EventRouter connection, awaited)
@cython.locals(ownership=Ownership)
cpdef bint is_usable(EventRouter connection) except -1
@cython.locals(ownership=Ownership)
cpdef object clean_up(EventRouter connection, exc)
