"""Find all faults of an exporter's configuration without making its drivers."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..driver import Driver
from ..errors import ConfigurationError
from ._drivers import find_class
from ._refs import RefChecker
from ._yaml import Source, read_source
from .exporter import (
    ExporterConfigV1Alpha1,
    ExporterConfigV1Alpha1DriverInstance,
    ExporterConfigV1Alpha1DriverInstanceBase,
)

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["find_faults"]


def find_faults(path: Path) -> list[str]:
    """Read a configuration, import the modules of its drivers, and compare it with their classes.

    No driver is made, so no device is accessed. A fault that only making a driver finds, such as a
    port that does not exist, is not found.

    Returns:
        A line for each fault, with its place.

    Raises:
        OSError: The file cannot be read.
    """
    try:
        source = read_source(path)
    except ConfigurationError as exc:
        return [exc.message]
    try:
        config = ExporterConfigV1Alpha1.from_source(source)
    except ConfigurationError as exc:
        faults = exc.message.split("\n")
        for name, instance in _readable_drivers(source):
            instance.locate(source, ("export", name))
            faults += _faults_below(instance)
        return faults
    faults = [each for instance in config.export.values() for each in _faults_below(instance)]
    tree: RefChecker[Any] = RefChecker(config, _children_of, _may_have_more)
    return [*faults, *tree.faults(config.refs())]


def _readable_drivers(
    source: Source,
) -> Iterator[tuple[str, ExporterConfigV1Alpha1DriverInstance]]:
    """Yield the drivers that can be read of a configuration that has faults elsewhere."""
    exported = source.value.get("export") if isinstance(source.value, Mapping) else None
    for name, value in exported.items() if isinstance(exported, Mapping) else ():
        try:
            yield str(name), ExporterConfigV1Alpha1DriverInstance.model_validate(value)
        except ValueError:  # the base class of pydantic's error, which is known by now
            continue


def _faults_below(instance: ExporterConfigV1Alpha1DriverInstance) -> Iterator[str]:
    for _, each in instance.walk():
        if isinstance(each.root, ExporterConfigV1Alpha1DriverInstanceBase):
            yield from _faults_of_driver(each, each.root.type)


def _faults_of_driver(instance: ExporterConfigV1Alpha1DriverInstance, name: str) -> Iterator[str]:
    try:
        make = find_class(name, instance.where)
    except ConfigurationError as exc:
        yield exc.message
        return
    except (Exception, SystemExit) as exc:  # noqa: BLE001 - of any module
        told = f"its module raised {type(exc).__name__}: {exc}"
        yield " ".join(f"{instance.where}: driver {name!r}: {told}".split())
        return
    if isinstance(make, type) and not issubclass(make, Driver):
        yield f"{instance.where}: driver {name!r} is a {make.__name__}, not a Driver"
    elif inspect.isabstract(make):
        missing = ", ".join(sorted(getattr(make, "__abstractmethods__", ())))
        yield f"{instance.where}: driver {name!r} is abstract: it has no {missing}"
    else:
        yield from instance.faults(make, values=True)


def _children_of(node: Any) -> Mapping[str, Any]:
    is_root = isinstance(node, ExporterConfigV1Alpha1)
    children: Mapping[str, Any] = node.export if is_root else node.children
    return children


def _may_have_more(node: Any) -> bool:
    """Return True if the class of a driver may make children of its own."""
    return isinstance(getattr(node, "root", None), ExporterConfigV1Alpha1DriverInstanceBase)
