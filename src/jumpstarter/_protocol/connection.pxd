# Types for the compiled form of connection.py, which has the documentation.

cimport cython

from .._framing cimport FrameDecoder
from .send_queue cimport SendQueue, WriteBatch

cdef int _CONNECTION, _HELLO, _PING, _GOAWAY, _ACK
cdef tuple _WRONG_FLAGS
cdef object _READY

cdef class ConnectionProtocol:
    cdef public object limits, peer, failure
    cdef public SendQueue send_queue
    cdef public bint going_away
    cdef public long long no_op_frames, control_frames
    cdef public list unprocessed
    cdef public object _phase
    cdef public FrameDecoder _decoder
    cdef public long long _max_buffer, _max_slot
    cdef object __weakref__

    @cython.locals(
        events=list, frames=list, type_=int, flags=int, slot_id="long long", payload=bytes,
        wrong_id=bint,
    )
    cpdef list receive(self, data, Py_ssize_t max_frames=*)
    cdef object _check_phase(self, int type_)
    cpdef object fail(self, exc)
    cpdef WriteBatch next_batch(self)
    cdef object _handle(self, int type_, int flags, long long slot_id, bytes payload)
    cdef object _on_hello(self, bytes payload)
    cdef object _hello_done(self, hello)
    cdef object _ready(self, long long max_calls)
    cdef object _on_ping(self, int flags, bytes payload)
    cdef object _on_goaway(self, int flags, bytes payload)
    cpdef object ping(self, payload)
    cpdef object goaway(self, code, grace_ms, text)

cpdef str frame_name(int type_)
