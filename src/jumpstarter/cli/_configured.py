"""Make the driver tree that an exporter's configuration describes. It needs the extra `cli`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..config._loading import load_exporter
from ..config.exporter import ExporterConfigV1Alpha1
from ..driver import Driver
from ..errors import ConfigurationError
from ._current_directory import add_current_directory
from ._options import SetupError, place_of

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["load_configured"]


def load_configured(
    name: str | None = None,
    file: Path | None = None,
    take: Callable[[ExporterConfigV1Alpha1], None] = lambda _: None,
) -> tuple[Driver, ExporterConfigV1Alpha1]:
    """Read a configuration, and make its drivers. Modules of the current directory are found too.

    Args:
        name: The exporter's name, see `config._loading.load_exporter`.
        file: The path of a configuration, instead of a name.
        take: Called with the configuration before the drivers are made.

    Returns:
        The root of the tree, and the configuration.

    Raises:
        SetupError: The file cannot be read, or a driver has raised an exception.
        ConfigurationError: The configuration has faults.
    """
    try:
        config = load_exporter(name, file)
    except OSError as exc:
        raise SetupError(f"cannot read {exc.filename or file}: {exc.strerror or exc}") from exc
    take(config)
    add_current_directory()
    try:
        return config.instantiate(), config
    except KeyboardInterrupt:
        raise
    except BaseException as exc:  # SystemExit too: nothing can be served
        notes = getattr(exc, "__notes__", ())
        if isinstance(exc, ConfigurationError) and not notes:
            raise
        told = f"{notes[0] if notes else config.path}: {type(exc).__name__}: {exc}"
        place = place_of(exc, None)
        raise SetupError(" ".join(told.split()) + (f" ({place})" if place else "")) from exc
