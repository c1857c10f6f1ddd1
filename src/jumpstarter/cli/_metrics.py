"""Serve the metrics and the status page that options or a configuration ask for."""

from __future__ import annotations

import argparse
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from .._exporter.metrics import LOST_RECORDS, Metrics, Reading
from .._exporter.server import Server
from ..observe import serve_metrics, serve_status
from ._http_setup import check_http
from ._options import (
    HTTPS,
    HttpSetup,
    ServeConfig,
    SetupError,
    is_https,
    load_certificate,
    read_token,
)

if TYPE_CHECKING:  # it needs an extra
    from ..config.exporter import ExporterConfigV1Alpha1

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["load_http", "metrics_served", "status_served"]

_logger: Final = logging.getLogger("jumpstarter.cli")


def load_http(
    options: argparse.Namespace, config: ExporterConfigV1Alpha1 | None, what: str
) -> HttpSetup | None:
    """Return where something is served, or None. An option overrides the configuration.

    Args:
        options: The options, among them two that the next argument names.
        config: The configuration, if there is one.
        what: `metrics` or `status`.

    Raises:
        SetupError: The token or the certificate cannot be read, or is for nothing, or it cannot be
            served there.
    """
    wanted = None if config is None else getattr(config, what)
    option = f"--{what}-token-file"
    address: str | None = getattr(options, what) or (wanted.address if wanted else None)
    given: Path | None = getattr(options, f"{what}_token_file")
    file = given or (wanted.token_file if wanted else None)
    if address is None:
        if file is not None:
            raise SetupError(f"{option} is for --{what}, which is missing")
        return None
    context = None
    if "://" in address and not is_https(address):
        text = "write PORT, HOST:PORT, or https://HOST:PORT with --tls-cert"
        raise SetupError(f"--{what} (or {what}: of the configuration) {address}: {text}")
    if is_https(address):
        if options.tls_cert is None:
            raise SetupError(f"--{what} {address}: give --tls-cert, a file with the certificate")
        context = load_certificate(options)
    setup = HttpSetup(address.removeprefix(HTTPS), read_token(file, option), context)
    exposed = check_http(setup, what, f"{option} (or tokenFile: of the configuration)")
    if exposed and context is None and what == "status":
        text = "the status page at %s sends consoles, and gets its token, through the network in "
        text += "cleartext: use https://HOST:PORT, with --tls-cert"
        _logger.warning(text, address)
    return setup


@asynccontextmanager
async def metrics_served(
    config: ServeConfig, lost_lines: Callable[[], int]
) -> AsyncIterator[Metrics | None]:
    """Serve metrics during the block, if they are wanted, and yield what must count.

    Args:
        config: Says where. For the status page too, calls must be counted, for their durations.
        lost_lines: Returns the number of lines of the log that stderr did not take.

    Raises:
        ConfigurationError: They cannot be served there.
        MissingExtra: The extra is not installed.
    """
    setup = config.metrics
    if setup is None:
        yield None if config.status is None else Metrics()
        return

    def readings() -> list[Reading]:
        return [Reading(*LOST_RECORDS, values={("stderr",): lost_lines()})]

    metrics = Metrics()
    with metrics.source(readings):
        token = setup.token or None
        async with serve_metrics(
            metrics, setup.address, token=token, ssl_context=setup.context
        ) as url:
            _logger.info("metrics are served at %s", url)
            yield metrics


@asynccontextmanager
async def status_served(config: ServeConfig, server: Server) -> AsyncIterator[None]:
    """Serve the status page during the block, if it is wanted.

    Raises:
        ConfigurationError: It cannot be served there.
        MissingExtra: The extra is not installed.
    """
    setup = config.status
    if setup is None:
        yield
        return
    token, context = setup.token or None, setup.context
    async with serve_status(
        server, setup.address, name=config.name, token=token, ssl_context=context
    ) as url:
        _logger.info("the status page is at %s", url)
        yield
