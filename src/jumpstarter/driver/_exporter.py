"""What all sessions of one exporter share: its drivers, lanes, limits, secret and door.

This file knows no connection.
"""

from __future__ import annotations

import trio

from .._journal import Journal
from .._limits import DEFAULT_LIMITS, Limits
from .._messages import Node
from ._door import Door
from ._export import export, exports_of
from ._lanes import Lanes
from ._tree import DeviceTree, Target

__all__ = ["Exporter"]


class _Service:
    """Target 0: the exporter itself."""

    def __init__(self, tree: DeviceTree) -> None:
        self._tree = tree

    @export
    async def report(self) -> list[Node]:
        return self._tree.nodes


class Exporter:
    """What all sessions of one exporter share.

    Args:
        tree: The drivers.
        lanes: Where their code runs.
        limits: What a client may ask for.
        token: A secret which clients must show in their HELLO; empty lets everybody in.
        send_tracebacks: Put the driver's traceback in errors. Off by default: it shows paths and
            source lines to whoever may call.

    Attributes:
        journal: Takes the lines on connections that came to nothing or to a bad end.
        door: Knows how many there may be.
        turnstile: Passed by one connection at a time, of those that have sent much at once.
    """

    def __init__(
        self,
        tree: DeviceTree,
        lanes: Lanes,
        *,
        limits: Limits = DEFAULT_LIMITS,
        token: str = "",
        send_tracebacks: bool = False,
    ) -> None:
        service = Target(_Service(tree), exports_of(_Service), "the exporter's own service")
        self.targets = [service, *tree.targets]
        self.lanes = lanes
        self.limits = limits
        self.token = token
        self.send_tracebacks = send_tracebacks
        self.journal = Journal()
        self.turnstile = trio.Lock()
        self.door = Door(limits.max_connections, limits.max_unadmitted)
