"""The wire protocol without I/O: which frames may be sent and received, when, and how many.

Nothing here imports Trio, a clock, a socket, a thread or a log. The caller feeds in the bytes that
it has read and receives events; it calls verbs and writes the bytes that they produce.

The modules that every call passes through are compiled (setup.py): a .pxd file has the C types for
the .py file of the same name. Both forms do the same, and docs/development.md says when each runs.
"""

from __future__ import annotations

from .._util import compiled

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["is_compiled"]


def is_compiled() -> bool:
    """Return whether the rules run as compiled modules, not as Python code."""
    from . import base  # noqa: PLC0415 - it imports this package

    return compiled.is_compiled(base.__file__)
