# cython: language_level=3, auto_pickle=False, autotestdict=False
"""System calls that never block, and keep the interpreter's lock (the GIL).

`os.read` and `os.write` let other threads run, since they may block. If one of those computes, it
keeps the interpreter for 5 ms after each such call. Nothing here blocks, whatever the mode of the
descriptor is, so nothing here needs that. The caller holds the lock of a connection, for which
other threads may wait.

These functions are compiled in both forms of the library.
"""

import os

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.object cimport PyObject
from libc.errno cimport EAGAIN, EINTR, errno

cdef extern from "Python.h":
    # With plain pointers, since the object moves when it is resized.
    PyObject* PyBytes_FromStringAndSize(const char* data, Py_ssize_t size) except NULL
    char* PyBytes_AS_STRING(PyObject* data)
    int _PyBytes_Resize(PyObject** data, Py_ssize_t size) except -1
    void Py_DECREF(PyObject* data)

cdef extern from "sys/socket.h":
    Py_ssize_t recv(int fd, void* buffer, size_t size, int flags)
    Py_ssize_t send(int fd, const void* buffer, size_t size, int flags)
    int MSG_DONTWAIT

cdef extern from "poll.h":
    cdef struct pollfd:
        int fd
        short events
        short revents
    int poll(pollfd* fds, unsigned long count, int timeout)
    short POLLIN

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
    written = send(fd, view.buf, view.len, MSG_DONTWAIT)
    while written < 0 and errno == EINTR:
        written = send(fd, view.buf, view.len, MSG_DONTWAIT)
    error = errno
    PyBuffer_Release(&view)
    if written >= 0:
        return written
    if error == EAGAIN:
        return 0
    _fail(error)


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
