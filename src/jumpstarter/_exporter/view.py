"""The state of an exporter at one moment, for programs that show it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from .._protocol.frames import Node
from ..driver._base import Driver
from ..driver._caller import Caller

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["CallView", "DriverView", "SessionView", "View"]


class DriverView(NamedTuple):
    """A driver that is served.

    Attributes:
        path: Its place in the tree.
        driver: The driver.
        node: What clients read of it.
    """

    path: str
    driver: Driver
    node: Node


class CallView(NamedTuple):
    """A call that runs.

    Attributes:
        driver: The path of the driver.
        method: The method that the client asks for.
        age: For how many seconds it has run; None if that is unknown.
    """

    driver: str
    method: str
    age: float | None


class SessionView(NamedTuple):
    """A client that is connected.

    Attributes:
        caller: The client.
        calls: Its calls.
    """

    caller: Caller
    calls: Sequence[CallView]


class View(NamedTuple):
    """All of it.

    Attributes:
        address: Where the exporter listens.
        draining: True once it shuts down.
        drivers: The drivers, parents before children.
        sessions: The clients.
        claims: With exclusive use, the holder and then the clients that wait, in order, as
            `ExclusiveUse.who` describes them.
    """

    address: str
    draining: bool
    drivers: Sequence[DriverView]
    sessions: Sequence[SessionView]
    claims: Sequence[Mapping[str, Any]]
