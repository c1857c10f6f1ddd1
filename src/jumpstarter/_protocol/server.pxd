# Types for the compiled form of server.py, which has the documentation.

cimport cython

from .base cimport BaseProtocol, Slot
from .codec cimport decode_call, decode_cancel
from .flow_control cimport SendWindow
from .send_queue cimport WriteBatch

cdef int _WHILE_OPENING, _LATE, _CALL, _RESULT, _ERROR, _ITEM, _ACCEPT, _CANCEL
cdef object _FREE, _OPENING, _ENDED, _UNARY, _STREAM

cdef class ServerProtocol(BaseProtocol):
    cdef public long long _max_small_call
    cdef public str refusal

    cdef object _hello_done(self, hello)
    cpdef object admit(self, hello)
    cpdef object refuse(self, code, text)
    cdef bint _awaits_answer(self, str verb) except -1
    cdef bint _is_late(self, Slot slot, int type_) except -1
    cdef object _handle(self, int type_, int flags, long long slot_id, bytes payload)
    @cython.locals(slot=Slot)
    cdef object _on_call(self, int flags, long long slot_id, bytes payload)
    @cython.locals(counted="long long")
    cdef object _open_call(self, long long slot_id, Slot slot, message)
    cdef object _reject_call(self, long long slot_id, Slot slot, code, str text)
    @cython.locals(slot=Slot)
    cdef object _on_cancel(self, long long slot_id, bytes payload)
    cdef object _replace_queued_result(self, long long slot_id, code)
    @cython.locals(batch=WriteBatch, slot=Slot, slot_id="long long")
    cpdef WriteBatch next_batch(self)
    cpdef object result(self, long long slot_id, buffer)
    cpdef object error(self, long long slot_id, bytearray buffer)
    @cython.locals(slot=Slot)
    cdef object _terminate(self, long long slot_id, int type_)
    cpdef object abandon(self, long long slot_id)
    @cython.locals(window=SendWindow)
    cpdef object item(self, long long slot_id, buffer)
    @cython.locals(slot=Slot)
    cpdef object accept(self, long long slot_id, bytearray buffer)
