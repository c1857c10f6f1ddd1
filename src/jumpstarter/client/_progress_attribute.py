"""The attribute by which an anyio stream says how many bytes it has; needs the extra `compat`."""

from __future__ import annotations

from .._util.extras import requires_extra

with requires_extra("compat", "jumpstarter.streams.progress"):
    import anyio

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["ProgressAttribute"]


class ProgressAttribute(anyio.TypedAttributeSet):
    """Attributes by which a stream describes its progress.

    Attributes:
        total: The number of bytes that it has in all.
    """

    total: float = anyio.typed_attribute()
