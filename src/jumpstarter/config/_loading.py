"""Find the configuration of an exporter that a command names. It needs the extra `cli`."""

from __future__ import annotations

from pathlib import Path

from ..errors import ConfigurationError
from .exporter import ExporterConfigV1Alpha1

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["load_exporter"]


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
