"""Show on the terminal that a run waits for its turn at an exporter in exclusive use.

pytest captures what is printed or logged meanwhile, so a run that waits would seem to hang.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["places_shown"]


class _Handler(logging.Handler):
    """Writes records as lines of pytest's report."""

    def __init__(self, config: pytest.Config) -> None:
        super().__init__()
        self._capture = config.pluginmanager.getplugin("capturemanager")
        self._reporter = config.pluginmanager.getplugin("terminalreporter")

    def emit(self, record: logging.LogRecord) -> None:
        if self._reporter is None:  # in a worker of pytest-xdist
            return
        text = record.getMessage()
        if self._capture is None:
            self._reporter.ensure_newline()
            self._reporter.write_line(text)
            return
        with self._capture.global_and_fixture_disabled():
            self._reporter.ensure_newline()
            self._reporter.write_line(text)


@contextmanager
def places_shown(config: pytest.Config) -> Iterator[None]:
    """Show the place of a client that connects in the block."""
    logger, handler = logging.getLogger("jumpstarter.client.queue"), _Handler(config)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
