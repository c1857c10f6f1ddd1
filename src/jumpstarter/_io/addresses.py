"""Addresses: `unix:/path`, `tcp://host:port` and `tls://host:port`."""

from __future__ import annotations

import dataclasses
import ipaddress
import re
from pathlib import Path
from typing import Final, Literal

from .._util.checks import check_text
from ..errors import ArgumentError

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["Address", "parse_address"]

_LABEL: Final = "[A-Za-z0-9_-]{1,63}"
_HOST_PORT: Final = re.compile(
    rf"(?:\[([^\[\]%]+(?:%[A-Za-z0-9_.-]+)?)\]|({_LABEL}(?:\.{_LABEL})*)):([0-9]{{1,5}})"
)


@dataclasses.dataclass(frozen=True, slots=True)
class Address:
    """The address of a server. `str()` returns the text that `parse_address` reads.

    Attributes:
        scheme: `"unix"`, `"tcp"` or `"tls"`.
        path: For `unix`, the absolute path of the socket.
        host: For `tcp` and `tls`, a name or an IP address in lower case, IPv6 without brackets.
        port: For `tcp` and `tls`, 0 to 65535. With 0 a listener takes any free port.
    """

    scheme: Literal["unix", "tcp", "tls"]
    path: str = ""
    host: str = ""
    port: int = 0

    def __str__(self) -> str:
        if self.scheme == "unix":
            return f"unix:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def parse_address(text: str) -> Address:
    """Read `unix:/path` (or `unix:///path`), `tcp://host:port` or `tls://host:port`.

    An IPv6 host is in brackets. A path is used literally, without expanding or unquoting.

    Raises:
        ArgumentError: The text is not such an address. The message says why, with examples.
    """
    check_text("the address", text, "a str like unix:/run/exporter/socket or tcp://127.0.0.1:8080")
    scheme, _, rest = text.partition(":")
    if scheme == "unix":
        path = rest.removeprefix("//") if rest.startswith("///") else rest
        if path.startswith(("@", "\0")):
            raise _bad_address(text, "abstract sockets, which any user may open, are not supported")
        if not path.startswith("/") or path.startswith("//"):
            hint = _absolute_hint(path)
            raise _bad_address(text, f"the path must be absolute, and there is no host{hint}")
        if path.endswith("/") or "\0" in path:
            raise _bad_address(text, "the path must name a socket, and cannot hold a NUL")
        return Address("unix", path=path)
    if scheme not in ("tcp", "tls") or not rest.startswith("//"):
        raise _bad_address(text, "it must begin with unix:, tcp:// or tls://")
    match = _HOST_PORT.fullmatch(rest.removeprefix("//"))
    if match is None or int(match[3]) > 65535:
        raise _bad_address(text, "expected host:port, a port up to 65535, IPv6 in brackets")
    try:
        host = match[2].lower() if match[2] else str(ipaddress.IPv6Address(match[1]))
    except ValueError:
        raise _bad_address(text, f"{match[1]!r} is not an IPv6 address") from None
    return Address("tcp" if scheme == "tcp" else "tls", host=host, port=int(match[3]))


def _absolute_hint(path: str) -> str:
    """Return a hint with the absolute address to write instead, or "" if it is unknown."""
    tail = path.lstrip("/")
    if not tail or "\0" in path:
        return ""
    try:
        here = str(Path.cwd())
        absolute = str(Path(here, Path(path).expanduser()))
    except (OSError, RuntimeError):  # the current or home directory is unknown
        return ""
    if path.startswith("//"):
        return f": write {f'unix:/{tail}'!r}, or {f'unix:{here}/{tail}'!r}"
    return f": write {f'unix:{absolute}'!r}"


def _bad_address(text: str, why: str) -> ArgumentError:
    return ArgumentError(
        f"cannot use the address {text!r}: {why}. Give one like unix:/run/exporter/socket, "
        "tcp://127.0.0.1:8080, tcp://[::1]:8080 or tls://exporter.example:8443"
    )
