"""Drivers that arrange others: a group of drivers, and a second place for one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..client import DriverClient
from ..driver import Driver
from ..errors import ConfigurationError

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["Composite", "CompositeClient", "Proxy"]


class Composite(Driver):
    """Group drivers under one parent: a board with a console, a power switch and a card.

    It exports no methods of its own. Pass the drivers as `children`; a client finds each under its
    name.
    """

    @classmethod
    def client(cls) -> str:
        """Return the path of the client class."""
        return "jumpstarter.drivers.composite.CompositeClient"


class CompositeClient(DriverClient):
    """The client of a composite; its children are its attributes."""


@dataclass(kw_only=True)
class Proxy(Driver):
    """Stand for another driver of the same tree, which clients then find in both places.

    Attributes:
        ref: Where the other driver is: names from the root on, as in `"board.power"`.
    """

    ref: str
    target: Driver | None = field(default=None, init=False, repr=False)

    @classmethod
    def client(cls) -> str:
        """Return nothing: clients see the other driver.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError("a Proxy has no client: its place is taken by another driver")

    def enumerate(
        self, *, root: Driver | None = None, parent: Driver | None = None, name: str | None = None
    ) -> Any:
        """List the other driver, and those below it, in this one's place.

        Raises:
            ConfigurationError: There is no such driver.
        """
        target: Driver = self if root is None else root
        for step in self.ref.split("."):
            try:
                target = target.children[step]
            except KeyError:
                text = f"Proxy {name!r} refers to {self.ref!r}, and there is no driver {step!r}"
                raise ConfigurationError(f"{text} there; it is a path from the root") from None
        self.target = target
        return target.enumerate(root=root, parent=parent, name=name)

    def reset(self) -> None:
        """Do nothing: the other driver has its own turn."""

    def close(self) -> None:
        """Do nothing: the other driver has its own turn."""

    def __getattr__(self, name: str) -> Any:
        """Look up what a Proxy has not in the other driver, for drivers that use this one."""
        target = self.__dict__.get("target")
        if target is None or name.startswith("__"):
            text = (
                f"{type(self).__name__} of {self.__dict__.get('ref')!r} has no attribute {name!r}"
            )
            raise AttributeError(f"{text} before it is served", name=name, obj=self)
        return getattr(target, name)
