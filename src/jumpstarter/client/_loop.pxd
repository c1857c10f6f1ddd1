# Types for the compiled form of _loop.py, which has the documentation.

from .._util cimport trio_private

cpdef object lane_of_loop(object own, object client, object method)
