"""Connect to the exporter that the environment names, as a test in a jumpstarter shell does."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NoReturn

from .._api.connecting import connect
from .._util.tracebacks import hidden_contextmanager
from ..client import DriverClient
from ..client._tree import DEFAULT_ALLOW
from ..errors import ArgumentError, ConfigurationError
from .exceptions import EnvironmentVariableNotSetError

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = [
    "allowed_clients",
    "env",
    "environment_client",
    "exporter_address",
    "exporter_claims",
    "exporter_session",
    "exporter_tls",
    "exporter_token",
]

_HOST: Final = "JUMPSTARTER_HOST"
_ALLOW: Final = "JMP_DRIVERS_ALLOW"
_INSECURE: Final = ("JMP_GRPC_INSECURE", "JUMPSTARTER_GRPC_INSECURE")
_TOKEN: Final = "JMP_GRPC_PASSPHRASE"  # noqa: S105 - a variable's name
_TLS: Final = ("JMP_TLS_CA", "JMP_TLS_CERT", "JMP_TLS_KEY")
_SESSION: Final = "JMP_SESSION"
_CLAIM: Final = "JMP_CLAIM"
_NO_CLAIM: Final = "JMP_NO_CLAIM"
_NO_WAIT: Final = "JMP_NO_WAIT"
_SCHEMES: Final = ("unix:", "tcp://", "tls://")
_HOST_PORT: Final = re.compile(r"[^/]+:\d+", re.ASCII)


@hidden_contextmanager
def env() -> Iterator[DriverClient]:
    """Connect to the exporter at `JUMPSTARTER_HOST`, for the length of a `with` block.

    The variable is an address of this library, such as `unix:/path`, or what the published package
    puts there: the path of a socket, or `host:port`. These other variables are used:

    - `JMP_DRIVERS_ALLOW`: patterns of client classes that may be imported, with commas between
      them; `UNSAFE` allows all. By default the packages `jumpstarter_driver_*`.
    - `JMP_GRPC_PASSPHRASE`: the exporter's token.
    - `JMP_GRPC_INSECURE`: with `1`, `host:port` is reached by plain TCP, and else by TLS.
    - `JMP_SESSION`: the session of a shell at an exporter in exclusive use. Without it, this client
      waits for a turn, or with `JMP_NO_WAIT=1` raises an exception.
    - `JMP_NO_CLAIM`: with `1`, this client asks for no turn at an exporter in exclusive use, and
      can call only methods that are marked `read_only`.
    - `JMP_CLAIM`: the path of a driver, to claim the subtree that has it, if subtrees of the
      exporter are used independently.
    - `JMP_TLS_CA`, `JMP_TLS_CERT` and `JMP_TLS_KEY`: files, PEM, with the authorities that are
      trusted instead of the system's, this client's certificate, and its private key. They are
      not read for an address without TLS.

    Yields:
        The client of the root driver, for blocking code.

    Raises:
        EnvironmentVariableNotSetError: (on entering) `JUMPSTARTER_HOST` is not set.
        HandshakeError: (on entering) The connection failed, or the exporter refused this client.
        ArgumentError: (on entering) A variable cannot be used.
        ConfigurationError: (on entering) A file for TLS cannot be used.
        RuntimeError: (on entering) This thread runs a Trio loop.
    """
    with environment_client() as client:
        yield client


@hidden_contextmanager
def environment_client(*, claim: bool = True) -> Iterator[DriverClient]:
    """Connect as `env` does, for the length of a block.

    Args:
        claim: False connects to an exporter in exclusive use without waiting for a turn.
    """
    address = exporter_address()
    terms = claim and exporter_claims(address)
    with connect(
        address,
        allow=allowed_clients(),
        token=exporter_token(),
        ssl_context=exporter_tls(address),
        claim=terms,
        wait=os.environ.get(_NO_WAIT) != "1",
        session=exporter_session(address) if terms else None,
    ) as client:
        yield client


def exporter_claims(address: str) -> bool | str:
    """Return whether clients of the exporter at this address ask for turns, and for what.

    `JMP_NO_CLAIM` and `JMP_CLAIM` are for the exporter at `JUMPSTARTER_HOST`, as `JMP_SESSION` is.
    Without `JUMPSTARTER_HOST`, `JMP_NO_CLAIM` is for all exporters.

    Args:
        address: The exporter's address, as `exporter_address` returns it.

    Returns:
        What `connect` takes as `claim`.
    """
    host = os.environ.get(_HOST)
    if host and exporter_address(host) != address:
        return True
    if os.environ.get(_NO_CLAIM) == "1":
        return False
    return (os.environ.get(_CLAIM) if host else None) or True


def exporter_session(address: str) -> str | None:
    """Return the session of the environment, if it is one at this address.

    Args:
        address: The exporter's address, as `exporter_address` returns it.
    """
    session, host = os.environ.get(_SESSION), os.environ.get(_HOST)
    return session if session and host and exporter_address(host) == address else None


def exporter_address(host: str | None = None, *, insecure: bool = False) -> str:
    """Return an address in the form that `connect` takes.

    Args:
        host: An address, the path of a socket, or `host:port`; by default `JUMPSTARTER_HOST`.
        insecure: Reach `host:port` by plain TCP, whatever the environment says.

    Raises:
        EnvironmentVariableNotSetError: Neither is there.
        ArgumentError: It looks like an address, and has no scheme of one.
    """
    host = host or os.environ.get(_HOST)
    if not host:
        text = f"{_HOST} is not set: it says where the exporter is, for example unix:/run/socket"
        raise EnvironmentVariableNotSetError(text)
    if host.startswith(_SCHEMES):
        return host
    if _HOST_PORT.fullmatch(host):
        insecure = insecure or any(os.environ.get(name) == "1" for name in _INSECURE)
        return f"{'tcp' if insecure else 'tls'}://{host}"
    if not host.startswith(("/", ".")) and (":" in host or "//" in host):  # mistyped, as tpc://host
        text = f"{host!r} is not an address: one begins with {', '.join(_SCHEMES)}, or is HOST:PORT"
        raise ArgumentError(f"{text}, or the path of a socket (then write './{host}')")
    return f"unix:{Path(host).absolute()}"


def exporter_token() -> str | None:
    """Return the token of the environment, if there is one."""
    return os.environ.get(_TOKEN) or None


def exporter_tls(
    address: str, ca: Path | None = None, cert: Path | None = None, key: Path | None = None
) -> ssl.SSLContext | None:
    """Return the TLS settings for an address, or None for the default ones.

    Each file is by default the environment's. Without any of these arguments, the environment does
    not count for an address without TLS, since it may have been set for another exporter.

    Args:
        address: The exporter's address, as `exporter_address` returns it.
        ca: The certificate authorities to trust, instead of the system's.
        cert: The certificate to show, with its private key unless `key`.
        key: The private key of that certificate.

    Raises:
        ConfigurationError: A file cannot be used, or a key has no certificate.
    """
    if ca is cert is key is None and not address.startswith("tls://"):
        return None
    usual = [Path(value) if (value := os.environ.get(name)) else None for name in _TLS]
    if cert is None:
        cert, key = usual[1], key or usual[2]
    ca = ca or usual[0]
    if cert is None and key is not None:
        raise ConfigurationError(f"the private key {key} is given without its certificate")
    return None if ca is cert is None else _load_tls_files(ca, cert, key)


def _load_tls_files(ca: Path | None, cert: Path | None, key: Path | None) -> ssl.SSLContext:
    def refuse() -> NoReturn:  # without it, OpenSSL would ask for the passphrase at the terminal
        text = f"cannot use {key or cert}: the key has a passphrase, which is not supported"
        raise ConfigurationError(f"{text}: decrypt it with `openssl pkey`")

    try:
        context = ssl.create_default_context(cafile=ca)
        if cert is not None:
            context.load_cert_chain(cert, key, password=refuse)
    except OSError as exc:  # the base class of ssl.SSLError
        files = " ".join(map(str, filter(None, (ca, cert, key))))
        raise ConfigurationError(f"cannot use {files} for TLS: {exc}") from exc
    return context


def allowed_clients() -> Sequence[str]:
    """Return the patterns of client classes that may be imported, of the environment."""
    text = os.environ.get(_ALLOW)
    if text is None:
        return DEFAULT_ALLOW
    patterns = [each.strip() for each in text.split(",") if each.strip()]
    return ["*"] if "UNSAFE" in patterns else patterns
