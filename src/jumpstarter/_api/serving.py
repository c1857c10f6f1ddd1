"""Serve a driver tree at an address: access checks, start-up, and the orderly end.

At the end of the block, calls are cancelled and joined, the drivers are closed, and the sockets are
closed, whatever happened inside the block.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import signal
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, Final

import trio

from .._exporter.context import ServerContext
from .._exporter.exclusive_subtrees import Subtrees, find_parts
from .._exporter.exclusive_use import ExclusiveUse
from .._exporter.executor import DEFAULT_THREADS, DriverExecutor
from .._exporter.frame_owner import owner_of
from .._exporter.lease import LeaseRunner, Leases
from .._exporter.lease_queue import LeaseQueue, ResettingRunner
from .._exporter.metrics import Metrics
from .._exporter.server import Server
from .._exporter.tree import DeviceTree, Part
from .._io.addresses import Address, parse_address
from .._io.sockets import ListenerSet, open_listeners, private_socket_path
from .._io.watchdog import watched
from .._limits import DEFAULT_LIMITS, Limits
from .._protocol.frames import Kind
from .._util.async_library import ASYNCIO, TRIO
from .._util.background import open_background
from .._util.checks import (
    check_flag,
    check_int,
    check_seconds,
    check_text,
    raise_type_error,
    raise_value_error,
)
from .._util.event_loop import check_trio_loop
from .._util.wording import worded
from ..client import DriverClient
from ..client._methods import CALL_STYLES, names_of
from ..driver import Driver
from ..errors import ConfigurationError
from .access import check_access
from .contexts import AsyncContext

__all__ = ["check_async_library", "serve_async", "serve_leased", "warn_shadowed_names"]

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

_logger = logging.getLogger("jumpstarter.exporter")
# Seconds for the close() of one driver; hardware is slow.
END_GRACE: Final = 10.0


def serve_async(
    driver: Driver,
    address: str,
    *,
    limits: Limits = DEFAULT_LIMITS,
    threads: int = DEFAULT_THREADS,
    token: str | None = None,
    ssl_context: ssl.SSLContext | None = None,
    insecure: bool = False,
    send_tracebacks: bool = False,
    users: Collection[int] | None = None,
    async_library: str | None = None,
    exclusive: bool | Sequence[str] = False,
    max_session: float = math.inf,
    operators: Collection[str] = (),
    metrics: Metrics | None = None,
) -> AbstractAsyncContextManager[Server]:
    """Serve a driver tree at an address, for the length of an `async with` block.

        async with serve_async(Power(), "unix:/run/exporter/socket") as server:
            await trio.sleep_forever()

    Entering runs `reset()` through the tree, parents before children. Clients that connect
    meanwhile wait for it. If one raises an exception, the drivers are closed, and the exception
    leaves this function, with a note that names the driver. A driver can be served only once at a
    time, and may be served again afterwards.

    Leaving admits no more clients, cancels all calls and waits for them, and then runs `close()`
    through the tree, parents before children. Each has 10 seconds. An exception that one of them
    raises is logged, and the others still run. Entering and leaving are checkpoints. If entering is
    cancelled, it waits for the running `reset()`, and then cleans up as leaving does. Leaving
    cannot be cancelled.

    Args:
        driver: The root of the tree.
        address: `unix:/path`, `tcp://host:port` (port 0 takes a free one) or `tls://host:port`.
        limits: What the server accepts of each client. The defaults suit a lab; see `Limits` for
            the reasons.
        threads: How many worker threads run plain methods concurrently, for all clients together.
        token: A secret that clients must show. None admits every client that reaches the address; a
            warning is logged if that is anyone on the network.
        ssl_context: For `tls://`: the server's settings, with its certificate.
        insecure: True lets `tcp://` listen beyond loopback, in cleartext.
        send_tracebacks: True puts drivers' tracebacks in errors. They show paths and source lines.
        users: Uids that may connect to a Unix socket, in addition to root and the user of this
            process, who always may. The socket's mode is then 0666, and the uid that the system
            (Linux) reports for each peer decides. Do not name that of `nobody`: within a user
            namespace, all users that are unknown there have it.
        async_library: Which library the async code of drivers is written for, if it does not say so
            itself: `"trio"` or `"asyncio"`. By default it is found out for each driver, see
            docs/howto/asyncio-code.md; set it if that goes wrong.
        exclusive: True lets one client at a time use the drivers; the others wait in a queue.
            Without its turn a client can only call methods that are marked `read_only`. Before
            each client but the first, `reset()` runs through the tree. The paths of drivers, as in
            `["left", "right"]`, do this for each of these subtrees by itself, with a queue of its
            own; the drivers outside of them are free. They must have no driver in common.
        max_session: With `exclusive`, seconds after which a client is disconnected, and the next
            one has its turn. It is warned before. Without limit by default.
        operators: With `exclusive`, common names of client certificates whose owners may end the
            session of another client. At a Unix socket, root and the user of this process may too.
        metrics: Counts the calls and sessions of this server, see `jumpstarter.observe`.

    Returns:
        An async context manager that yields the server. Its `address` has the real port.

    Raises:
        ConfigurationError: (on entering) The tree or the address cannot be served, or a driver of
            the tree is served already.
        Exception: (on entering) A driver's `reset()` has raised it.
        ArgumentError: (on entering) The address or another argument cannot be used.
        RuntimeError: (on entering) No Trio loop runs in this thread.
    """
    managed = _serve(
        driver,
        address,
        limits=limits,
        threads=threads,
        token=token,
        ssl_context=ssl_context,
        insecure=insecure,
        send_tracebacks=send_tracebacks,
        users=users,
        async_library=async_library,
        exclusive=exclusive,
        max_session=max_session,
        operators=operators,
        metrics=metrics,
        runner=None,
    )
    return AsyncContext(managed, "async with serve_async(...) as server:")


def serve_leased(
    driver: Driver, address: str, runner: LeaseRunner | None, **options: Any
) -> AbstractAsyncContextManager[Server]:
    """Serve a driver tree like `serve_async`, and run code around each lease.

    A lease lasts from the arrival of a first client to the departure of the last one; see
    `_exporter.lease`. If serving ends during a lease, the runner's `end` runs before the drivers
    are closed.

    Args:
        driver: See `serve_async`, as for the options.
        address: The same.
        runner: The code to run, or None.
        options: The other arguments of `serve_async`; all of them have defaults there.
    """
    defaults: dict[str, Any] = serve_async.__kwdefaults__ or {}
    managed = _serve(driver, address, **{**defaults, **options, "runner": runner})
    return AsyncContext(managed, "async with serve_leased(...) as server:")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Exclusive:
    """The terms of exclusive use; see `serve_async`."""

    paths: tuple[str, ...]
    max_session: float
    operators: frozenset[str]

    def of(self, tree: DeviceTree, queues: Sequence[Leases], parts: Sequence[Part]) -> Subtrees:
        """Return the exclusive use of a tree on these terms."""
        uses = []
        for queue, path in zip(queues, self.paths or ("",), strict=True):
            assert isinstance(queue, LeaseQueue)
            uses.append(ExclusiveUse(queue, max_session=self.max_session, path=path))
        users = (0, os.geteuid())
        return Subtrees(tree, uses, parts, operators=self.operators, users=users)


@asynccontextmanager
async def _leases(
    exporter: ServerContext, runner: LeaseRunner, kind: type[Leases]
) -> AsyncIterator[Leases]:
    """Begin and end leases during the block, and listen for the runner at a private socket."""
    with private_socket_path() as path:
        listeners = await open_listeners(parse_address(f"unix:{path}"))
        try:
            leases = kind(runner, str(path))
            async with open_background() as nursery:
                with trio.CancelScope(shield=True):  # it takes no time, and is ended below
                    await nursery.start(_run_leases, leases, Server(exporter, listeners))
                try:
                    yield leases
                finally:
                    with trio.CancelScope(shield=True):
                        await leases.finish()
        finally:
            with trio.CancelScope(shield=True):
                await listeners.aclose()


@asynccontextmanager
async def _all_leases(
    exporter: ServerContext, runners: Sequence[LeaseRunner], kind: type[Leases]
) -> AsyncIterator[list[Leases]]:
    """Do so for each of several runners."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(_leases(exporter, each, kind)) for each in runners]


