# Types for the compiled form of base.py, which has the documentation.

cimport cython

from .codec cimport decode_credit
from .connection cimport ConnectionProtocol, frame_name
from .flow_control cimport Budget, ReceiveWindow, SendWindow
from .receive_buffer cimport ReceiveBuffer

cdef int _DATA, _CREDIT, _END, _MORE, _LARGE
cdef object _OPEN

cdef class Slot:
    cdef public object state, kind
    cdef public int may_receive, may_send
    cdef public ReceiveBuffer parts
    cdef public long long received_bytes, reserved_bytes
    cdef public str drop_reason
    cdef public bint cancelled
    cdef public SendWindow sending
    cdef public ReceiveWindow receiving

cdef class BaseProtocol(ConnectionProtocol):
    cdef public long long busy_slots, late_frames
    cdef public Budget _budget
    cdef public long long _max_message, _max_pending, _pending_bytes, _unfinished_messages
    cdef public dict _slots

    cdef object _handle(self, int type_, int flags, long long slot_id, bytes payload)
    @cython.locals(slot=Slot)
    cdef Slot _receiving_slot(self, long long slot_id, int type_)
    cdef bint _is_late(self, Slot slot, int type_) except -1
    @cython.locals(slot=Slot, window=ReceiveWindow, end=bint)
    cdef object _on_data(self, int flags, long long slot_id, bytes payload)
    @cython.locals(slot=Slot, delta="long long")
    cdef object _on_credit(self, long long slot_id, bytes payload)
    @cython.locals(more=bint, parts=ReceiveBuffer)
    cdef object _assemble(self, long long slot_id, Slot slot, int flags, bytes payload)
    cdef bint _may_hold(self, long long size) except -1
    cdef str _over_max_pending(self)
    cdef object _discard_parts(self, Slot slot)
    cdef object _open_slot(self, Slot slot, kind, int may_receive, int may_send)
    cdef object _count_slot(self, long long by)
    cdef object _close_windows(self, Slot slot)
    cdef ReceiveWindow _receive_window(self)
    cdef SendWindow _send_window(self)
    @cython.locals(slot=Slot)
    cdef Slot _open_slot_for(self, str verb, long long slot_id)
    @cython.locals(slot=Slot)
    cdef Slot _sending_slot(self, long long slot_id, int type_)
    @cython.locals(window=SendWindow)
    cpdef long long sendable(self, long long slot_id) except -1
    @cython.locals(slot=Slot, window=SendWindow)
    cpdef object data(self, long long slot_id, chunk, bint end=*)
    cdef long long _frame_count(self, long long size) except -1
    @cython.locals(window=SendWindow)
    cpdef object withdraw(self, long long slot_id)
    @cython.locals(window=ReceiveWindow, delta="long long")
    cpdef bint consume(self, long long slot_id, long long amount) except -1
    @cython.locals(window=ReceiveWindow)
    cpdef long long readable_without_credit(self, long long slot_id) except -1
    cpdef object check_size(self, buffer)

cdef str _describe(Slot slot)
