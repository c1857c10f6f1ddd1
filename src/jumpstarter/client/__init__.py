"""For authors of client classes: the base class, its streams and its generators."""

from __future__ import annotations

from ._base import DriverClient
from ._generators import RemoteGenerator
from ._raw_streams import RemoteStream
from ._streams import BlockingGenerator, BlockingStream
from ._stub import StubDriverClient

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = [
    "BlockingGenerator",
    "BlockingStream",
    "DriverClient",
    "RemoteGenerator",
    "RemoteStream",
    "StubDriverClient",
]
