# Types for the compiled form of client.py, which has the documentation.

cimport cython

from .base cimport BaseProtocol, Slot
from .codec cimport encode_cancel
from .connection cimport frame_name
from .flow_control cimport ReceiveWindow

cdef int _ERROR_ALONE, _CALL, _RESULT, _ERROR, _ITEM, _ACCEPT, _CANCEL
cdef object _FREE, _UNARY, _STREAM

cdef class ClientProtocol(BaseProtocol):
    cdef public list _free
    cdef public long long _unused

    cdef object _hello_done(self, hello)
    cdef bint _is_late(self, Slot slot, int type_) except -1
    cdef object _handle(self, int type_, int flags, long long slot_id, bytes payload)
    @cython.locals(slot=Slot, has_queue=bint, drop_reason=str)
    cdef object _on_terminal(self, int type_, int flags, long long slot_id, bytes payload)
    @cython.locals(slot=Slot, may_receive=int, cost="long long")
    cdef object _on_item(self, int flags, long long slot_id, bytes payload)
    @cython.locals(slot=Slot)
    cdef object _on_accept(self, long long slot_id, bytes payload)
    cdef object _free_slot(self, long long slot_id, Slot slot)
    @cython.locals(slot=Slot, slot_id="long long")
    cpdef long long call(self, kind, buffer) except -1
    @cython.locals(slot=Slot, call_is_queued=bint)
    cpdef bint cancel(self, long long slot_id, code=*) except -1

cdef int _until_complete(int type_) except -1
