"""What all sessions of one exporter share: its drivers, executor, limits, secret and door.

This file knows no connection.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Final

import trio

from .._limits import DEFAULT_LIMITS, Limits
from .._protocol.codec import decode_error
from .._protocol.error_codec import exception_from_wire
from .._protocol.frames import Node
from .._util.log_limit import RateLimitedLogger
from ..driver._caller import current_connection
from ..driver._drain import Drain
from ..driver._export import export, exports_of, exportstream
from ..driver._resources import Loan, loan_request
from ..errors import ResourceError
from .admission import AdmissionControl
from .executor import DriverExecutor
from .tree import DeviceTree, Target

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["ServerContext"]

_CLIENT_S: Final = "the client could not go on with what it has lent"


class _Service:
    """Target 0: the exporter itself."""

    def __init__(self, tree: DeviceTree, limits: Limits) -> None:
        self._tree = tree
        self._limits = limits
        self._loans: dict[str, Loan] = {}
        self.ready: trio.Event = trio.Event()

    @export
    async def report(self) -> list[Node]:
        await self.ready.wait()
        return self._tree.nodes

    @exportstream(drain=math.inf)  # who uses what is lent is bounded, and lends to the end
    @asynccontextmanager
    async def lend(self, target: int, mode: str, encoding: str) -> AsyncIterator[Loan]:
        await self.ready.wait()
        with loan_request(self._tree.driver_at(target).resources, mode, encoding) as loan:
            self._loans[str(loan.handle)] = loan
            try:
                yield loan
            finally:
                del self._loans[str(loan.handle)]

    @export
    async def lent_failed(self, handle: str, error: bytes) -> None:
        """Take note of why a client cannot go on with what it has lent, for the driver."""
        loan = self._loans.get(handle)
        if loan is None or loan.owner is not current_connection.get():
            raise ResourceError("there is no such loan of this client")
        loan.excuse = exception_from_wire(*decode_error(error, self._limits), _CLIENT_S)


class ServerContext:
    """What all sessions of one exporter share.

    Args:
        tree: The drivers.
        lanes: Where their code runs.
        limits: What a client may ask for.
        token: A secret which clients must show in their HELLO; empty lets everybody in.
        starting: The drivers are being reset: clients are admitted and wait for the report, and no
            driver can be called before `open`.
        send_tracebacks: Put the driver's traceback in errors. Off by default: it shows paths and
            source lines to whoever may call.

    Attributes:
        journal: Takes the lines on connections that came to nothing or to a bad end.
        refusals: Takes those on who was not admitted, so that no noise hides one who tries tokens.
        visits: Takes those on clients who were admitted, and who leave.
        failures: Takes those on what calls have raised, beside a journal of each connection's own.
        door: Knows how many there may be.
        connections: Numbers those of clients who were admitted.
        drain: Says whether it ends.
        turnstile: Passed by one connection at a time, of those that have sent much at once.
    """

    def __init__(
        self,
        tree: DeviceTree,
        executor: DriverExecutor,
        *,
        limits: Limits = DEFAULT_LIMITS,
        token: str = "",
        send_tracebacks: bool = False,
        starting: bool = False,
    ) -> None:
        self._tree = tree
        self._service = _Service(tree, limits)
        service = Target(self._service, exports_of(_Service), "the exporter's own service")
        self.targets: list[Target] = [service]
        if not starting:
            self.open()
        self.executor: DriverExecutor = executor
        self.limits: Limits = limits
        self.token: str = token
        self.send_tracebacks: bool = send_tracebacks
        self.event_log: RateLimitedLogger = RateLimitedLogger()
        self.auth_log: RateLimitedLogger = RateLimitedLogger()
        self.access_log: RateLimitedLogger = RateLimitedLogger()
        # Each record has a traceback: 10 kB a second at worst.
        self.error_log: RateLimitedLogger = RateLimitedLogger(burst=50)
        self.drain: Drain = Drain()
        self.dispatch_lock: trio.Lock = trio.Lock()
        self.connections: Iterator[int] = itertools.count(1)
        self.admission: AdmissionControl = AdmissionControl(
            limits.max_connections, limits.max_unadmitted
        )

    def open(self) -> None:
        """Let clients call the drivers."""
        self.targets.extend(self._tree.targets)
        self._service.ready.set()

    @property
    def starting(self) -> bool:
        """True until `open`."""
        return not self._service.ready.is_set()
