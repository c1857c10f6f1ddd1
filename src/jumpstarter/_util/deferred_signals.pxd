# Types for the compiled form of deferred_signals.py, which has the documentation.

cdef tuple _CATCHABLE, _SIGNALS
