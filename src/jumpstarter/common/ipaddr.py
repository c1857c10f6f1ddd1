"""Find the address under which other machines reach this one."""

from __future__ import annotations

import logging
import socket
from contextlib import suppress
from ipaddress import ip_address
from typing import Final

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["get_ip_address"]

# An address of AS112, which answers reverse lookups of private networks all over the world. Nothing
# is sent to it: connecting a UDP socket only makes the system choose a route.
_ELSEWHERE: Final = ("192.175.48.1", 53)
_ANY: Final = "0.0.0.0"  # noqa: S104 - returned if there is nothing better


def get_ip_address(logger: logging.Logger | None = None) -> str:
    """Return the IPv4 address of this machine, as other machines would reach it.

    It is the address of the host's name, unless that is unknown or a loopback address; else the one
    from which the system would reach the internet. It asks the resolver, which may block.

    Args:
        logger: Where to warn if no address was found.

    Returns:
        The address; `"0.0.0.0"` if none was found.
    """
    with suppress(OSError):
        address = socket.gethostbyname(socket.gethostname())
        if address and not ip_address(address).is_loopback:
            return address
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(_ELSEWHERE)
            chosen: str = probe.getsockname()[0]
            return chosen
    except OSError as exc:
        if logger is not None:
            text = "this machine's address was not found (%s), so %s is used; configure the host"
            logger.warning(text, exc, _ANY)
        return _ANY
