"""A driver that only groups other drivers: a board with a console, a power switch and a card."""

from __future__ import annotations

from ..client import DriverClient
from ..driver import Driver

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["Composite", "CompositeClient"]


class Composite(Driver):
    """Group drivers under one parent. It exports no methods of its own.

    Pass the drivers as `children`; a client finds each under its name.
    """

    @classmethod
    def client(cls) -> str:
        """Return the path of the client class."""
        return "jumpstarter.drivers.composite.CompositeClient"


class CompositeClient(DriverClient):
    """The client of a composite; its children are its attributes."""
