"""Connect a command to an exporter: the options for it, and the address when none is given."""

from __future__ import annotations

import dataclasses
import functools
import logging
import ssl
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar

from .._api.connecting import connect
from .._util.extras import requires_extra
from .._util.tracebacks import hidden_contextmanager
from ..client import DriverClient
from ..common._env import (
    allowed_clients,
    exporter_address,
    exporter_claims,
    exporter_session,
    exporter_tls,
    exporter_token,
)
from ..config.env import JMP_TLS_CA, JMP_TLS_CERT, JMP_TLS_KEY

with requires_extra("cli", "the command line"):
    import click

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["Access", "access_options", "connected", "onlooker_options", "places_to"]

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
        passphrase: The exporter's token itself, for commands with such an option.
        no_wait: Fail instead of waiting for a turn at an exporter in exclusive use.
        no_claim: Do not ask for a turn.
        claim: The path of a driver, to ask for a turn at the subtree that has it.
    """

    token_file: Path | None = None
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    allow: tuple[str, ...] = ()
    passphrase: str | None = None
    no_wait: bool = False
    no_claim: bool = False
    claim: str | None = None

    def token(self) -> str | None:
        """Return the token of the options, or of the environment.

        Raises:
            click.UsageError: The file cannot be read.
        """
        if self.passphrase is not None:
            return self.passphrase
        if self.token_file is None:
            return exporter_token()
        try:
            return self.token_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as exc:
            raise click.UsageError(f"cannot read --token-file {self.token_file}: {exc}") from exc

    def ssl_context(self, address: str) -> ssl.SSLContext | None:
        """Return the TLS settings of the options, or of the environment; None for the default ones.

        Args:
            address: As `exporter_address` returns it.

        Raises:
            ConfigurationError: A file cannot be used.
        """
        return exporter_tls(address, self.tls_ca, self.tls_cert, self.tls_key)

    def claims(self, address: str) -> bool | str:
        """Return whether to ask for a turn, and at what, by the options and the environment.

        Args:
            address: As `exporter_address` returns it.

        Raises:
            click.UsageError: The options contradict each other.
        """
        if self.no_claim and self.claim is not None:
            raise click.UsageError("--claim and --no-claim exclude each other")
        return not self.no_claim and (self.claim or exporter_claims(address))

    def environment(self) -> dict[str, str]:
        """Return the variables by which another program uses the same files for TLS."""
        files = {JMP_TLS_CA: self.tls_ca, JMP_TLS_CERT: self.tls_cert, JMP_TLS_KEY: self.tls_key}
        variables = {name: str(file.absolute()) for name, file in files.items() if file is not None}
        if self.tls_cert is not None:
            variables.setdefault(JMP_TLS_KEY, "")  # one in the environment is of another file
        return variables


def access_options(function: Callable[P, R]) -> Callable[..., R]:
    """Add the options for access to a command, whose function gets them as `access: Access`."""
    no_wait = click.option(
        "--no-wait",
        is_flag=True,
        help="fail if another client holds an exporter in exclusive use, instead of waiting",
    )
    no_claim = click.option(
        "--no-claim",
        is_flag=True,
        help="use only what is read_only of an exporter in exclusive use, without a turn",
    )
    part = click.option(
        "--claim",
        metavar="PATH",
        help="take a turn at the board that has this driver, where boards of an exporter are used "
        "independently",
    )
    # The decorator that is applied last is the first one in --help.
    return onlooker_options(no_wait(no_claim(part(function))))


def onlooker_options(function: Callable[P, R]) -> Callable[..., R]:
    """Add the options of `access_options` to a command that never asks for a turn."""

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
        access = Access(**{name: options.pop(name) for name in names if name in options})
        return function(*args, access=access, **options)  # type: ignore[arg-type]

    return collect


def _print_place(text: str) -> None:
    sys.stderr.write(f"{text}\n")


@hidden_contextmanager
def connected(
    address: str | None,
    access: Access,
    *,
    import_clients: bool = True,
    claim: bool = True,
    path: str | None = None,
    tell: Callable[[str], None] | None = _print_place,
) -> Iterator[DriverClient]:
    """Connect to an exporter, for the length of a `with` block.

    Args:
        address: Its address, in one of the forms of `JUMPSTARTER_HOST`; by default that variable's.
        access: The options of `access_options`.
        import_clients: Import the client classes that `access` allows. A command that calls drivers
            by `call`, `streamingcall` and `stream` needs none of them. A missing class is not
            logged: a command that needs it says so.
        claim: Wait for a turn at an exporter in exclusive use, unless `access` says otherwise.
        path: The driver that the command uses: the turn is at the board that has it, if boards of
            the exporter are used independently, and nothing else says at which.
        tell: Called with this client's place while it waits; None for the log alone.

    Yields:
        The client of the root driver, for blocking code.

    Raises:
        JumpstarterException: (on entering) There is no address, or connecting failed.
        click.UsageError: (on entering) The token's file cannot be read.
    """
    allow = (access.allow or allowed_clients()) if import_clients else ()
    where, token = exporter_address(address), access.token()
    context = access.ssl_context(where)
    terms = claim and access.claims(where)
    if terms is True and path is not None:
        terms = path or "."
    # In a shell that holds one board, --claim may ask for another one.
    joins = terms and access.claim in (None, exporter_claims(where))
    with ExitStack() as stack:
        with _no_warnings(), places_to(tell):
            connection = connect(
                where,
                allow=allow,
                token=token,
                ssl_context=context,
                claim=terms,
                wait=not access.no_wait,
                session=exporter_session(where) if joins else None,
            )
            client = stack.enter_context(connection)
        yield client


class _PlaceHandler(logging.Handler):
    """Passes the text of records on."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        super().__init__()
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._tell(record.getMessage())
        except Exception:  # noqa: BLE001 - as logging's own handlers do
            self.handleError(record)


@contextmanager
def places_to(tell: Callable[[str], None] | None) -> Iterator[None]:
    """Pass this client's place in the queue to a function instead of the log, for a block.

    Also the warning before the end of its session.
    """
    if tell is None:
        yield
        return
    logger, handler = logging.getLogger("jumpstarter.client.queue"), _PlaceHandler(tell)
    propagates, logger.propagate = logger.propagate, False
    level = logger.level
    logger.setLevel(logging.WARNING)  # whatever the level of the log is
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagates


@contextmanager
def _no_warnings() -> Iterator[None]:
    """Log no missing client classes, for the length of a block."""
    logger = logging.getLogger("jumpstarter.client")
    logger.addFilter(_drop)
    try:
        yield
    finally:
        logger.removeFilter(_drop)


def _drop(_record: logging.LogRecord) -> bool:
    return False
