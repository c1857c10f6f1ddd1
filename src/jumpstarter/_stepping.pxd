# The C interface for the compiled modules. _stepping.pyx has the documentation.

cpdef tuple advance(coroutine)
cpdef object enter_copied_context()
cpdef object leave_context(context)
cpdef bint has_async_hooks() noexcept
