"""Hold what all sessions of one exporter share: drivers, executor, limits, secret, admission, logs.

This module knows no connections.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from typing import Final

import trio

from .._io.watchdog import Namer
from .._limits import DEFAULT_LIMITS, Limits
from .._protocol.codec import decode_error
from .._protocol.error_codec import exception_from_wire
from .._protocol.frames import Node
from .._util.log_limit import RateLimitedLogger
from ..driver._base import Driver
from ..driver._caller import current_connection
from ..driver._drain import Drain
from ..driver._export import export, exports_of, exportstream
from ..driver._loan import Loan, loan_request
from ..errors import Code, ResourceError
from .admission import AdmissionControl
from .error_reporter import reject
from .exclusive_subtrees import Subtrees
from .executor import DriverExecutor
from .libraries import Libraries
from .log_stream import MAX_ALL_QUEUES, MAX_QUEUES, LogFanout
from .metrics import LOST_RECORDS, Metrics, Reading
from .routes import Routes
from .tree import DeviceTree, Target

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["ServerContext"]

_CLIENT_S: Final = "the client could not go on with what it has lent"
_LOG_DRAIN: Final = 1.0  # seconds of the log that clients still get when the exporter ends


class _Service:
    """The exporter's own methods, at target 0.

    They are for `connect`, for loans, for its log and for exclusive use.
    """

    def __init__(self, tree: DeviceTree, limits: Limits, log: LogFanout) -> None:
        self._tree = tree
        self._limits = limits
        self._log = log
        self._loans: dict[str, Loan] = {}
        self.ready: trio.Event = trio.Event()
        self.exclusive: Subtrees | None = None

    @export(read_only=True)
    async def report(self) -> list[Node]:
        """Return the tree, once all drivers have been reset."""
        await self.ready.wait()
        return self._tree.nodes

    @exportstream(drain=math.inf)  # the call that uses the loan has its own limit
    @asynccontextmanager
    async def lend(self, target: int, mode: str, encoding: str) -> AsyncIterator[Loan]:
        """Lend a file or stream of the client to a driver, until the client ends its stream.

        Args:
            target: The driver's target in the tree.
            mode: What the driver may do: read, write, or both.
            encoding: The compression of the bytes.

        Raises:
            CallRejected: The exporter is in exclusive use, and it is not the client's turn.
            ResourceError: `mode` or `encoding` is unknown.
        """
        await self.ready.wait()
        if self.exclusive is not None:
            self.exclusive.check(current_connection.get(), target)
        with loan_request(self._tree.driver_at(target).resources, mode, encoding) as loan:
            self._loans[str(loan.handle)] = loan
            try:
                yield loan
            finally:
                del self._loans[str(loan.handle)]

    @export
    async def lent_failed(self, handle: str, error: bytes) -> None:
        """Keep the reason why a client's loan has failed, for the driver that uses it."""
        loan = self._loan_of_caller(handle)
        loan.excuse = exception_from_wire(*decode_error(error, self._limits), _CLIENT_S)

    @export
    async def lent_back(self, handle: str) -> None:
        """Let a loan for both directions end once no driver uses it; most have ended by then."""
        if handle in self._loans:
            self._loan_of_caller(handle).client_closed()

    def _loan_of_caller(self, handle: str) -> Loan:
        loan = self._loans.get(handle)
        if loan is None or loan.owner is not current_connection.get():
            raise ResourceError("there is no such loan of this client")
        return loan

    @export(drain=_LOG_DRAIN, read_only=True)
    async def log(self) -> AsyncIterator[object]:
        """Yield the number for `log_end`, and then batches of what this process logs."""
        with self._log.queue(current_connection.get()) as queue:
            if queue is None:
                text = f"there are {MAX_QUEUES} streams of the log for this connection already, "
                text += f"or {MAX_ALL_QUEUES} for all"
                reject(Code.RESOURCE_EXHAUSTED, text)
            yield queue.number
            async with aclosing(queue.batches()) as batches:
                async for batch in batches:
                    yield batch

    @export(read_only=True)
    async def log_end(self, number: int) -> None:
        """Let a `log` of this client end once it has sent what was logged before."""
        self._log.end(current_connection.get(), number)

    @export(drain=0, read_only=True)
    async def claim(self, wait: bool) -> AsyncIterator[object]:
        """Yield places in the queue, and then the session; see `ExclusiveUse.claim`."""
        await self.ready.wait()  # two resets of one driver must not overlap
        claiming = self._exclusive_use().claim(current_connection.get(), wait, None)
        async with aclosing(claiming) as items:
            async for item in items:
                yield item

    @export(drain=0, read_only=True)
    async def claim_subtree(self, path: object, wait: bool) -> AsyncIterator[object]:
        """Do the same for the subtree that has the driver at a path; see `Subtrees.claim`."""
        if not isinstance(path, str):
            reject(Code.INVALID_ARGUMENT, "claim_subtree: the path of a driver must be a str")
        await self.ready.wait()  # two resets of one driver must not overlap
        claiming = self._exclusive_use().claim(current_connection.get(), wait, path)
        async with aclosing(claiming) as items:
            async for item in items:
                yield item

    @export(read_only=True)
    async def join(self, key: str) -> None:
        """Let this connection take part in a session that another one has begun."""
        self._exclusive_use().join(current_connection.get(), key)

    @export(read_only=True)
    async def who(self) -> object:
        """Return the holder and the clients that wait."""
        return self._exclusive_use().who()

    @export(read_only=True)
    async def board(self, name: object) -> object:
        """Return the board at which this client may end a session; see `Subtrees.board`."""
        if not isinstance(name, str | None):
            reject(Code.INVALID_ARGUMENT, "board: the name of a board must be a str, or None")
        return self._exclusive_use().board(current_connection.get(), name)

    @export(read_only=True)
    async def kick(self, connection: int | None) -> None:
        """End the holder's session, and wait until its calls have ended."""
        await self._exclusive_use().kick(current_connection.get(), connection)

    def _exclusive_use(self) -> Subtrees:
        if self.exclusive is None:
            text = "this exporter is not in exclusive use: its clients share it"
            reject(Code.UNIMPLEMENTED, f"{text}; start it with --exclusive")
        return self.exclusive


