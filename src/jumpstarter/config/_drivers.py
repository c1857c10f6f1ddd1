"""Find the classes of drivers that a configuration names, and make the drivers."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from ..client import DriverClient
from ..client._stub import OF_COMPAT
from ..driver import Driver
from ..drivers import composite
from ..errors import ConfigurationError, MissingExtra
from ._entry_points import dotted_path, registered_drivers
from ._nearest import did_you_mean

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["composite_class", "find_class", "make_driver"]

_PATH: Final = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", re.ASCII)
_DRIVERS: Final = "jumpstarter_driver_"  # how the published packages of drivers are named
_PUBLISHED: Final = f"{_DRIVERS}composite"


def find_class(name: str, where: str) -> Callable[..., object]:
    """Import the class of a driver. This runs the code of its module.

    Args:
        name: Its dotted path, as in `"jumpstarter.drivers.power.MockPower"`, or the name under
            which a package has registered it, as in `"MockPower"`.
        where: The place in the configuration, for messages.

    Raises:
        ConfigurationError: There is no such class.
        Exception: The module has raised it; a note on it names the place.
    """
    path = name if "." in name else _registered(name, where)
    if not _PATH.fullmatch(path):
        raise ConfigurationError(f"{where}: type {path!r} is not a dotted path of a driver's class")
    module, _, attribute = path.rpartition(".")
    try:
        found: object = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as exc:
        raise ConfigurationError(
            f"{where}: driver {path!r} {_what_is_missing(module, exc)}"
        ) from exc
    except AttributeError as exc:
        raise ConfigurationError(f"{where}: driver {path!r} is not there: {exc}") from exc
    except Exception as exc:
        exc.add_note(f"{where}: the module of driver {path!r} could not be imported")
        raise
    if not callable(found):
        raise ConfigurationError(f"{where}: {path} is a {type(found).__name__}, not a driver class")
    if isinstance(found, type) and (fault := _why_no_driver(found)):
        raise ConfigurationError(f"{where}: driver {path!r} {fault}")
    return found


def _why_no_driver(cls: type) -> str:
    """Return why no driver can be made of a class; empty if one can."""
    if issubclass(cls, DriverClient):
        return "is a client class: name the class of its driver"
    if not issubclass(cls, Driver):
        text = f"is a {cls.__name__}, not a Driver"
        if not inspect.isabstract(cls):
            return text
        names = ", ".join(sorted(_drivers_of(cls)))
        text += ", but an interface: name a driver's class that implements it"
        return f"{text}, as {names}" if names else text
    if inspect.isabstract(cls):
        missing = ", ".join(sorted(getattr(cls, "__abstractmethods__", ())))
        return f"is abstract: it has no {missing}"
    return ""


def _drivers_of(cls: type) -> Iterator[str]:
    """Yield the names of the drivers in the module of an interface that implement it."""
    for name, each in vars(sys.modules[cls.__module__]).items():
        is_class = isinstance(each, type) and issubclass(each, cls) and issubclass(each, Driver)
        if is_class and not inspect.isabstract(each) and not name.startswith("_"):
            yield name


def _what_is_missing(module: str, exc: ModuleNotFoundError) -> str:
    missing = exc.name or module
    own = f"{module}.".startswith(f"{missing}.")
    what = "is not installed" if own else "needs a module that is not installed"
    package = missing.partition(".")[0]
    return f"{what}: {exc}{_how_to_get(package, own)}"


def _how_to_get(package: str, own: bool) -> str:
    """Return how to get a package. On PyPI, others have the names of drivers of one's own."""
    if package.startswith(_DRIVERS):
        return f"; pip install {package.replace('_', '-')}"
    if package == "jumpstarter":
        return ""
    if package in OF_COMPAT:
        return f"; {MissingExtra.named('compat', 'it')}"
    if own:
        return "; put its file into the working directory, or install its package"
    return "; install the package that has it"


def _registered(name: str, where: str) -> str:
    """Return the path of the class that is registered under a name."""
    drivers = registered_drivers()
    entries = drivers.get(name, [])
    if len(entries) > 1:
        paths = " and ".join(dotted_path(each) for each in entries)
        text = f"type {name!r} is registered by several packages, as {paths}"
        raise ConfigurationError(f"{where}: {text}; write one of these paths")
    if not entries:
        text = f"type {name!r} is neither a dotted path of a driver's class nor a registered name"
        hint = did_you_mean(name, drivers) or "; `jumpstarter driver list` lists the names"
        raise ConfigurationError(f"{where}: {text}{hint}")
    return dotted_path(entries[0])


def make_driver(
    make: Callable[..., object], arguments: Mapping[str, Any], title: str, where: str
) -> Driver:
    """Make a driver.

    Args:
        make: Its class.
        arguments: Its fields.
        title: Its name in messages.
        where: The place in the configuration, for messages.

    Raises:
        ConfigurationError: It takes other fields, or is not a driver.
        Exception: The class has raised it; a note on it names the place.
    """
    try:
        driver = make(**arguments)
    except TypeError as exc:
        raise ConfigurationError(f"{where}: {title}: {exc}") from exc
    except Exception as exc:
        exc.add_note(f"{where}: {title} could not be made")
        raise
    if not isinstance(driver, Driver):
        raise ConfigurationError(f"{where}: {title} is a {type(driver).__name__}, not a Driver")
    return driver


def composite_class() -> Callable[..., object]:
    """Return the class of groups: the published package's if it is installed, else ours."""
    if importlib.util.find_spec(_PUBLISHED) is None:
        return composite.Composite
    return find_class(f"{_PUBLISHED}.driver.Composite", "the configuration")
