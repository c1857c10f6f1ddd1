# cython: language_level=3, auto_pickle=False, autotestdict=False
"""System calls that keep the interpreter's lock (the GIL), and one that waits.

`os.read` and `os.write` let other threads run, since they may block. If one of those computes, it
keeps the interpreter for 5 ms after each such call. But for `wait_readable`, nothing here blocks,
whatever the mode of the descriptor is, so nothing here needs that. The caller holds the lock of a
connection, for which other threads may wait.

`wait_readable` waits without the GIL, as any wait must. It notes how long it then takes to get the
GIL back. If that was long, a thread of this process computes, and the next waits begin with a look
of up to 200 us at the socket that keeps the GIL: most answers come within that time. The thread
that computes loses no more than the look: the interpreter switches to it as ever. Two looks in vain
end that: perhaps a thread of this process has to answer, and cannot while the look keeps the GIL.
A thread notes and looks only while no other one waits here. Several threads that call keep the GIL
from each other, and looks would only add to that.

These functions are compiled in both forms of the library.
"""

import os

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject
from cpython.pythread cimport PyThread_get_thread_ident
from libc.errno cimport EAGAIN, EINTR, errno
from libc.string cimport memset

cdef extern from "Python.h":
    # With plain pointers, since the object moves when it is resized.
    PyObject* PyBytes_FromStringAndSize(const char* data, Py_ssize_t size) except NULL
    char* PyBytes_AS_STRING(PyObject* data)
    int _PyBytes_Resize(PyObject** data, Py_ssize_t size) except -1
    void Py_DECREF(PyObject* data)

cdef extern from "sys/uio.h":
    cdef struct iovec:
        void* iov_base
        size_t iov_len

cdef extern from "sys/socket.h":
    Py_ssize_t recv(int fd, void* buffer, size_t size, int flags)
    Py_ssize_t send(int fd, const void* buffer, size_t size, int flags)
    cdef struct msghdr:
        iovec* msg_iov
        size_t msg_iovlen
    Py_ssize_t sendmsg(int fd, const msghdr* message, int flags) nogil
    int MSG_DONTWAIT

cdef extern from "poll.h":
    cdef struct pollfd:
        int fd
        short events
        short revents
    int poll(pollfd* fds, unsigned long count, int timeout) nogil
    short POLLIN

cdef extern from "pythread.h" nogil:
    ctypedef void* PyThread_type_lock
    ctypedef long long PY_TIMEOUT_T
    ctypedef enum PyLockStatus:
        PY_LOCK_ACQUIRED
    PyThread_type_lock PyThread_allocate_lock()
    void PyThread_free_lock(PyThread_type_lock lock)
    PyLockStatus PyThread_acquire_lock_timed(PyThread_type_lock lock, PY_TIMEOUT_T us, int intr)
    void PyThread_release_lock(PyThread_type_lock lock)

cdef extern from "sched.h" nogil:
    int sched_yield()

cdef extern from "time.h" nogil:
    cdef struct timespec:
        long tv_sec
        long tv_nsec
    ctypedef int clockid_t
    clockid_t CLOCK_MONOTONIC
    int clock_gettime(clockid_t clock, timespec* result)

cdef extern from *:
    """
    /* Python ignores SIGPIPE, but a program may restore it: a peer that closes must not end it. */
    #ifdef MSG_NOSIGNAL
    #define QUIETLY (MSG_DONTWAIT | MSG_NOSIGNAL)
    #else /* an older macOS, where it is an option of the socket */
    #define QUIETLY MSG_DONTWAIT
    #endif
    """
    int QUIETLY

cdef extern from *:
    """
    #ifdef __linux__
    #include <sys/epoll.h>
    static int watch_for(int epoll, int fd, int readable)
    {
        struct epoll_event event = {.events = readable ? EPOLLIN : 0, .data = {.fd = fd}};
        return epoll_ctl(epoll, EPOLL_CTL_MOD, fd, &event);
    }
    #else /* no epoll: a connection has no watch there */
    static int watch_for(int epoll, int fd, int readable)
    {
        (void)epoll, (void)fd, (void)readable;
        errno = ENOSYS;
        return -1;
    }
    #endif
    """
    int watch_for(int epoll, int fd, int readable)


cdef long long _LATE = 1_000_000  # ns until the GIL is back: another thread kept it
cdef long long _LOOK = 200_000  # ns: most calls of short methods take less
cdef long long _CROWDED = 500_000_000  # ns for which a thread is taken to compute on
cdef long long _TURNS = 10_000_000  # ns for which threads are taken to go on answering each other

