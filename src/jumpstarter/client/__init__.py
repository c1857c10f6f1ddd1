"""For authors of client classes: the base class, its streams and its generators."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._base import DriverClient
from ._generators import RemoteGenerator
from ._raw_streams import RemoteStream
from ._streams import BlockingGenerator, BlockingStream
from ._stub import StubDriverClient

if TYPE_CHECKING:
    from .flasher import FlasherClient as FlasherClient
    from .flasher import FlasherClientInterface as FlasherClientInterface

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = [
    "BlockingGenerator",
    "BlockingStream",
    "DriverClient",
    "RemoteGenerator",
    "RemoteStream",
    "StubDriverClient",
]


def __getattr__(name: str) -> Any:
    if name in {"FlasherClient", "FlasherClientInterface"}:
        from . import flasher  # noqa: PLC0415 - needs the extra `compat`

        return getattr(flasher, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
