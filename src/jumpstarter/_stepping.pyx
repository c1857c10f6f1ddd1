# cython: language_level=3, auto_pickle=False, autotestdict=False
"""Run a coroutine up to its first wait, and code in a context of its own, by the interpreter's C API.

`Coroutine.send` ends in an exception when the coroutine returns, and `Context.run` needs a function
to call. Each call of an `async` method would pay for both. `sys.get_asyncgen_hooks` makes a tuple,
for which each blocking call would pay.

These functions are compiled in both forms of the library.
"""

from cpython.object cimport PyObject

cdef extern from "Python.h":
    ctypedef enum PySendResult:
        PYGEN_RETURN
        PYGEN_ERROR
        PYGEN_NEXT
    PySendResult PyIter_Send(object coroutine, object sent, PyObject** result) except PYGEN_ERROR
    object PyContext_CopyCurrent()
    int PyContext_Enter(object context) except -1
    int PyContext_Exit(object context) except -1
    void Py_DECREF(PyObject* value)
    ctypedef struct PyThreadState:
        PyObject* async_gen_firstiter
    PyThreadState* PyThreadState_Get()


cpdef tuple advance(coroutine):
    """Run a coroutine until it returns or waits.

    Returns:
        False and what it has returned, or True and what it has yielded to the event loop.

    Raises:
        BaseException: Raised by the coroutine.
    """
    cdef PyObject* given[1]
    cdef PySendResult how = PyIter_Send(coroutine, None, given)
    value = <object>given[0]
    Py_DECREF(given[0])  # `value` has a reference of its own
    return how == PYGEN_NEXT, value


cpdef object enter_copied_context():
    """Copy the current context, make the copy the current one, and return it, for `leave_context`."""
    context = PyContext_CopyCurrent()
    PyContext_Enter(context)
    return context


cpdef object leave_context(context):
    """Make the context the current one again that was it before `enter_copied_context`."""
    PyContext_Exit(context)


cpdef bint has_async_hooks() noexcept:
    """Return whether this thread has a hook for new async generators, as in an event loop."""
    return PyThreadState_Get().async_gen_firstiter != NULL
