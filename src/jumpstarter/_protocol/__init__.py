"""The wire protocol without I/O: which frames may be sent and received, when, and how many.

Nothing here imports Trio, a clock, a socket, a thread or a log. The caller feeds in the bytes that
it has read and receives events; it calls verbs and writes the bytes that they produce.
"""