# When the thread that computes is forgotten, in ns of the clock. For all connections: it is the
# process that such a thread belongs to. Without a GIL, threads would overwrite each other's times,
# which are alike; and then nothing is late.
cdef long long _crowded_until = 0
cdef int _in_vain = 0  # the last looks that have found nothing
# Threads that wait without the GIL. Counted with it; without one, a count that is wrong for a
# moment changes only whether a thread looks.
cdef int _waiting = 0
# When a thread last passed another one's baton, in ns of `_now`.
cdef long long _passed = -_TURNS
cdef enum:
    _TOGETHER = 32  # batons that are passed while the GIL is released once


def _forget_threads():
    """Forget the threads of the parent, in a forked child, which has none of them."""
    global _crowded_until, _in_vain, _waiting, _passed
    _crowded_until = _in_vain = _waiting = 0
    _passed = -_TURNS


os.register_at_fork(after_in_child=_forget_threads)


cdef int _fail(int error) except -1:
    raise OSError(error, os.strerror(error))


cpdef read(int fd, Py_ssize_t size):
    """Read up to `size` bytes of a socket: nothing at the end, None if there is nothing yet.

    Raises:
        OSError: The stream is broken.
    """
    cdef PyObject* data = PyBytes_FromStringAndSize(NULL, size)
    cdef int error
    cdef Py_ssize_t got = recv(fd, PyBytes_AS_STRING(data), size, MSG_DONTWAIT)
    while got < 0 and errno == EINTR:
        got = recv(fd, PyBytes_AS_STRING(data), size, MSG_DONTWAIT)
    if got < 0:
        error = errno
        Py_DECREF(data)
        if error == EAGAIN:
            return None
        _fail(error)
    _PyBytes_Resize(&data, got)
    result = <object>data
    Py_DECREF(data)  # `result` has a reference of its own
    return result


cpdef Py_ssize_t write(int fd, data) except -1:
    """Write to a socket as much as is possible without waiting, and return how many bytes that was.

    Raises:
        OSError: The stream is broken.
    """
    cdef Py_buffer view
    cdef int error
    cdef Py_ssize_t written
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    written = send(fd, view.buf, view.len, QUIETLY)
    while written < 0 and errno == EINTR:
        written = send(fd, view.buf, view.len, QUIETLY)
    error = errno
    PyBuffer_Release(&view)
    if written >= 0:
        return written
    if error == EAGAIN:
        return 0
    _fail(error)


cpdef Py_ssize_t write_many(int fd, list buffers) except -1:
    """Write buffers, one after the other, as `write` does, but let other threads run: for bulk.

    Raises:
        BlockingIOError: Nothing can be written without waiting.
        OSError: The stream is broken.
    """
    cdef Py_ssize_t written
    cdef int error
    cdef Py_ssize_t count = 0
    cdef Py_ssize_t index
    cdef msghdr message
    cdef iovec* parts = <iovec*>PyMem_Malloc(len(buffers) * sizeof(iovec))
    cdef Py_buffer* views = <Py_buffer*>PyMem_Malloc(len(buffers) * sizeof(Py_buffer))
    try:
        if parts is NULL or views is NULL:
            raise MemoryError
        for buffer in buffers:
            PyObject_GetBuffer(buffer, &views[count], PyBUF_SIMPLE)
            parts[count].iov_base = views[count].buf
            parts[count].iov_len = views[count].len
            count += 1
        memset(&message, 0, sizeof(message))
        message.msg_iov = parts
        message.msg_iovlen = count
        with nogil:
            written = sendmsg(fd, &message, QUIETLY)
            while written < 0 and errno == EINTR:
                written = sendmsg(fd, &message, QUIETLY)
            error = errno
    finally:
        for index in range(count):
            PyBuffer_Release(&views[index])
        PyMem_Free(parts)
        PyMem_Free(views)
    if written < 0:
        _fail(error)
    return written


cpdef bint is_readable(int fd) except -1:
    """Return whether a read would find something: bytes, the end or an error."""
    cdef pollfd one
    one.fd, one.events, one.revents = fd, POLLIN, 0
    return poll(&one, 1, 0) > 0


cpdef object watch(int epoll, int fd, bint readable):
    """Make an epoll instance report a descriptor that is readable, or nothing but a hang-up.

    Raises:
        OSError: One of them was closed.
    """
    if watch_for(epoll, fd, readable) < 0:
        _fail(errno)


cdef long long _now() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return now.tv_sec * <long long>1_000_000_000 + now.tv_nsec


cpdef double monotonic() except -1:
    """Return the seconds of `time.monotonic`, which compiled code gets without making an object."""
    return _now() / 1e9


