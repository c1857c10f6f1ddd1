"""The configuration of a client, for code that imports it. It needs the extra `cli`.

This library has no controller, so there is nothing to lease: a client connects to the address of an
exporter.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal, NoReturn, Self

from .._util.extras import requires_extra
from ..errors import ConfigurationError
from ._yaml import read_source
from .common import CONFIG_PATH, ConfigModel, ObjectMeta, TLSConfigV1Alpha1
from .env import JUMPSTARTER_HOST

with requires_extra("cli", "jumpstarter.config"):
    from pydantic import Field

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["ClientConfigV1Alpha1", "ClientConfigV1Alpha1Drivers"]


class ClientConfigV1Alpha1Drivers(ConfigModel):
    """Which client classes may be imported.

    Attributes:
        allow: Patterns of their paths.
        unsafe: Whether all may be.
    """

    allow: list[str] = Field(default_factory=list)
    unsafe: bool = False


class ClientConfigV1Alpha1(ConfigModel):
    """The configuration of a client. Only `drivers` means something here.

    Attributes:
        alias: The name of its file, without `.yaml`.
        path: The file that it was read from.
        apiVersion: The version of the format.
        kind: What it configures.
        metadata: The client's name.
        endpoint: Of a controller.
        tls: For that controller.
        token: For that controller.
        drivers: Which client classes may be imported.
    """

    CLIENT_CONFIGS_PATH: ClassVar[Path] = CONFIG_PATH / "clients"

    alias: str = "default"
    path: Path | None = None
    apiVersion: Literal["jumpstarter.dev/v1alpha1"] = "jumpstarter.dev/v1alpha1"  # noqa: N815 - in YAML
    kind: Literal["ClientConfig"] = "ClientConfig"
    metadata: ObjectMeta = Field(default_factory=ObjectMeta)
    endpoint: str | None = None
    tls: TLSConfigV1Alpha1 = Field(default_factory=TLSConfigV1Alpha1)
    token: str | None = None
    drivers: ClientConfigV1Alpha1Drivers = Field(default_factory=ClientConfigV1Alpha1Drivers)

    @classmethod
    def load(cls, alias: str) -> Self:
        """Read the configuration of an alias.

        Raises:
            OSError: It cannot be read.
            ConfigurationError: It is not the configuration of a client.
        """
        path = cls.CLIENT_CONFIGS_PATH / f"{alias}.yaml"
        config = read_source(path).load(cls)
        config.alias, config.path = alias, path
        return config

    def lease(self, *args: object, **kwargs: object) -> NoReturn:
        """Raise the error that says what to do instead.

        Raises:
            ConfigurationError: Always.
        """
        del args, kwargs
        text = "there are no leases in this library: set the environment variable"
        raise ConfigurationError(
            f"{text} {JUMPSTARTER_HOST} to the address of an exporter, or connect() to it"
        )
