# Types for the compiled form of leading.py, which has the documentation.

cimport cython

from .. cimport _nonblocking
from .._protocol.base cimport BaseProtocol
from .._util.deferred_signals cimport SignalDeferral
from .event_router cimport EventRouter
from .ownership cimport Ownership
from .reader cimport ConnectionReader

cdef bint _IS_COMPILED
cdef int _RESULT
cdef object _NONE

@cython.locals(ownership=Ownership, signals=SignalDeferral)
cpdef bint begin(EventRouter connection, awaited, start, double seconds) except -1
@cython.locals(ownership=Ownership, rules=BaseProtocol, leads=bint, started=bint, over=bint)
cdef bint _begin(
    EventRouter connection, awaited, start, double seconds, SignalDeferral signals
) except -1
@cython.locals(
    ownership=Ownership, reader=ConnectionReader, rules=BaseProtocol, patience=int, until=double,
    over=bint, readable=bint, data=bytes,
)
cdef object _lead(EventRouter connection, awaited, SignalDeferral signals)
cdef bint _is_answer(EventRouter connection, awaited, bytes data) except -1
cdef object _release(Ownership ownership, SignalDeferral signals)
@cython.locals(ownership=Ownership)
cpdef bint is_usable(EventRouter connection) except -1
@cython.locals(ownership=Ownership)
cpdef object clean_up(EventRouter connection, exc)
