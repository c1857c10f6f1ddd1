"""Define the client that is used when a client class is missing or not allowed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from .._util.labels import CLIENT_LABEL
from ..errors import ClientImportError, MissingExtra
from ._base import DriverClient
from ._remote import NO_DRIVER, NoDriver

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["OF_COMPAT", "StubDriverClient", "how_to_import", "how_to_install"]

_UNTIL_THEN: Final = "without it there are call(), streamingcall(), stream(), and the children"
_PUBLISHED: Final = "jumpstarter_driver_"
_OURS: Final = "jumpstarter"  # on PyPI another project has this name, so nobody is to install it
OF_COMPAT: Final = frozenset({"anyio", "click", "httpx", "pydantic", "rich", "yaml"})


def how_to_install(path: str) -> str:
    """Return how to get the package of a client class.

    Args:
        path: The dotted path of the class.
    """
    package = path.partition(".")[0]
    if package.startswith(_PUBLISHED):
        name = package.replace("_", "-")
        return (
            f"this is usually a version mismatch between this machine and the exporter, or the "
            f"package {name} is missing: pip install {name}"
        )
    text = f"install the package that has it (pip install {package})"
    return f"{text}, or put its directory on PYTHONPATH"


def how_to_import(path: str, missing: str) -> str:
    """Return how to get a module that is missing where a client class is imported.

    Args:
        path: The dotted path of the class.
        missing: The name of the module: the class's own, or one that it imports.
    """
    package = missing.partition(".")[0]
    if package in OF_COMPAT:
        return str(MissingExtra.named("compat", "it", where="here"))
    is_own = f"{path}.".startswith(f"{missing}.") or package == _OURS
    return how_to_install(path if is_own else missing)


@dataclass(kw_only=True, eq=False, repr=False)
class StubDriverClient(DriverClient):
    """Stands for a client whose class is missing here, or may not be imported.

    `call`, `streamingcall`, `stream`, their variants and the children work. Any other name raises
    ClientImportError with the reason. The driver's exported methods are not attributes, since the
    missing class may have a method of the same name that does more.

    Attributes:
        missing: Why the class is missing, and what to do. By default it says that the class of the
            label ``jumpstarter.dev/client`` is not installed.
    """

    missing: str = ""
    _jmp_stands_in: ClassVar[bool] = True  # for `_commands`, which may not import this module

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.missing:
            path = self.labels.get(CLIENT_LABEL, "an unknown class")
            self.missing = f"the client class {path} is not installed; {how_to_install(path)}"
        self.__doc__ = f"{self.missing}\n\n{_UNTIL_THEN.capitalize()}."
        if self.channel is NO_DRIVER:
            vars(self)["channel"] = NoDriver(self.missing)  # its declared type stays

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name in self.__dict__.get("children", {}):
            return super().__getattr__(name)
        raise ClientImportError(f"{name!r}: {self.missing}; {_UNTIL_THEN}")

    def __dir__(self) -> Iterable[str]:
        return sorted({*object.__dir__(self), *self.children})
