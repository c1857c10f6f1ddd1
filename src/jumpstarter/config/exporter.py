"""The configuration of an exporter: a tree of drivers in YAML. It needs the extra `cli`.

Its format is that of the published package; docs/howto/configuration-and-j.md has an example.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, Self, TypeAlias

from .._util.durations import parse_duration
from .._util.extras import requires_extra
from ..driver import Driver
from ..drivers.composite import Proxy
from ..errors import ConfigurationError
from ._arguments import ArgumentFault, unfit_arguments, unfit_values
from ._drivers import composite_class, find_class, make_driver
from ._hooks import (
    FailureDetectionConfigV1Alpha1,
    HookConfigV1Alpha1,
    HookInstanceConfigV1Alpha1,
)
from ._http import HttpConfigV1Alpha1
from ._refs import Ref, RefChecker
from ._yaml import Source, read_source
from .common import CONFIG_PATH, ObjectMeta, StrictModel, TLSConfigV1Alpha1, log_unused

with requires_extra("cli", "jumpstarter.config"):
    from pydantic import (
        ConfigDict,
        Discriminator,
        Field,
        PrivateAttr,
        RootModel,
        Tag,
        field_validator,
    )
    from pydantic_core import PydanticCustomError

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = [
    "ExporterConfigV1Alpha1",
    "ExporterConfigV1Alpha1DriverInstance",
    "ExporterConfigV1Alpha1DriverInstanceBase",
    "ExporterConfigV1Alpha1DriverInstanceComposite",
    "ExporterConfigV1Alpha1DriverInstanceProxy",
    "ExporterMeta",
    "FailureDetectionConfigV1Alpha1",
    "HookConfigV1Alpha1",
    "HookInstanceConfigV1Alpha1",
    "HttpConfigV1Alpha1",
]

_Text: TypeAlias = Annotated[str, Field(min_length=1)]
_UNNAMED: Final = "<configuration>"
# The keys for a controller, and for the processes that the published package restarts.
_UNUSED: Final = frozenset({"endpoint", "token", "tls", "grpcOptions", "failureDetection"})


class ExporterMeta(ObjectMeta):
    """The name of an exporter.

    Attributes:
        name: Its name.
        labels: What distinguishes it from other exporters, as in `{"board": "imx8"}`.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    name: str = Field(min_length=1)
    labels: dict[str, str] = Field(default_factory=dict)

    @field_validator("name", "labels")
    @classmethod
    def _fit_an_environment(cls, value: str | dict[str, str]) -> str | dict[str, str]:
        """Refuse what would break the variables, prompts and reports that name an exporter."""
        texts = [value] if isinstance(value, str) else [*value.keys(), *value.values()]
        if not all(each.isprintable() for each in texts):
            raise PydanticCustomError("text", "it must have printable characters only")
        if isinstance(value, dict) and any("," in each for each in texts):
            raise PydanticCustomError("text", "a comma separates labels, so none may have one")
        return value


class ExporterConfigV1Alpha1DriverInstanceBase(StrictModel):
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

    def beside(self) -> dict[str, object]:
        """Return the fields of the driver that stand beside `config`, except its children."""
        return {"description": self.description, "methods_description": self.methods_description}


class ExporterConfigV1Alpha1DriverInstanceComposite(StrictModel):
    """A group of drivers.

    Attributes:
        children: The drivers.
    """

    KEYS_OF_OTHERS: ClassVar[tuple[str, ...]] = ("type", "ref")  # without which it is a group

    children: dict[str, ExporterConfigV1Alpha1DriverInstance] = Field(default_factory=dict)


class ExporterConfigV1Alpha1DriverInstanceProxy(StrictModel):
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
    _lines: dict[str, str] = PrivateAttr(default_factory=dict)  # the place of each key of `config`

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
        for names, instance in self.walk():
            inner = [step for name in names for step in ("children", name)]
            here = (*place, *inner)
            instance._where = source.where(here)  # noqa: SLF001 - of this class
            keys = getattr(instance.root, "config", {})
            instance._lines = {key: source.where((*here, "config", key)) for key in keys}  # noqa: SLF001 - the same

    def walk(self) -> Iterator[tuple[tuple[str, ...], Self]]:
        """Yield this driver and all below it, each with the names that lead to it."""
        waiting: list[tuple[tuple[str, ...], Any]] = [((), self)]
        while waiting:
            names, instance = waiting.pop()
            yield names, instance
            below = reversed(instance.children.items())
            waiting.extend(((*names, name), each) for name, each in below)

    @property
    def children(self) -> dict[str, ExporterConfigV1Alpha1DriverInstance]:
        """The drivers below this one."""
        return getattr(self.root, "children", {})

    @property
    def where(self) -> str:
        """The name of the file that it was read from and the line, with a colon between them."""
        return self._where

    def instantiate(self) -> Driver:
        """Make the driver, and those below it. This imports their modules.

        Raises:
            ConfigurationError: A class is not installed, or takes other fields.
            Exception: A class has raised it; a note on it names the place.
        """
        children = {name: child.instantiate() for name, child in self.children.items()}
        root, where = self.root, self._where
        if isinstance(root, ExporterConfigV1Alpha1DriverInstanceProxy):
            return make_driver(Proxy, {"ref": root.ref}, "the Proxy", where)
        if isinstance(root, ExporterConfigV1Alpha1DriverInstanceComposite):
            make = composite_class()
            return make_driver(make, {"children": children}, "the Composite", where)
        make = find_class(root.type, where)
        if faults := self.faults(make):
            raise ConfigurationError("\n".join(faults))
        fields = {"children": children, **root.beside(), **root.config}
        return make_driver(make, fields, f"driver {root.type!r}", where)

    def faults(self, make: Callable[..., object], *, values: bool = False) -> list[str]:
        """Compare the configuration of a driver with what its class takes, and make nothing.

        Args:
            make: The class.
            values: True compares the types of values too, where the class has plain annotations.

        Returns:
            A line for each fault, with its place.
        """
        root = self.root
        assert isinstance(root, ExporterConfigV1Alpha1DriverInstanceBase)
        config, beside = root.config, {"children": {}, **root.beside()}
        found = [
            ArgumentFault(name, f"{name} belongs beside config, not into it")
            for name in sorted(beside.keys() & config.keys())
        ]
        found += unfit_arguments(make, {**beside, **config})
        if values:
            found += unfit_values(make, config)
        return [
            f"{self._lines.get(name, self._where)}: driver {root.type!r}: {text}"
            for name, text in found
        ]


