"""Find the classes of drivers that a configuration names, and make the drivers."""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from ..driver import Driver
from ..drivers import composite
from ..errors import ConfigurationError

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["find_class", "make_driver", "own_or_published"]

_PATH: Final = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", re.ASCII)
_PUBLISHED: Final = "jumpstarter_driver_composite"


def find_class(path: str, where: str) -> Callable[..., object]:
    """Import the class of a driver. This runs the code of its module.

    Args:
        path: Its dotted path, as in `"jumpstarter.drivers.power.MockPower"`.
        where: The place in the configuration, for messages.

    Raises:
        ConfigurationError: There is no such class.
    """
    if not _PATH.fullmatch(path):
        raise ConfigurationError(f"{where}: type {path!r} is not a dotted path of a driver's class")
    module, _, name = path.rpartition(".")
    try:
        found: object = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as exc:
        missing = exc.name or module
        own = f"{module}.".startswith(f"{missing}.")
        what = "is not installed" if own else "needs a module that is not installed"
        text = f"{where}: driver {path!r} {what}: {exc}"
        package = missing.partition(".")[0]
        # On PyPI another project is named like this one.
        hint = "" if package == "jumpstarter" else f"; does pip install {package} help?"
        raise ConfigurationError(text + hint) from exc
    except AttributeError as exc:
        raise ConfigurationError(f"{where}: driver {path!r} is not there: {exc}") from exc
    if not callable(found):
        raise ConfigurationError(f"{where}: {path} is a {type(found).__name__}, not a driver class")
    return found


def make_driver(
    make: Callable[..., object], arguments: Mapping[str, Any], title: str, where: str
) -> Driver:
    """Make a driver.

    Args:
        make: Its class.
        arguments: Its fields.
        title: What messages call it.
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


def own_or_published(name: str) -> Callable[..., object]:
    """Return `Composite` or `Proxy`: the published package's if it is installed, else ours."""
    if importlib.util.find_spec(_PUBLISHED) is None:
        own: Callable[..., object] = getattr(composite, name)
        return own
    return find_class(f"{_PUBLISHED}.driver.{name}", "the configuration")
