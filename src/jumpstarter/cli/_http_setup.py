"""Check where metrics, or the status page, are to be served, before anything is served."""

from __future__ import annotations

import ipaddress
import socket

from ..errors import ArgumentError, MissingExtra
from ..observe._serving import http_address
from ._options import HTTPS, HttpSetup, SetupError

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["check_http"]


def check_http(setup: HttpSetup, what: str, token: str) -> bool:
    """Refuse what cannot be served. It may look a name up in the network.

    Args:
        setup: Where something is to be served.
        what: `metrics` or `status`.
        token: How a token is given, for the error.

    Returns:
        Whether other machines reach it.

    Raises:
        SetupError: The address is not one, other machines reach it and there is no token, or the
            extra is not installed.
    """
    try:
        from ..observe import _exposition, _http  # noqa: F401, PLC0415 - they need the extra

        host = http_address(setup.address.removeprefix(HTTPS)).host
    except (MissingExtra, ArgumentError) as exc:
        raise SetupError(str(exc)) from exc
    title = f"cannot serve {what} at {setup.address}"
    try:
        exposed = _is_exposed(host)
    except OSError as exc:
        raise SetupError(f"{title}: {exc.strerror or exc}") from exc
    if exposed and not setup.token:
        text = f"{title}: other machines reach it, and there is no token"
        raise SetupError(f"{text}. Listen at 127.0.0.1, or give {token}")
    return exposed


def _is_exposed(host: str) -> bool:
    """Return whether other machines can reach an address of a host."""
    found = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
    return not all(ipaddress.ip_address(entry[4][0]).is_loopback for entry in found)
