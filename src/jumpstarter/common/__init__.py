"""Listeners for client code and the tool `fls`, under the names that existing drivers import.

The listeners are async context managers that call a handler with each connection.
"""

from __future__ import annotations

from .._io.forward import listen_tcp as TemporaryTcpListener  # noqa: N812 - as drivers import it
from .._io.forward import listen_unix as TemporaryUnixListener  # noqa: N812
from .fls import download_fls, get_fls_binary, get_fls_github_url

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = [
    "TemporaryTcpListener",
    "TemporaryUnixListener",
    "download_fls",
    "get_fls_binary",
    "get_fls_github_url",
]
