"""A driver that is nothing but its children: a board with a console, a power switch and a card."""

from __future__ import annotations

from ..client import DriverClient
from ..driver import Driver

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["Composite", "CompositeClient"]


class Composite(Driver):
    """Holds other drivers together, and exports nothing itself.

    Give it the drivers as `children`; a client finds each under its name.
    """

    @classmethod
    def client(cls) -> str:
        """Name the client class."""
        return "jumpstarter.drivers.composite.CompositeClient"


class CompositeClient(DriverClient):
    """What a test has of a composite: its children, as attributes."""
