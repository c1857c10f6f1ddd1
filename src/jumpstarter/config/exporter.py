"""The configuration of an exporter: a tree of drivers in YAML. It needs the extra `cli`.

Its format is that of the published package; docs/drivers.md has an example.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, Self

from .._util.extras import requires_extra
from ..driver import Driver
from ..errors import ConfigurationError
from ._drivers import find_class, make_driver, own_or_published
from ._yaml import Source, read_source
from .common import CONFIG_PATH, ConfigModel, ObjectMeta, TLSConfigV1Alpha1, warn_of_unused

with requires_extra("cli", "jumpstarter.config"):
    from pydantic import Discriminator, Field, PrivateAttr, RootModel, Tag

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = [
    "ExporterConfigV1Alpha1",
    "ExporterConfigV1Alpha1DriverInstance",
    "ExporterConfigV1Alpha1DriverInstanceBase",
    "ExporterConfigV1Alpha1DriverInstanceComposite",
    "ExporterConfigV1Alpha1DriverInstanceProxy",
]

_UNNAMED: Final = "<configuration>"
# The keys that have an effect here.
_USED: Final = frozenset(
    {"alias", "apiVersion", "kind", "metadata", "description", "motd", "export"}
)


class ExporterMeta(ObjectMeta):
    """The name of an exporter.

    Attributes:
        name: Its name.
        labels: What distinguishes it from other exporters, as in `{"board": "imx8"}`.
    """

    name: str
    labels: dict[str, str] = Field(default_factory=dict)


class ExporterConfigV1Alpha1DriverInstanceBase(ConfigModel):
    """A driver of a class.

    Attributes:
        type: The dotted path of its class.
        description: What it is for, see `Driver.description`.
        methods_description: The same for its methods.
        config: Its other fields.
        children: The drivers below it.
    """

    type: str
    description: str | None = None
    methods_description: dict[str, str] = Field(default_factory=dict)
    config: dict[str, Any] = Field(default_factory=dict)
    children: dict[str, ExporterConfigV1Alpha1DriverInstance] = Field(default_factory=dict)


class ExporterConfigV1Alpha1DriverInstanceComposite(ConfigModel):
    """A group of drivers.

    Attributes:
        children: The drivers.
    """

    children: dict[str, ExporterConfigV1Alpha1DriverInstance] = Field(default_factory=dict)


class ExporterConfigV1Alpha1DriverInstanceProxy(ConfigModel):
    """A second place for a driver of the tree.

    Attributes:
        ref: Where the driver is: names from the root on, as in `"board.power"`.
    """

    ref: str


def _kind_of(value: object) -> str | None:
    """Return which of the three a value is, by its keys."""
    if isinstance(value, ExporterConfigV1Alpha1DriverInstanceBase):
        return "driver"
    if isinstance(value, ExporterConfigV1Alpha1DriverInstanceProxy):
        return "proxy"
    if isinstance(value, Mapping):
        return "driver" if "type" in value else "proxy" if "ref" in value else "group"
    return "group" if isinstance(value, ExporterConfigV1Alpha1DriverInstanceComposite) else None


class ExporterConfigV1Alpha1DriverInstance(RootModel[Any]):  # the type of `root` is below
    """A driver and those below it, in a configuration.

    With `type` it is a driver of that class, with `ref` another driver of the tree in a second
    place, and otherwise a group of its `children`.

    Attributes:
        root: One of the three.
    """

    root: Annotated[
        Annotated[ExporterConfigV1Alpha1DriverInstanceBase, Tag("driver")]
        | Annotated[ExporterConfigV1Alpha1DriverInstanceComposite, Tag("group")]
        | Annotated[ExporterConfigV1Alpha1DriverInstanceProxy, Tag("proxy")],
        Discriminator(
            _kind_of,
            custom_error_type="driver",
            custom_error_message="a driver is a mapping with the key type, children or ref",
        ),
    ]
    _where: str = PrivateAttr(default=_UNNAMED)

    @classmethod
    def from_path(cls, path: str | os.PathLike[str]) -> Self:
        """Read a driver from a file.

        Raises:
            OSError: It cannot be read.
            ConfigurationError: It is not the configuration of a driver.
        """
        return cls._loaded(read_source(Path(path)))

    @classmethod
    def from_str(cls, config: str) -> Self:
        """Read a driver from a text in YAML.

        Raises:
            ConfigurationError: It is not the configuration of a driver.
        """
        return cls._loaded(Source(config, _UNNAMED))

    @classmethod
    def _loaded(cls, source: Source) -> Self:
        instance = source.load(cls)
        instance.locate(source, ())
        return instance

    def locate(self, source: Source, place: tuple[str, ...]) -> None:
        """Note where this driver and those below are, for later errors."""
        waiting = [(self, place)]
        while waiting:
            instance, place = waiting.pop()
            instance._where = source.where(place)  # noqa: SLF001 - of this class
            below = instance.children.items()
            waiting.extend((each, (*place, "children", name)) for name, each in below)

    @property
    def children(self) -> dict[str, ExporterConfigV1Alpha1DriverInstance]:
        """The drivers below this one."""
        return getattr(self.root, "children", {})

    def instantiate(self) -> Driver:
        """Make the driver, and those below it. This imports their modules.

        Raises:
            ConfigurationError: A class is not installed, or takes other fields.
            Exception: A class has raised it; a note on it names the place.
        """
        children = {name: child.instantiate() for name, child in self.children.items()}
        root, where = self.root, self._where
        if isinstance(root, ExporterConfigV1Alpha1DriverInstanceProxy):
            return make_driver(own_or_published("Proxy"), {"ref": root.ref}, "the Proxy", where)
        if isinstance(root, ExporterConfigV1Alpha1DriverInstanceComposite):
            make = own_or_published("Composite")
            return make_driver(make, {"children": children}, "the Composite", where)
        fields: dict[str, Any] = {"children": children}
        fields["description"] = root.description
        fields["methods_description"] = root.methods_description
        if twice := sorted(fields.keys() & root.config.keys()):
            text = f"{where}: {', '.join(twice)} of driver {root.type!r} belongs beside config"
            raise ConfigurationError(f"{text}, not into it")
        make = find_class(root.type, where)
        return make_driver(make, {**fields, **root.config}, f"driver {root.type!r}", where)


class ExporterConfigV1Alpha1(ConfigModel):
    """The configuration of an exporter.

    Attributes:
        alias: The name of its file, without `.yaml`.
        apiVersion: The version of the format.
        kind: What it configures.
        metadata: The exporter's name and labels.
        description: What the exporter is for: the description of the root of the tree.
        motd: What a shell prints when it starts.
        export: The drivers, by name.
        path: The file that it was read from.
        endpoint: Of a controller; without effect here, as are the following.
        tls: For that controller.
        token: For that controller.
        grpcOptions: For that controller.
    """

    BASE_PATH: ClassVar[Path] = CONFIG_PATH / "exporters"
    SYSTEM_CONFIG_PATH: ClassVar[Path] = Path("/etc/jumpstarter/exporters")

    alias: str = "default"
    apiVersion: Literal["jumpstarter.dev/v1alpha1"] = "jumpstarter.dev/v1alpha1"  # noqa: N815 - in YAML
    kind: Literal["ExporterConfig"] = "ExporterConfig"
    metadata: ExporterMeta
    endpoint: str | None = None
    tls: TLSConfigV1Alpha1 = Field(default_factory=TLSConfigV1Alpha1)
    token: str | None = None
    grpcOptions: dict[str, str | int] | None = Field(default_factory=dict)  # noqa: N815 - in YAML
    description: str | None = None
    motd: str | None = None
    export: dict[str, ExporterConfigV1Alpha1DriverInstance] = Field(default_factory=dict)
    path: Path | None = None

    @classmethod
    def resolve_path(cls, alias: str) -> Path:
        """Return the file of an alias: the user's, or the system's if only that is there.

        Raises:
            ConfigurationError: The alias is not the name of a file.
        """
        if not alias or alias in (".", "..") or "/" in alias or "\0" in alias:
            raise ConfigurationError(f"{alias!r} is not an alias: it must be the name of a file")
        own = cls.BASE_PATH / f"{alias}.yaml"
        system = cls.SYSTEM_CONFIG_PATH / f"{alias}.yaml"
        return system if system.exists() and not own.exists() else own

    @classmethod
    def exists(cls, alias: str) -> bool:
        """Return True if there is a configuration of this alias."""
        return cls.resolve_path(alias).exists()

    @classmethod
    def load(cls, alias: str) -> Self:
        """Read the configuration of an alias.

        Raises:
            OSError: It cannot be read.
            ConfigurationError: It is not the configuration of an exporter.
        """
        config = cls.load_path(cls.resolve_path(alias))
        config.alias = alias
        return config

    @classmethod
    def load_path(cls, path: str | os.PathLike[str]) -> Self:
        """Read a configuration from a file.

        Raises:
            OSError: It cannot be read.
            ConfigurationError: It is not the configuration of an exporter.
        """
        source = read_source(Path(path))
        config = source.load(cls)
        config.path = Path(path)
        for name, instance in config.export.items():
            instance.locate(source, ("export", name))
        warn_of_unused(source.value, _USED, source.where())
        return config

    def instantiate(self) -> Driver:
        """Make the tree: a group of the exported drivers.

        Raises:
            ConfigurationError: A class is not installed, or takes other fields.
            Exception: A class has raised it; a note on it names the place.
        """
        children = {name: each.instantiate() for name, each in self.export.items()}
        fields: dict[str, Any] = {"children": children, "description": self.description}
        where = str(self.path or _UNNAMED)
        return make_driver(own_or_published("Composite"), fields, "the root", where)
