# cython: language_level=3, auto_pickle=False, autotestdict=False
"""System calls on non-blocking descriptors that keep the interpreter's lock (the GIL).

`os.read` and `os.write` let other threads run, since they may block. If one of those computes, it
keeps the interpreter for 5 ms after each such call. Nothing here blocks, so nothing here needs
that. The caller holds the lock of a connection, for which other threads may wait.

These functions are compiled in both forms of the library.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.exc cimport PyErr_SetFromErrno
from cpython.object cimport PyObject
from libc.errno cimport EAGAIN, EINTR, errno

cdef extern from "Python.h":
    # With plain pointers, since the object moves when it is resized.
    PyObject* PyBytes_FromStringAndSize(const char* data, Py_ssize_t size) except NULL
    char* PyBytes_AS_STRING(PyObject* data)
    int _PyBytes_Resize(PyObject** data, Py_ssize_t size) except -1
    void Py_DECREF(PyObject* data)

cdef extern from "unistd.h":
    Py_ssize_t c_read "read"(int fd, void* buffer, size_t size)
    Py_ssize_t c_write "write"(int fd, const void* buffer, size_t size)

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


cpdef read(int fd, Py_ssize_t size):
    """Read up to `size` bytes: nothing at the end, None if there is nothing yet.

    Raises:
        OSError: The stream is broken.
    """
    cdef PyObject* data = PyBytes_FromStringAndSize(NULL, size)
    cdef Py_ssize_t got = c_read(fd, PyBytes_AS_STRING(data), size)
    while got < 0 and errno == EINTR:
        got = c_read(fd, PyBytes_AS_STRING(data), size)
    if got < 0:
        Py_DECREF(data)
        if errno == EAGAIN:
            return None
        PyErr_SetFromErrno(OSError)
    _PyBytes_Resize(&data, got)
    result = <object>data
    Py_DECREF(data)  # `result` has a reference of its own
    return result


cpdef Py_ssize_t write(int fd, data) except -1:
    """Write as much as is possible without waiting, and return how many bytes that was.

    Raises:
        OSError: The stream is broken.
    """
    cdef Py_buffer view
    cdef Py_ssize_t written
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    written = c_write(fd, view.buf, view.len)
    while written < 0 and errno == EINTR:
        written = c_write(fd, view.buf, view.len)
    if written < 0 and errno != EAGAIN:
        try:
            PyErr_SetFromErrno(OSError)
        finally:
            PyBuffer_Release(&view)
    PyBuffer_Release(&view)
    return max(written, 0)


cpdef object watch(int epoll, int fd, bint readable):
    """Make an epoll instance report a descriptor that is readable, or nothing but a hang-up.

    Raises:
        OSError: One of them was closed.
    """
    if watch_for(epoll, fd, readable) < 0:
        PyErr_SetFromErrno(OSError)
