"""Find the configuration of an exporter that a command names. It needs the extra `cli`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import ConfigurationError
from ._yaml import read_source
from .exporter import ExporterConfigV1Alpha1

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["list_exporters", "load_exporter"]


def load_exporter(name: str | None = None, file: Path | None = None) -> ExporterConfigV1Alpha1:
    """Read the configuration of an exporter. Its `instantiate()` makes the driver tree.

    Args:
        name: The exporter's name: the name of a file in the user's directory of configurations, or
            else in the system's, without `.yaml`.
        file: The path of a configuration, instead of a name.

    Raises:
        ConfigurationError: There is no configuration of this name, or it has a fault; the text has
            a line for each fault, with its place.
        OSError: The file cannot be read.
    """
    if file is not None:
        return ExporterConfigV1Alpha1.load_path(file)
    if name is None:
        raise ConfigurationError("no exporter is named: give its name, or a file")
    if not ExporterConfigV1Alpha1.exists(name):
        paths = (ExporterConfigV1Alpha1.BASE_PATH, ExporterConfigV1Alpha1.SYSTEM_CONFIG_PATH)
        text = " nor ".join(str(path / f"{name}.yaml") for path in paths)
        raise ConfigurationError(f"there is no exporter {name!r}: neither {text} exists")
    return ExporterConfigV1Alpha1.load(name)


def list_exporters() -> list[dict[str, Any]]:
    """List the configurations that have names, those of the user and then those of the system.

    Returns:
        For each its `name` and `path`, and the `exporter` and its `description`, or an `error` if
        it cannot be read. A name is listed once, with the file that it stands for.
    """
    found: dict[str, Path] = {}
    for directory in (ExporterConfigV1Alpha1.BASE_PATH, ExporterConfigV1Alpha1.SYSTEM_CONFIG_PATH):
        if directory.is_dir():
            for path in sorted(directory.glob("*.yaml")):
                found.setdefault(path.stem, path)
    return [_describe(name, path) for name, path in sorted(found.items())]


def _describe(name: str, path: Path) -> dict[str, Any]:
    row = {"name": name, "path": str(path)}
    try:
        config = read_source(path).load(ExporterConfigV1Alpha1)  # which logs nothing
    except (ConfigurationError, OSError) as exc:
        return {**row, "error": str(exc)}
    return {**row, "exporter": config.metadata.name, "description": config.description or ""}
