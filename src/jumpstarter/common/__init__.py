"""Listeners and the tool `fls`, under the names that existing drivers import.

The listeners are async context managers that call a handler with each connection. They work in
either kind of loop, and need the extra `compat`, which is imported when one is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .fls import download_fls, get_fls_binary, get_fls_github_url

if TYPE_CHECKING:
    from ._sockets import TemporarySocket, TemporaryTcpListener, TemporaryUnixListener

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = [
    "TemporarySocket",
    "TemporaryTcpListener",
    "TemporaryUnixListener",
    "download_fls",
    "get_fls_binary",
    "get_fls_github_url",
]


def __getattr__(name: str) -> Any:
    if name in {"TemporarySocket", "TemporaryTcpListener", "TemporaryUnixListener"}:
        from . import _sockets  # noqa: PLC0415 - imports anyio

        return getattr(_sockets, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
