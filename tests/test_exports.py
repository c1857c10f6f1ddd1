"""Test the public modules: the paths that existing drivers import, and the docstrings.

A module is public if no part of its path begins with an underscore.
"""

from __future__ import annotations

import ast
import enum
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pytest

import jumpstarter

# Import paths of users of this library, and of the published driver API before it.
PATHS: Final = {
    "jumpstarter": ["Limits", "Server", "connect", "connect_async", "serve", "serve_async"],
    "jumpstarter.client": [
        "BlockingGenerator",
        "BlockingStream",
        "DriverClient",
        "RemoteGenerator",
        "RemoteStream",
        "StubDriverClient",
    ],
    "jumpstarter.client.adapters": [
        "PexpectAdapter",
        "TcpPortforwardAdapter",
        "UnixPortforwardAdapter",
        "blocking",
        "pexpect_session",
        "tcp_portforward",
        "unix_portforward",
    ],
    "jumpstarter.client.base": ["DriverClient", "StubDriverClient"],
    "jumpstarter.client.core": [
        "DriverError",
        "DriverInvalidArgument",
        "DriverMethodNotImplemented",
    ],
    "jumpstarter.client.flasher": ["FlasherClient", "FlasherClientInterface", "PathBuf"],
    "jumpstarter.client.decorators": ["driver_click_command", "driver_click_group"],
    "jumpstarter.common": [
        "TemporarySocket",
        "TemporaryTcpListener",
        "TemporaryUnixListener",
        "download_fls",
        "get_fls_binary",
        "get_fls_github_url",
    ],
    "jumpstarter.common.exceptions": [
        "ArgumentError",
        "ConfigurationError",
        "ConnectionError",
        "EnvironmentVariableNotSetError",
        "ExporterOfflineError",
        "ExporterUnreachableError",
        "FileNotFoundError",
        "JumpstarterException",
        "MissingDriverError",
        "ReauthenticationFailed",
    ],
    "jumpstarter.common.fls": ["download_fls", "get_fls_binary", "get_fls_github_url"],
    "jumpstarter.common.ipaddr": ["get_ip_address"],
    "jumpstarter.common.oci": [
        "OciCredentials",
        "parse_oci_registry",
        "read_auth_file_credentials",
        "resolve_oci_credentials",
    ],
    "jumpstarter.common.resources": ["ClientStreamResource", "PresignedRequestResource"],
    "jumpstarter.common.storage": ["read_from_storage_device", "write_to_storage_device"],
    "jumpstarter.common.utils": ["env", "serve"],
    "jumpstarter.config.client": ["ClientConfigV1Alpha1"],
    "jumpstarter.config.common": ["CONFIG_PATH", "ObjectMeta", "TLSConfigV1Alpha1"],
    "jumpstarter.config.env": ["JMP_DRIVERS_ALLOW", "JUMPSTARTER_HOST"],
    "jumpstarter.config.exporter": [
        "ExporterConfigV1Alpha1",
        "ExporterConfigV1Alpha1DriverInstance",
    ],
    "jumpstarter.driver": [
        "Driver",
        "DriverReport",
        "FlasherInterface",
        "draining",
        "export",
        "exportstream",
        "until_draining",
    ],
    "jumpstarter.driver.base": ["Driver"],
    "jumpstarter.driver.decorators": ["export", "exportstream"],
    "jumpstarter.driver.flasher": ["FlasherInterface"],
    "jumpstarter.drivers.composite": ["Composite", "CompositeClient", "Proxy"],
    "jumpstarter.drivers.console": [
        "ConsoleClient",
        "ConsoleEvent",
        "ConsoleMark",
        "ConsoleMatch",
        "ConsoleOutput",
        "ConsoleStatus",
        "RecordedConsole",
    ],
    "jumpstarter.drivers.mixins": ["ResourceMixin", "StreamMixin"],
    "jumpstarter.drivers.network": ["NetworkClient", "TcpNetwork", "UnixNetwork"],
    "jumpstarter.drivers.power": ["MockPower", "PowerClient", "PowerInterface", "PowerReading"],
    "jumpstarter.drivers.process": [
        "Process",
        "ProcessClient",
        "ProcessOutput",
        "ProcessPower",
        "ProcessStatus",
    ],
    "jumpstarter.drivers.qmp": ["Qmp", "QmpClient"],
    "jumpstarter.drivers.scpi": ["ScpiPower", "ScpiPowerClient"],
    "jumpstarter.drivers.serial": ["SerialClient", "SerialPort"],
    "jumpstarter.drivers.shell": ["Shell", "ShellClient", "ShellResult"],
    "jumpstarter.drivers.storage": ["FileStorage", "StorageClient"],
    "jumpstarter.portal": ["BlockingPortal", "start_blocking_portal"],
    "jumpstarter.streams.blocking": ["BlockingStream"],
    "jumpstarter.streams.common": ["copy_stream", "create_memory_stream", "forward_stream"],
    "jumpstarter.streams.encoding": [
        "AutoDecompressIterator",
        "Compression",
        "compress_stream",
        "detect_compression_from_signature",
    ],
    "jumpstarter.streams.progress": ["ProgressAttribute", "ProgressStream"],
    "jumpstarter.utils.env": ["env"],
    "jumpstarter.observe": [
        "JsonFormatter",
        "Metrics",
        "Reading",
        "serve_metrics",
        "serve_status",
    ],
    "jumpstarter.testing": ["client_fixture", "client_for", "client_for_async"],
}
# The module that provides the same names as each of these aliases.
SAME: Final = {
    "jumpstarter.client.base": "jumpstarter.client",
    "jumpstarter.driver.base": "jumpstarter.driver",
    "jumpstarter.driver.decorators": "jumpstarter.driver",
    "jumpstarter.driver.flasher": "jumpstarter.driver",
    "jumpstarter.utils.env": "jumpstarter.common.utils",
}


