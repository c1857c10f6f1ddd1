"""Turn the options into the arguments of `connect`, or serve a configuration."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import pytest

from .._api.connecting import connect
from .._api.local import serve
from .._util.text import indent_text
from ..client import DriverClient
from ..client._name import own_name
from ..common._env import (
    allowed_clients,
    exporter_address,
    exporter_claims,
    exporter_session,
    exporter_tls,
    exporter_token,
)
from ..errors import JumpstarterException

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = [
    "Access",
    "access_of",
    "exits_at_interrupt",
    "fail_in_one_line",
    "fails_in_one_line",
    "served",
]


class Access(NamedTuple):
    """The arguments of `connect`."""

    address: str
    allow: Sequence[str]
    token: str | None = None
    ssl_context: ssl.SSLContext | None = None
    name: str | None = None
    wait: bool = True
    session: str | None = None
    claim: bool | str = True

    def connect(self) -> AbstractContextManager[DriverClient, None]:
        """Return the context manager that connects."""
        return connect(self.address, **self.options())

    def options(self) -> dict[str, Any]:
        """Return the keyword arguments."""
        found = self._asdict()
        del found["address"]
        return found


@contextmanager
def fails_in_one_line(subject: str) -> Iterator[None]:
    """Turn the errors that the user can resolve into a failure without a traceback."""
    try:
        yield
    except (JumpstarterException, OSError, UnicodeDecodeError) as exc:
        fail_in_one_line(f"{subject}: {indent_text(str(exc))}")


@contextmanager
def exits_at_interrupt(text: str) -> Iterator[None]:
    """End the run at Ctrl-C, with a text instead of the place in the library that it interrupts."""
    try:
        yield
    except KeyboardInterrupt:
        raise pytest.exit.Exception(text, returncode=pytest.ExitCode.INTERRUPTED) from None


def fail_in_one_line(text: str) -> NoReturn:
    """Fail the test with a text and no frames.

    Raises:
        Exception: pytest's failure.
    """
    __tracebackhide__ = False  # pytest adds a line to a failure all of whose frames are hidden
    # From None: pytest would show the error that is being handled, with frames, in front.
    raise pytest.fail.Exception(text, pytrace=False) from None


def access_of(config: pytest.Config, address: str) -> Access:
    """Return what the options say.

    Raises:
        JumpstarterException: The address cannot be used.
        OSError: A file cannot be read.
    """
    token_file = config.getoption("jumpstarter_token_file")
    token = exporter_token()
    if token_file is not None:
        token = Path(token_file).read_text(encoding="utf-8").strip()
    worker = getattr(config, "workerinput", {}).get("workerid")
    where = exporter_address(address)
    given: str | None = config.getoption("jumpstarter_claim") or None
    usual = exporter_claims(where)
    claim = not config.getoption("jumpstarter_no_claim") and (given or usual)
    joins = claim and given in (None, usual)  # not if it is another board than that of the shell
    return Access(
        where,
        _allowed(config),
        token,
        exporter_tls(where, *(_file(config, name) for name in ("ca", "cert", "key"))),
        None if worker is None else f"{own_name()} {worker}",
        not config.getoption("jumpstarter_no_wait"),
        exporter_session(where) if joins else None,
        claim,
    )


def _allowed(config: pytest.Config) -> Sequence[str]:
    texts = config.getoption("jumpstarter_allow")
    if found := [each.strip() for text in texts for each in text.split(",") if each.strip()]:
        return found
    if "JMP_DRIVERS_ALLOW" in os.environ:
        return allowed_clients()
    return config.getini("jumpstarter_allow") or allowed_clients()


def _file(config: pytest.Config, name: str) -> Path | None:
    """Return a file for TLS that an option names."""
    given: str | None = config.getoption(f"jumpstarter_tls_{name}")
    return None if given is None else Path(given)


@contextmanager
def served(path: Path) -> Iterator[tuple[DriverClient, str]]:
    """Serve a configuration in this process, on a private Unix socket.

    Yields:
        The client of the root driver, and the exporter's name.

    Raises:
        JumpstarterException: The configuration has a fault, or is in exclusive use by another
            process, or an extra is missing.
        OSError: It cannot be read.
        Exception: A driver has raised it.
    """
    from ..config._in_use import in_use  # noqa: PLC0415 - it needs the extra cli
    from ..config._loading import load_exporter  # noqa: PLC0415 - the same

    config = load_exporter(file=path)
    with (
        in_use(config.path, exclusive=bool(config.exclusive)),
        serve(config.instantiate()) as client,
    ):
        yield client, config.metadata.name