class ServerContext:
    """The state that all sessions of one exporter share.

    Args:
        tree: The drivers.
        executor: Runs their code.
        limits: Bounds what clients may ask for.
        token: The secret that clients must send in HELLO; empty admits every client.
        starting: The drivers are being reset. Clients are admitted and wait for the report, and no
            driver can be called before `open`.
        send_tracebacks: Put drivers' tracebacks in errors. Off by default, since a traceback shows
            paths and source lines.
        async_library: What async code that does not say it itself is written for; None to guess.
        metrics: Counts calls and sessions, or None.

    Attributes:
        libraries: Which methods run in Trio, and which in the asyncio lane.
        targets: What can be called, by the target of a CALL.
        routes: What each call reaches.
        event_log: Logs connections that never became a session, or failed.
        auth_log: Logs clients that were not admitted; separate, so that nothing else can hide
            attempts to guess the token.
        access_log: Logs clients that were admitted, and that left.
        error_log: Logs what calls have raised, with a logger per connection in front of it.
        admission: Limits the number of connections.
        connections: Numbers the connections of admitted clients.
        drain: Whether the exporter drains.
        dispatch_lock: Held by one connection at a time, of those that have sent many frames.
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
        async_library: str | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self._tree = tree
        self.metrics: Metrics | None = metrics
        self.libraries: Libraries = Libraries(tree.targets, async_library)
        self._log = LogFanout(send_tracebacks=send_tracebacks)
        self._service = _Service(tree, limits, self._log)
        service = Target(self._service, exports_of(_Service), "the exporter's own service")
        self.targets: list[Target] = [service]
        self.routes: Routes = Routes(self.targets)
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

    @asynccontextmanager
    async def lane(self, namer: Namer | None = None) -> AsyncIterator[None]:
        """Open the asyncio lane, if a driver needs it, for the length of the block.

        Args:
            namer: Names the code that blocks it, for the log.
        """
        targets, limit = self._tree.targets, self.limits.loop_hold
        async with self.libraries.open_lane(targets, limit, namer) as lane:
            if lane is not None:
                if not self.starting:
                    self.targets[1:] = self._tree.targets
                self.executor.adapt_hook = self.libraries.hook_adapter(lane)
                self._tree.leads_to_loop = self.libraries.loop_finder(lane)
            yield

    def use_exclusively(self, use: Subtrees) -> None:
        """Let clients claim the exporter. Call it before clients connect."""
        self._service.exclusive = use

    def open(self) -> None:
        """Let clients call the drivers, and give them the report. Call it once."""
        self.targets.extend(self._tree.targets)
        self._service.ready.set()

    @property
    def drivers(self) -> Iterator[tuple[str, Driver, Node]]:
        """The path, the driver and the report of each driver, parents before children."""
        for path, target, node in zip(
            self._tree.paths, self._tree.targets, self._tree.nodes, strict=True
        ):
            assert isinstance(target.instance, Driver)
            yield path, target.instance, node

    def path_of(self, target: int) -> str | None:
        """Return the path of the driver at a target; None if there is none. In any thread."""
        return self._tree.paths[target - 1] if 0 < target < len(self.targets) else None

    def readings(self) -> Iterator[Reading]:
        """Yield what only the exporter itself can count. In any thread."""
        yield Reading(*LOST_RECORDS, values={("clients",): self._log.lost})
        if self._service.exclusive is not None:
            yield from self._service.exclusive.readings()

    @property
    def starting(self) -> bool:
        """True until `open`."""
        return not self._service.ready.is_set()