for _model in (
    ExporterConfigV1Alpha1DriverInstanceBase,
    ExporterConfigV1Alpha1DriverInstanceComposite,
):
    _model.model_rebuild()  # they refer to the class above, and messages look at their fields


class ExporterConfigV1Alpha1(StrictModel):
    """The configuration of an exporter.

    Attributes:
        alias: The name of its file, without `.yaml`.
        apiVersion: The version of the format.
        kind: What it configures.
        metadata: The exporter's name and labels.
        description: What the exporter is for: the description of the root of the tree.
        motd: What a shell prints when it starts.
        metrics: Where `serve` and `run` serve metrics.
        status: Where they serve the status page.
        logFormat: The form of the log of `serve` and `run`: `text` (the default) or `json`.
        export: The drivers, by name.
        hooks: What runs when a session begins and ends.
        exclusive: Whether one client at a time uses the drivers, and the others wait; or the
            paths of drivers, each of which is used so by itself, with those below it.
        max_session: How many seconds a client may hold the exporter then. In YAML it is
            `maxSession`, and a text like `2h`.
        operators: Common names of certificates whose owners may end the session of another client.
        exit_on_lease_end: Whether the exporter ends after a session. In YAML it is
            `exitOnLeaseEnd`.
        path: The file that it was read from.
        endpoint: Of a controller; without effect here, as are the following.
        tls: For that controller.
        token: For that controller.
        grpcOptions: For that controller.
        failure_detection: For the published package's restarts. In YAML it is `failureDetection`.
    """

    NOT_IN_FILES: ClassVar[frozenset[str]] = frozenset({"alias", "path"})
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
    metrics: HttpConfigV1Alpha1 | None = None
    status: HttpConfigV1Alpha1 | None = None
    logFormat: Literal["text", "json"] | None = None  # noqa: N815 - in YAML
    export: dict[str, ExporterConfigV1Alpha1DriverInstance] = Field(default_factory=dict)
    hooks: HookConfigV1Alpha1 = Field(default_factory=HookConfigV1Alpha1)
    exclusive: bool | Annotated[list[_Text], Field(min_length=1)] = False
    max_session: float | None = Field(default=None, alias="maxSession", gt=0)
    operators: list[_Text] = Field(default_factory=list)
    failure_detection: FailureDetectionConfigV1Alpha1 = Field(
        default_factory=FailureDetectionConfigV1Alpha1, alias="failureDetection"
    )
    exit_on_lease_end: bool = Field(default=False, alias="exitOnLeaseEnd")
    path: Path | None = None

    @field_validator("max_session", mode="before")
    @classmethod
    def _read_duration(cls, value: object) -> object:
        return parse_duration(value) if isinstance(value, str) else value

    @field_validator("metadata", mode="before")
    @classmethod
    def _take_other_metadata(cls, value: object) -> object:
        """Accept the metadata of any configuration, as code passes it that builds one."""
        return dict(value) if type(value) is ObjectMeta else value

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
        config = cls.from_source(read_source(Path(path)))
        config.path = Path(path)
        return config

    @classmethod
    def from_source(cls, source: Source) -> Self:
        """Make a configuration of a document of YAML.

        Raises:
            ConfigurationError: It is not the configuration of an exporter.
        """
        config = source.load(cls)
        for name, instance in config.export.items():
            instance.locate(source, ("export", name))
        log_unused(source.value, _UNUSED, source.where())
        return config

    def instantiate(self) -> Driver:
        """Make the tree: a group of the exported drivers.

        Raises:
            ConfigurationError: A class is not installed, or takes other fields, or a `ref` leads
                nowhere.
            Exception: A class has raised it; a note on it names the place.
        """
        children = {name: each.instantiate() for name, each in self.export.items()}
        fields: dict[str, Any] = {"children": children, "description": self.description}
        where = str(self.path or _UNNAMED)
        root = make_driver(composite_class(), fields, "the root", where)
        checker = RefChecker(root, lambda driver: driver.children)
        if faults := list(checker.faults(self.refs())):
            raise ConfigurationError("\n".join(faults))
        return root

    def refs(self) -> list[Ref]:
        """List the places where a driver of the tree has a second place."""
        return [
            Ref(path=(name, *names), target=each.root.ref, where=each.where)
            for name, instance in self.export.items()
            for names, each in instance.walk()
            if isinstance(each.root, ExporterConfigV1Alpha1DriverInstanceProxy)
        ]