cpdef unsigned long get_ident() noexcept:
    """Return the identifier of this thread, as `threading.get_ident` does."""
    return PyThread_get_thread_ident()


cpdef bint is_crowded() except -1:
    """Return whether another thread was late to let a wait of this process return."""
    return _crowded_until > 0 and _now() < _crowded_until


cpdef int count_waiting() noexcept:
    """Return the number of threads of this process that are in `wait_readable`."""
    return _waiting


cpdef bint look(int fd) except -1:
    """Look for up to 200 us whether a read would find something. Keeps the GIL."""
    cdef long long now = _now()
    cdef long long until = now + _LOOK
    while now < until:
        if is_readable(fd):
            return True
        sched_yield()  # the peer may have the same processor
        now = _now()
    return False


cpdef bint wait_readable(int fd, int milliseconds, bint is_answer=True) except -1:
    """Wait until a read would find something, and return whether it would.

    Releases the GIL, after a `look` if this process `is_crowded`. A signal does not end the wait,
    and its handler runs only after it: the time must be short.

    Args:
        fd: The socket.
        milliseconds: How long to wait.
        is_answer: The answer to a call is expected, which probably comes soon. Only then, and if no
            other thread waits, here or for a baton that was passed lately, the wait begins with a
            look, or notes that one is worth it: threads that call keep the GIL from each other.
    """
    global _crowded_until, _in_vain, _waiting
    cdef pollfd one
    cdef int ready
    cdef long long woken
    cdef long long until = _now() + milliseconds * <long long>1_000_000
    cdef bint may_look = is_answer and _waiting == 0 and _now() - _passed > _TURNS
    if may_look and _crowded_until > 0:
        if not is_crowded():
            _crowded_until = 0
        elif look(fd):
            _in_vain = 0
            return True
        else:
            _in_vain += 1
            if _in_vain > 1:
                _crowded_until = _in_vain = 0
    one.fd, one.events, one.revents = fd, POLLIN, 0
    _waiting += 1
    with nogil:
        ready = poll(&one, 1, milliseconds)
        woken = _now()
        while ready < 0 and until > woken:  # a signal
            ready = poll(&one, 1, <int>((until - woken + 999_999) // 1_000_000))
            woken = _now()
    _waiting -= 1
    if may_look and _now() - woken > _LATE:
        _crowded_until = _now() + _CROWDED
    return ready > 0


@cython.final
cdef class Baton:
    """Lets one thread wait until another one passes it. It is passed once.

    Passing it to a thread that waits makes that one runnable, and the system often switches to it
    immediately. It then needs the GIL. So `pass_batons` passes them without the GIL: otherwise each
    thread would wake only to wait for that, which takes two switches and some more system calls.

    Attributes:
        is_passed: True once it was passed, or is about to be.
    """

    def __cinit__(self):
        self._lock = PyThread_allocate_lock()
        if self._lock is NULL:
            raise MemoryError
        PyThread_acquire_lock_timed(self._lock, 0, 0)

    def __dealloc__(self):
        if self._lock is not NULL:
            PyThread_free_lock(self._lock)

    cpdef bint wait(self, double seconds) except -1:
        """Wait until it is passed, and return whether it was. Releases the GIL.

        A signal ends the wait early, so that its handler can run.
        """
        cdef PyLockStatus status
        with nogil:
            status = PyThread_acquire_lock_timed(self._lock, <PY_TIMEOUT_T>(seconds * 1e6), 1)
        return status == PY_LOCK_ACQUIRED


cpdef object pass_batons(list batons, bint keeps_gil=False):
    """Pass batons, each of them once.

    Args:
        batons: The batons.
        keeps_gil: Keep the GIL, as the holder of a connection's lock must.
    """
    global _passed
    cdef PyThread_type_lock[_TOGETHER] locks
    cdef int count = 0
    cdef Baton baton
    if batons:
        _passed = _now()
    for baton in batons:
        if baton is None:  # which Cython lets through
            raise TypeError("a baton must not be None")
        locks[count] = baton._lock
        count += 1
        if count == _TOGETHER:
            _release(locks, count, keeps_gil)
            count = 0
    _release(locks, count, keeps_gil)


cdef object _release(PyThread_type_lock* locks, int count, bint keeps_gil):
    cdef int index
    if keeps_gil or is_crowded():  # a thread that computes would get the GIL, for 5 ms
        for index in range(count):
            PyThread_release_lock(locks[index])
        return
    with nogil:
        for index in range(count):
            PyThread_release_lock(locks[index])
