"""The parts that the configurations of exporters and of clients share. It needs the extra `cli`."""

from __future__ import annotations

import logging
import os
from collections.abc import Container, Mapping
from pathlib import Path
from typing import ClassVar, Final

from .._util.extras import requires_extra
from .env import JMP_CLIENT_CONFIG_HOME

with requires_extra("cli", "jumpstarter.config"):
    from pydantic import BaseModel, ConfigDict

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = [
    "CONFIG_API_VERSION",
    "CONFIG_PATH",
    "ConfigModel",
    "ObjectMeta",
    "StrictModel",
    "TLSConfigV1Alpha1",
    "log_unused",
]

_logger: Final = logging.getLogger("jumpstarter.config")

CONFIG_API_VERSION: Final = "jumpstarter.dev/v1alpha1"


def _config_path() -> Path:
    if given := os.environ.get(JMP_CLIENT_CONFIG_HOME):
        return Path(given)
    base = os.environ.get("XDG_CONFIG_HOME", "")
    home = Path(base) if base.startswith("/") else Path("~/.config").expanduser()
    return home / "jumpstarter"


CONFIG_PATH: Final = _config_path()


class ConfigModel(BaseModel):
    """The base class of everything that is read from YAML."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="ignore", populate_by_name=True)


class StrictModel(ConfigModel):
    """The base class of what is read strictly: an unknown key is an error."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", populate_by_name=True)


class ObjectMeta(ConfigModel):
    """The name of an exporter or client.

    Attributes:
        namespace: Where a controller has it; not used here.
        name: Its name.
    """

    namespace: str | None = None
    name: str = "default"


class TLSConfigV1Alpha1(StrictModel):
    """How the published package uses TLS to reach a controller; not used here.

    Attributes:
        ca: Certificates, PEM in base64.
        insecure: Whether certificates are not checked.
    """

    ca: str = ""
    insecure: bool = False


def log_unused(given: Mapping[str, object], unused: Container[str], where: str) -> None:
    """Log which keys of a configuration have no effect here, in one line."""
    names = ", ".join(sorted(name for name, value in given.items() if value and name in unused))
    if names:
        text = "%s: without effect here, since exporters have no controller: %s"
        _logger.warning(text, where, names)
