"""A driver tree behind an address: who connects, what is refused, and the orderly end.

Whatever happens inside the `async with` block of this file, at its end the calls have been
cancelled and joined, the drivers are reset and closed, and the sockets are gone, in this order.
"""

from __future__ import annotations

import logging
import signal
import ssl
import sys
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Final

import trio

from .._exporter.context import ServerContext
from .._exporter.executor import DEFAULT_THREADS, DriverExecutor
from .._exporter.frame_owner import owner_of
from .._exporter.server import Server
from .._exporter.tree import DeviceTree
from .._io.addresses import Address, parse_address
from .._io.sockets import ListenerSet, open_listeners
from .._io.watchdog import watched
from .._limits import DEFAULT_LIMITS, Limits
from .._protocol.frames import Kind
from .._util.background import open_background
from .._util.checks import (
    check_flag,
    check_instance,
    check_int,
    check_secret,
    raise_type_error,
)
from .._util.event_loop import check_trio_loop
from ..client import DriverClient
from ..client._methods import CALL_STYLES, names_of
from ..driver import Driver
from ..errors import ConfigurationError

__all__ = ["check_access", "serve_async", "warn_shadowed_names"]

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

_logger = logging.getLogger("jumpstarter.exporter")
END_GRACE: Final = 10.0  # seconds for one driver's last `reset`, or `close`; hardware is slow


@asynccontextmanager
async def serve_async(
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
) -> AsyncIterator[Server]:
    """Serve a driver tree at an address, for the length of an `async with` block.

    `reset()` runs through the tree first; clients that connect meanwhile wait for that. A driver is
    served once at a time, and may be served again afterwards. At the end of the block no client is
    admitted any more, all calls are cancelled and joined, and then `reset()` and `close()` run
    through the tree, parents before children; what one of them raises is logged, and the others
    have their turn.

    Args:
        driver: The root of the tree.
        address: `unix:/path`, `tcp://host:port` (port 0 takes a free one) or `tls://host:port`.
        limits: What a client may ask for.
        threads: Worker threads at once for plain methods, of all clients together.
        token: A secret that clients must show; None admits whoever reaches the address.
            A warning is logged where that is anybody on the network.
        ssl_context: For `tls`: the server's, with its certificate.
        insecure: Let `tcp` listen beyond loopback, in cleartext.
        send_tracebacks: Put drivers' tracebacks in errors; they show paths and source lines.
        users: Uids that may connect to a Unix socket, beside root and the one this process runs as,
            which are the only ones by default. Its mode is 0666 then, and what the system (Linux)
            says of each peer decides. Do not name that of `nobody`: within a user namespace all
            users have it who are unknown there.

    Yields:
        The server, with its real address.

    Raises:
        ConfigurationError: The tree or the address cannot be served, or a driver of the tree is
            served already.
        ArgumentError: The address cannot be understood, or another argument cannot be used.
    """
    instead = "run serve_async() by trio.run() in a thread of its own"
    check_trio_loop("serve_async()", instead)
    where = parse_address(address)
    secret = check_access(limits, token, ssl_context)
    allowed = _check_users(users, where)
    check_flag("insecure", insecure)
    check_flag("send_tracebacks", send_tracebacks)
    executor = DriverExecutor(check_int("threads", threads, 1))
    tree = DeviceTree(driver)
    warn_shadowed_names(tree)
    exporter = ServerContext(
        tree, executor, limits=limits, token=secret, send_tracebacks=send_tracebacks, starting=True
    )
    with tree.claimed(f"at {where}"), watched(limits.loop_hold, owner_of):
        mode = 0o600 if allowed is None else 0o666
        listeners = await open_listeners(
            where, ssl_context=ssl_context, insecure=insecure, mode=mode
        )
        try:
            is_asked = bool(secret) or _asks_for_certificates(ssl_context)
            _warn(listeners, is_asked=is_asked)
            server = Server(exporter, listeners, allowed or ())
            async with open_background() as nursery:
                await nursery.start(server.run)  # who connects meanwhile waits for the drivers
                await tree.reset_for_clients()
                exporter.open()
                yield server
        finally:
            with trio.CancelScope(shield=True):
                await listeners.aclose()
            await tree.end(END_GRACE)


def _warn(listeners: ListenerSet, *, is_asked: bool) -> None:
    """Log what may not be meant.

    Args:
        listeners: Where clients connect.
        is_asked: They are asked for a secret, or for certificates.
    """
    if listeners.exposed and not is_asked:
        text = "whoever reaches %s may use the drivers: ask for a token, or for certificates"
        _logger.warning(text, listeners.address)
    if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
        text = (
            "SIGCHLD is ignored in this process, so programs that drivers run seem to exit with 0"
        )
        _logger.warning("%s: call signal.signal(signal.SIGCHLD, signal.SIG_DFL) before", text)


def check_access(limits: object, token: object, context: object) -> str:
    """Check the arguments that both sides take, and give the secret; an empty one is none."""
    check_instance("limits", limits, Limits, "a jumpstarter.Limits")
    if context is not None:
        accepted = "an ssl.SSLContext, as ssl.create_default_context() makes one, or None"
        check_instance("ssl_context", context, ssl.SSLContext, accepted)
    return check_secret("token", token, "a str (decode bytes, and strip a line), or None")


def _check_users(users: object, address: Address) -> frozenset[int] | None:
    if users is None:
        return None
    accepted = "a collection of uids, or None"
    if isinstance(users, str | bytes) or not isinstance(users, Collection):
        raise_type_error("users", users, accepted)
    allowed = frozenset(check_int("each of users", uid, 0) for uid in users)
    if address.scheme != "unix" or sys.platform != "linux":
        text = f"{address}: which users may connect can be told of a unix: address, on Linux, only"
        raise ConfigurationError(f"{text}; elsewhere ask for a token, or for certificates")
    return allowed


def warn_shadowed_names(tree: DeviceTree) -> None:
    """Log which names in a tree are no attributes of a client, which has them itself."""
    for target, node in zip(tree.targets, tree.nodes, strict=True):
        if node.name in names_of(DriverClient):
            text = "%s is reached by `children[%r]`: clients have an attribute of this name"
            _logger.warning(text, target.title, node.name)
        for name in sorted(names_of(DriverClient).intersection(node.methods)):
            if not name.startswith("_"):  # those are reached by name alone in any case
                text = "%s exports %r, to be reached by `%s(%r)`: clients have one of this name"
                form = CALL_STYLES[Kind(node.methods[name])]
                _logger.warning(text, target.title, name, form, name)


def _asks_for_certificates(context: ssl.SSLContext | None) -> bool:
    return context is not None and context.verify_mode is ssl.CERT_REQUIRED