async def _run_leases(
    leases: Leases, server: Server, *, task_status: trio.TaskStatus[None]
) -> None:
    """Run leases, and serve their runner, until `leases.finish`, even if serving is cancelled."""
    with trio.CancelScope(shield=True):
        async with open_background() as nursery:
            await nursery.start(server.run)
            task_status.started()
            await leases.run()


@asynccontextmanager
async def _serve(
    driver: Driver,
    address: str,
    *,
    limits: Limits,
    threads: int,
    token: str | None,
    ssl_context: ssl.SSLContext | None,
    insecure: bool,
    send_tracebacks: bool,
    users: Collection[int] | None,
    async_library: str | None,
    exclusive: bool | Sequence[str],
    max_session: float,
    operators: Collection[str],
    metrics: Metrics | None,
    runner: LeaseRunner | None,
) -> AsyncIterator[Server]:
    instead = "run serve_async() by trio.run() in a thread of its own"
    check_trio_loop("serve_async()", instead)
    where = parse_address(address)
    secret = check_access(limits, token, ssl_context)
    allowed = _check_users(users, where)
    check_flag("insecure", insecure)
    check_flag("send_tracebacks", send_tracebacks)
    terms = _check_exclusive(exclusive, max_session, operators)
    executor = DriverExecutor(check_int("threads", threads, 1))
    tree = DeviceTree(driver)
    warn_shadowed_names(tree)
    exporter = ServerContext(
        tree,
        executor,
        limits=limits,
        token=secret,
        send_tracebacks=send_tracebacks,
        starting=True,
        async_library=check_async_library(async_library),
        metrics=_check_metrics(metrics),
    )
    parts = find_parts(tree, () if terms is None else terms.paths)
    kind: type[Leases] = Leases
    runners = [] if runner is None else [runner]
    if terms is not None:
        runners, kind = _resetting(tree, parts, runner), LeaseQueue
    mode = 0o600 if allowed is None else 0o666
    opening = partial(open_listeners, where, ssl_context=ssl_context, insecure=insecure, mode=mode)
    is_access_checked = bool(secret) or _requires_certificates(ssl_context)
    with tree.claimed(f"at {where}"), watched(limits.loop_hold, owner_of):
        async with (
            exporter.lane(owner_of),
            _counted(exporter),
            _listening(tree, opening, is_access_checked=is_access_checked) as listeners,
            _all_leases(exporter, runners, kind) as leases,
        ):
            use = None if terms is None else terms.of(tree, leases, parts)
            if use is not None:
                exporter.use_exclusively(use)
            server = Server(exporter, listeners, allowed or (), leases, use)
            async with _running(server, exporter, tree):
                yield server


