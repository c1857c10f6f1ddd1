"""The decorators for exported methods, and the names of the published package's marks.

`export` and `exportstream` set the mark of its kind on each exported method, to `MARKER_MAGIC`, as
the published package does. This library does not read these marks.
"""

from __future__ import annotations

from ._export import (
    MARKER_DRIVERCALL,
    MARKER_MAGIC,
    MARKER_STREAMCALL,
    MARKER_STREAMING_DRIVERCALL,
    export,
    exportstream,
)

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = [
    "MARKER_DRIVERCALL",
    "MARKER_MAGIC",
    "MARKER_STREAMCALL",
    "MARKER_STREAMING_DRIVERCALL",
    "export",
    "exportstream",
]
