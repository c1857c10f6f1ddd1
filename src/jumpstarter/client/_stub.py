"""What stands for a client class that cannot be had here."""

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
    """Stands for a client class that cannot be had here: a method of that class says why.

    What the driver exports is reached by `call`, `streamingcall`, `stream` and their kin, and the
    children are there. It is no attribute, since the class may have a method of the same name which
    does more.

    Attributes:
        missing: Why, and what to do.
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