@asynccontextmanager
async def _listening(
    tree: DeviceTree, opening: Callable[[], Awaitable[ListenerSet]], *, is_access_checked: bool
) -> AsyncIterator[ListenerSet]:
    """Listen during the block, and then end the drivers, which no client can reach any more.

    They are not ended if the listeners cannot be opened: they were not reset yet.
    """
    listeners = await opening()
    try:
        _log_warnings(listeners, is_access_checked=is_access_checked)
        yield listeners
    finally:
        with trio.CancelScope(shield=True):
            await listeners.aclose()
        await tree.end(END_GRACE)


@asynccontextmanager
async def _running(
    server: Server, exporter: ServerContext, tree: DeviceTree
) -> AsyncIterator[None]:
    """Accept clients during the block, which begins when all drivers have been reset."""
    async with open_background() as nursery:
        await nursery.start(server.run)  # before the reset, so that clients can wait for it
        await tree.reset_for_clients()
        exporter.open()
        yield


def _resetting(
    tree: DeviceTree, parts: Sequence[Part], runner: LeaseRunner | None
) -> list[LeaseRunner]:
    """Return what runs around the sessions of an exporter in exclusive use, for each queue."""
    if not parts:
        return [ResettingRunner(runner, tree.reset_for_clients)]
    if runner is not None:
        text = "hooks and exitOnLeaseEnd are for sessions of the whole exporter, and"
        advice = "names subtrees: let drivers prepare them in reset()"
        raise ConfigurationError(f"{text} {worded('exclusive=')} {advice}")
    return [ResettingRunner(None, partial(tree.reset_for_clients, each)) for each in parts]


@asynccontextmanager
async def _counted(exporter: ServerContext) -> AsyncIterator[None]:
    """Measure what is not a call, for the metrics, if there are any."""
    metrics = exporter.metrics
    if metrics is None:
        yield
        return
    with metrics.source(exporter.readings):
        async with open_background() as nursery:
            nursery.start_soon(metrics.watch_loop)
            yield