def public_modules() -> Iterator[str]:
    yield "jumpstarter"
    for info in pkgutil.walk_packages(jumpstarter.__path__, "jumpstarter."):
        # The modules of commands are for the command line only.
        if "._" not in info.name and not info.name.startswith("jumpstarter.cli.commands"):
            yield info.name


PUBLIC: Final = sorted(public_modules())
every_public_module = pytest.mark.parametrize(
    "module", [importlib.import_module(name) for name in PUBLIC], ids=PUBLIC
)


def is_door(module: ModuleType) -> bool:
    """Return True if a module defines no function or class, and only re-exports names."""
    tree = ast.parse(Path(str(module.__file__)).read_text())
    return not any(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in tree.body)


def order(name: str) -> tuple[int, str]:
    """Return a sort key that orders constants, then classes, then functions."""
    return 0 if name.isupper() else 1 if name[0].isupper() else 2, name


def test_public_modules_are_the_intended_ones() -> None:
    names = ("cli", "config", "drivers", "errors", "streams", "utils")
    others = {f"jumpstarter.{name}" for name in names}
    assert set(PUBLIC) == set(PATHS) | others


@pytest.mark.parametrize(
    ("path", "name"), [(path, name) for path, names in PATHS.items() for name in names]
)
def test_public_names_can_be_imported(path: str, name: str) -> None:
    module = importlib.import_module(path)
    assert name in module.__all__
    found = getattr(module, name)
    if path in SAME:
        assert found is getattr(importlib.import_module(SAME[path]), name)


@every_public_module
def test_all_lists_each_name_once_in_order(module: ModuleType) -> None:
    names = getattr(module, "__all__", [])
    assert names == sorted(set(names), key=order)
    assert [name for name in names if not hasattr(module, name)] == []


@every_public_module
def test_all_lists_every_public_name(module: ModuleType) -> None:
    shown = set()
    for name, value in vars(module).items():
        where = getattr(value, "__module__", "")
        is_own = where.startswith("jumpstarter") if is_door(module) else where == module.__name__
        # pydantic adds classes such as `RootModel[Any]` to the module, which no code can name.
        if is_own and name.isidentifier() and not name.startswith("_"):
            shown.add(name)
    assert shown <= set(getattr(module, "__all__", []))


def without_words(name: str, thing: Any) -> Iterator[str]:
    """Yield the name of an object, and those of a class's public members, without a docstring."""
    if not inspect.getdoc(thing):
        yield name
    if not inspect.isclass(thing) or issubclass(thing, enum.Enum):
        return
    for base in thing.__mro__:
        if not base.__module__.startswith("jumpstarter"):
            continue
        for attribute, value in list(vars(base).items()):
            function = getattr(value, "__func__", value)
            speaks = inspect.isroutine(function) or isinstance(value, property)
            if speaks and not attribute.startswith("_") and not function.__doc__:
                yield f"{name}.{attribute}"


@every_public_module
def test_everything_public_has_a_docstring(module: ModuleType) -> None:
    assert module.__doc__
    things = {name: getattr(module, name) for name in getattr(module, "__all__", [])}
    offers = {name: thing for name, thing in things.items() if callable(thing)}
    assert [it for name, thing in offers.items() for it in without_words(name, thing)] == []


def test_package_is_marked_as_typed() -> None:
    assert (Path(jumpstarter.__path__[0]) / "py.typed").exists()
