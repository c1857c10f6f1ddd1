# Types for the compiled form of _loop.py, which has the documentation.

cpdef object lane_of_loop(object own, object client, object method)
