"""Serve the metrics that the options of `serve` and `run`, or a configuration, ask for."""

from __future__ import annotations

import argparse
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from .._exporter.metrics import LOST_RECORDS, Metrics, Reading
from ..observe import serve_metrics
from ._options import MetricsSetup, SetupError, read_token

if TYPE_CHECKING:  # it needs an extra
    from ..config.exporter import ExporterConfigV1Alpha1

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["load_metrics", "metrics_served"]

_logger: Final = logging.getLogger("jumpstarter.cli")


def load_metrics(
    options: argparse.Namespace, config: ExporterConfigV1Alpha1 | None
) -> MetricsSetup | None:
    """Return where metrics are served, or None. An option overrides the configuration.

    Raises:
        SetupError: The token cannot be read, or is for nothing.
    """
    wanted = None if config is None else config.metrics
    address: str | None = options.metrics or (wanted.address if wanted else None)
    file: Path | None = options.metrics_token_file or (wanted.token_file if wanted else None)
    if address is None:
        if file is not None:
            raise SetupError("--metrics-token-file is for --metrics, which is missing")
        return None
    return MetricsSetup(address, read_token(file, "--metrics-token-file"))


@asynccontextmanager
async def metrics_served(
    setup: MetricsSetup | None, lost_lines: Callable[[], int]
) -> AsyncIterator[Metrics | None]:
    """Serve metrics during the block, and yield what must count.

    Args:
        setup: Where, or None.
        lost_lines: Returns the number of lines of the log that stderr did not take.

    Raises:
        ConfigurationError: They cannot be served there.
        MissingExtra: The extra is not installed.
    """
    if setup is None:
        yield None
        return

    def readings() -> list[Reading]:
        return [Reading(*LOST_RECORDS, values={("stderr",): lost_lines()})]

    metrics = Metrics()
    with metrics.source(readings):
        async with serve_metrics(metrics, setup.address, token=setup.token or None) as url:
            _logger.info("metrics are served at %s", url)
            yield metrics
