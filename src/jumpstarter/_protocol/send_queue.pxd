# Types for the compiled form of send_queue.py, which has the documentation.

cimport cython

from .._framing cimport pack_frame, pack_header, seal
from .codec cimport encode_credit
from .large_message cimport LargeMessage

cdef int _DATA, _CREDIT, _PING, _GOAWAY, _END, _MORE, _ACK
cdef Py_ssize_t _HEADER

cdef class WriteBatch:
    cdef public list buffers, drained, ended

cdef class _Message:
    cdef public int type
    cdef public object head, rest
    cdef public int flags
    cdef public bint started, terminal

    cpdef Py_ssize_t size(self) except -1

cdef class SendQueue:
    cdef public Py_ssize_t _max_frame, _small
    cdef public Py_ssize_t queued_bytes, unstarted_bytes
    cdef public bytes _last, _pong
    cdef public bint _closed
    cdef public list _urgent, _ended
    cdef public dict _credit, _slot_queues

    cpdef bint has_slot_queue(self, long long slot) except -1
    cpdef bint is_sending(self, long long slot, int type_) except -1
    cpdef object add_frame(self, int type_, long long slot, payload, int flags=*)
    @cython.locals(size=Py_ssize_t, message=_Message)
    cpdef object add_message(self, int type_, long long slot, buffer, bint terminal=*)
    @cython.locals(flags=int)
    cpdef object add_data(self, long long slot, chunk, bint end)
    cpdef object add_credit(self, long long slot, long long delta)
    cpdef object add_pong(self, bytes payload)
    cpdef object add_goaway_ack(self)
    cdef object _append_urgent(self, frame)
    @cython.locals(size=Py_ssize_t)
    cdef object _append_to_slot(self, long long slot, _Message message)
    cpdef object close(self, int type_, payload)
    @cython.locals(message=_Message)
    cpdef bint discard(self, long long slot) except -1
    cdef object _forget(self, _Message message)
    @cython.locals(withdrawn=Py_ssize_t, message=_Message)
    cpdef Py_ssize_t withdraw_data(self, long long slot) except -1
    @cython.locals(urgent=list, size=Py_ssize_t, batch=WriteBatch)
    cpdef WriteBatch next_batch(self)
    @cython.locals(
        message=_Message, done=bint, more=int, flags=int, head_size=Py_ssize_t, size=Py_ssize_t
    )
    cdef Py_ssize_t _take_turn(self, WriteBatch batch) except -1
