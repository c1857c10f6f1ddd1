"""Explain a forgotten `with`, in place of an AttributeError about a private class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["ExplainsForgottenWith"]


class ExplainsForgottenWith:
    """Base class of context managers whose AttributeErrors and repr show the `with` statement.

    Attributes:
        _statement: What to write, as `"with connect(...) as client:"`.
    """

    _statement: str

    def __repr__(self) -> str:
        return f"<a context manager: {self._statement}>"

    if not TYPE_CHECKING:  # to a type checker, every attribute would exist

        def __getattr__(self, name: str) -> Any:
            if name.startswith("_"):  # asked by Python itself, or by a tool
                raise AttributeError(
                    f"{type(self).__name__!r} object has no attribute {name!r}",
                    name=name,
                    obj=self,
                )
            verb = self._statement.partition("(")[0].rpartition(" ")[2]
            raise AttributeError(
                f"{verb}() gives a context manager, which has no attribute {name!r}: "
                f"{self._statement}",
                name=name,
                obj=self,
            )
