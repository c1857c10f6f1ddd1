"""Find all faults of an exporter's configuration without making its drivers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..driver import Driver
from ..driver._export import exports_of
from ..errors import ConfigurationError, MissingExtra
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


def find_faults(
    path: Path,
    more: Callable[[ExporterConfigV1Alpha1], Iterable[tuple[str, str]]] = lambda _config: (),
) -> list[str]:
    """Read a configuration, import the modules of its drivers, and compare it with their classes.

    No driver is made, so no device is accessed. A fault that only making a driver finds, such as a
    port that does not exist, is not found.

    Args:
        path: The file.
        more: Yields the key and the text of further faults.

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
    faults += tree.faults(config.refs())
    for key, text in (*_sharing_faults(config, tree), *more(config)):
        faults.append(f"{source.where_key(key)}: {key}: {text}")
    return faults


def _sharing_faults(
    config: ExporterConfigV1Alpha1, tree: RefChecker[Any]
) -> Iterator[tuple[str, str]]:
    """Yield the key and the text of each fault in the terms of exclusive use."""
    if not config.exclusive:
        text = "it is for an exporter in exclusive use: add exclusive: true"
        if config.max_session is not None:
            yield "maxSession", text
        if config.operators:
            yield "operators", text
        return
    paths = config.exclusive if isinstance(config.exclusive, list) else []
    hooks = config.hooks
    if paths and (hooks.before_lease or hooks.after_lease or config.exit_on_lease_end):
        text = "it names subtrees, and hooks and exitOnLeaseEnd are for sessions of the whole"
        yield "exclusive", f"{text} exporter: let drivers prepare subtrees in reset()"
    for number, path in enumerate(paths):
        if fault := tree.fault_at(path):
            yield "exclusive", f"{path!r} is not a driver of this tree: {fault}"
        for other in paths[:number]:
            if tree.below(other) & tree.below(path):
                text = f"{other!r} and {path!r} have drivers in common"
                yield "exclusive", f"{text}: name subtrees that have none"


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
            yield from _faults_of_driver(each, each.root)


def _faults_of_driver(
    instance: ExporterConfigV1Alpha1DriverInstance, driver: ExporterConfigV1Alpha1DriverInstanceBase
) -> Iterator[str]:
    name = driver.type
    try:
        make = find_class(name, instance.where)
    except ConfigurationError as exc:
        yield exc.message
        return
    except (Exception, SystemExit) as exc:  # noqa: BLE001 - of any module
        told = f"its module raised {type(exc).__name__}: {exc}"
        yield _line(instance, name, str(exc) if isinstance(exc, MissingExtra) else told)
        return
    yield from instance.faults(make, values=True)
    if isinstance(make, type) and issubclass(make, Driver):
        for text in _faults_of_class(make, driver.config):
            yield _line(instance, name, text)


def _faults_of_class(cls: type[Driver], config: Mapping[str, Any]) -> Iterator[str]:
    """Yield what keeps drivers of a class from being served, or from being of use."""
    try:
        exports_of(cls)
    except ConfigurationError as exc:
        yield exc.message
    try:
        check = getattr(cls, "_jmp_check_installed", None)
        if check is not None:
            check(config)
    except (MissingExtra, ConfigurationError) as exc:
        yield str(exc)


def _line(instance: ExporterConfigV1Alpha1DriverInstance, name: str, text: str) -> str:
    return " ".join(f"{instance.where}: driver {name!r}: {text}".split())


def _children_of(node: Any) -> Mapping[str, Any]:
    is_root = isinstance(node, ExporterConfigV1Alpha1)
    children: Mapping[str, Any] = node.export if is_root else node.children
    return children


def _may_have_more(node: Any) -> bool:
    """Return True if the class of a driver may make children of its own."""
    return isinstance(getattr(node, "root", None), ExporterConfigV1Alpha1DriverInstanceBase)
