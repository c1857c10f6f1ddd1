"""The wire protocol without I/O: which frames are legal, when, and how many.

Nothing here imports Trio, a clock, a socket, a thread or a log. A transport feeds bytes in and
takes events out; the application calls verbs and takes the bytes that they produce.
"""
