"""Define the client that is used when a client class is missing or not allowed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from ..errors import ClientImportError
from ._base import DriverClient

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["StubDriverClient"]

_UNTIL_THEN: Final = "without it there are call(), streamingcall(), stream(), and the children"


@dataclass(kw_only=True, eq=False, repr=False)
class StubDriverClient(DriverClient):
    """Stands for a client whose class is missing here, or may not be imported.

    `call`, `streamingcall`, `stream`, their variants and the children work. Any other name raises
    ClientImportError with the reason. The driver's exported methods are not attributes, since the
    missing class may have a method of the same name that does more.

    Attributes:
        missing: Why the class is missing, and what to do.
    """

    missing: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.__doc__ = f"{self.missing}\n\n{_UNTIL_THEN.capitalize()}."

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name in self.__dict__.get("children", {}):
            return super().__getattr__(name)
        raise ClientImportError(f"{name!r}: {self.missing}; {_UNTIL_THEN}")

    def __dir__(self) -> Iterable[str]:
        return sorted({*object.__dir__(self), *self.children})