def _check_metrics(metrics: object) -> Metrics | None:
    if metrics is not None and not isinstance(metrics, Metrics):
        raise_type_error("metrics", metrics, "a jumpstarter.observe.Metrics, or None")
    return metrics


def _log_warnings(listeners: ListenerSet, *, is_access_checked: bool) -> None:
    """Log access that may be broader than intended, and signals that break exit codes.

    Args:
        listeners: Where clients connect.
        is_access_checked: True if clients must show a secret or a certificate.
    """
    if listeners.exposed and not is_access_checked:
        text = "anyone who reaches %s may use the drivers: ask for a token, or for certificates"
        _logger.warning(text, listeners.address)
    if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
        text = (
            "SIGCHLD is ignored in this process, so programs that drivers run seem to exit with 0"
        )
        _logger.warning("%s: call signal.signal(signal.SIGCHLD, signal.SIG_DFL) before", text)


def check_async_library(library: object) -> str | None:
    """Check the switch for code that does not say for which library it was written.

    Raises:
        ArgumentError: It is neither None nor the name of a library.
    """
    accepted = "'trio', 'asyncio', or None to look at each driver"
    if library is not None and not isinstance(library, str):
        raise_type_error("async_library", library, accepted)
    if library not in {None, TRIO, ASYNCIO}:
        raise_value_error("async_library", library, accepted)
    return library


def _check_exclusive(
    exclusive: object, max_session: object, operators: object
) -> _Exclusive | None:
    """Check the arguments for exclusive use; return None if there is none."""
    paths = _check_paths(exclusive)
    accepted = "a collection of common names of certificates"
    if isinstance(operators, str | bytes) or not isinstance(operators, Collection):
        raise_type_error("operators", operators, accepted)
    names = frozenset(check_text("each of operators", name, "a common name") for name in operators)
    if "" in names:  # each certificate without a common name would have it
        raise_value_error("operators", operators, accepted)
    longest = check_seconds("max_session", max_session)
    if not longest:
        raise_value_error("max_session", longest, "a number of seconds > 0")
    if paths is None:
        if names or longest != math.inf:
            text = "max_session= and operators= are for exclusive=, which is not given"
            raise ConfigurationError(text)
        return None
    return _Exclusive(paths=paths, max_session=longest, operators=names)


def _check_paths(exclusive: object) -> tuple[str, ...] | None:
    """Return the subtrees that are used exclusively: none for the whole; None for no such use."""
    if isinstance(exclusive, bool):
        return () if exclusive else None
    accepted = "True, False, or the paths of drivers, as in ['left', 'right']"
    if isinstance(exclusive, str | bytes) or not isinstance(exclusive, Sequence):
        raise_type_error("exclusive", exclusive, accepted)
    if not exclusive:
        raise_value_error("exclusive", exclusive, accepted)
    return tuple(check_text("each of exclusive", path, "a driver's path") for path in exclusive)


def _check_users(users: object, address: Address) -> frozenset[int] | None:
    if users is None:
        return None
    accepted = "a collection of uids, or None"
    if isinstance(users, str | bytes) or not isinstance(users, Collection):
        raise_type_error("users", users, accepted)
    allowed = frozenset(check_int("each of users", uid, 0) for uid in users)
    if address.scheme != "unix" or sys.platform != "linux":
        needs = worded("users= needs")
        text = f"{address}: {needs} a unix: address, and Linux, which reports a peer's uid"
        raise ConfigurationError(f"{text}; elsewhere ask for a token, or for certificates")
    return allowed


def warn_shadowed_names(tree: DeviceTree) -> None:
    """Log which drivers and methods a client cannot reach as attributes.

    `DriverClient` has attributes of its own by these names.
    """
    for target, node in zip(tree.targets, tree.nodes, strict=True):
        if node.name in names_of(DriverClient):
            text = "%s is reached by `children[%r]`: clients have an attribute of this name"
            _logger.warning(text, target.title, node.name)
        for name in sorted(names_of(DriverClient).intersection(node.methods)):
            if not name.startswith("_"):  # clients have no attributes for these anyway
                text = "%s exports %r, to be reached by `%s(%r)`: clients have one of this name"
                form = CALL_STYLES[Kind(node.methods[name])]
                _logger.warning(text, target.title, name, form, name)


def _requires_certificates(context: ssl.SSLContext | None) -> bool:
    return context is not None and context.verify_mode is ssl.CERT_REQUIRED
