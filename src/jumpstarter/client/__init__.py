"""For client authors: the base class, and what its streams and generators are."""

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
