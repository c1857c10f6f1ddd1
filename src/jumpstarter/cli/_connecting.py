"""Connect a command to an exporter: the options for it, and the address when none is given."""

from __future__ import annotations

import dataclasses
import functools
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar

from .._api.connecting import connect
from .._util.extras import requires_extra
from .._util.tracebacks import hidden_contextmanager
from ..client import DriverClient
from ..common._env import allowed_clients, exporter_address, exporter_token

with requires_extra("cli", "the command line"):
    import click

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["Access", "access_options", "connected"]

P = ParamSpec("P")
R = TypeVar("R")
_FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Access:
    """How to reach an exporter, apart from its address.

    Attributes:
        token_file: A file with the exporter's token.
        tls_ca: The certificate authorities to trust, instead of the system's.
        tls_cert: The certificate to show to the exporter, with its private key unless `tls_key`.
        tls_key: The private key of that certificate.
        allow: Patterns of client classes that may be imported; empty for those of the environment.
    """

    token_file: Path | None = None
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    allow: tuple[str, ...] = ()

    def token(self) -> str | None:
        """Return the token of the file, or of the environment.

        Raises:
            click.UsageError: The file cannot be read.
        """
        if self.token_file is None:
            return exporter_token()
        try:
            return self.token_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as exc:
            raise click.UsageError(f"cannot read --token-file {self.token_file}: {exc}") from exc

    def ssl_context(self) -> ssl.SSLContext | None:
        """Return the TLS settings, or None for the default ones.

        Raises:
            click.UsageError: A file cannot be used.
        """
        if self.tls_ca is None and self.tls_cert is None:
            return None
        try:
            context = ssl.create_default_context(cafile=self.tls_ca)
            if self.tls_cert is not None:
                context.load_cert_chain(self.tls_cert, self.tls_key)
        except OSError as exc:  # the base class of ssl.SSLError
            files = " ".join(map(str, filter(None, (self.tls_ca, self.tls_cert, self.tls_key))))
            raise click.UsageError(f"cannot use {files} for TLS: {exc}") from exc
        return context


def access_options(function: Callable[P, R]) -> Callable[..., R]:
    """Add the options for access to a command, whose function gets them as `access: Access`."""

    @click.option("--token-file", type=_FILE, metavar="FILE", help="a file with the token")
    @click.option("--tls-ca", type=_FILE, metavar="FILE", help="trusted authorities, PEM")
    @click.option("--tls-cert", type=_FILE, metavar="FILE", help="our certificate, PEM")
    @click.option("--tls-key", type=_FILE, metavar="FILE", help="its private key, PEM")
    @click.option(
        "--allow",
        multiple=True,
        metavar="PATTERN",
        help="client classes that may be imported, as in 'mylab.*'; can be given several times",
    )
    @functools.wraps(function)
    def collect(*args: Any, **options: Any) -> R:
        names = [field.name for field in dataclasses.fields(Access)]
        access = Access(**{name: options.pop(name) for name in names})
        return function(*args, access=access, **options)  # type: ignore[arg-type]

    return collect


@hidden_contextmanager
def connected(address: str | None, access: Access) -> Iterator[DriverClient]:
    """Connect to an exporter, for the length of a `with` block.

    Args:
        address: Its address, in one of the forms of `JUMPSTARTER_HOST`; by default that variable's.
        access: The options of `access_options`.

    Yields:
        The client of the root driver, for blocking code.

    Raises:
        JumpstarterException: (on entering) There is no address, or connecting failed.
        click.UsageError: (on entering) An option cannot be used.
    """
    allow = access.allow or allowed_clients()
    where, token, context = exporter_address(address), access.token(), access.ssl_context()
    with connect(where, allow=allow, token=token, ssl_context=context) as client:
        yield client
