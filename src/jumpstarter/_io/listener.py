"""Listen on sockets, and never leak a listening or accepted socket to a forked child."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Sequence
from typing import Final

import trio

from .._util.fork import close_in_children, close_without_fork, no_fork

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["GONE", "SocketListener", "bind_all", "bind_tcp"]

# accept(2) reports these if the peer, or its network, has gone before its connection is accepted.
GONE: Final = frozenset(
    number
    for name in (
        "ECONNABORTED",
        "ECONNRESET",
        "EHOSTDOWN",
        "EHOSTUNREACH",
        "ENETDOWN",
        "ENETUNREACH",
        "ENONET",
        "EPERM",
        "EPROTO",
        "ETIMEDOUT",
    )
    if (number := getattr(errno, name, None)) is not None
)


class SocketListener(trio.abc.Listener[trio.SocketStream]):
    """A listener like `trio.SocketListener` that delays forks while it accepts a connection.

    Args:
        sock: A listening socket. The listener owns it from now on.

    Attributes:
        socket: The same socket, as a Trio socket.
    """

    def __init__(self, sock: socket.socket) -> None:
        close_in_children(sock)
        self._sock = sock
        self.socket = trio.socket.from_stdlib_socket(sock)

    async def accept(self) -> trio.SocketStream:
        """Accept a connection. A checkpoint.

        Raises:
            trio.ClosedResourceError: The listener was closed.
            OSError: The system has run out of file descriptors or memory.
        """
        await trio.lowlevel.checkpoint()
        while True:
            try:
                with no_fork():
                    accepted, _ = self._sock.accept()
                    close_in_children(accepted)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self.socket)
            except OSError as exc:
                if exc.errno == errno.EBADF:
                    raise trio.ClosedResourceError from None
                if exc.errno not in GONE:
                    raise
            else:
                return trio.SocketStream(trio.socket.from_stdlib_socket(accepted))

    async def aclose(self) -> None:
        """Close the socket. A checkpoint. Closing again does nothing."""
        close_without_fork(self.socket)
        await trio.lowlevel.checkpoint()


def bind_tcp(host: str, port: int, backlog: int) -> SocketListener:
    """Listen at one address. Never waits.

    Args:
        host: A numeric IP address. An IPv6 one accepts IPv6 only.
        port: The port; 0 takes any free port.
        backlog: The number of connections that may wait to be accepted.

    Raises:
        OSError: Listening failed.
    """
    with no_fork(), contextlib.ExitStack() as undo:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = undo.enter_context(socket.socket(family, socket.SOCK_STREAM))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((host, port))
        sock.listen(backlog)
        listener = SocketListener(sock)
        undo.pop_all()
    return listener


def bind_all(hosts: Sequence[str], port: int, backlog: int) -> list[SocketListener]:
    """Listen at every address that this machine has, all on one port. Never waits.

    Args:
        hosts: At least one, each as for `bind_tcp`.
        port: As for `bind_tcp`.
        backlog: As for `bind_tcp`.

    Raises:
        OSError: Listening at one of them failed, or this machine has none of them.
    """
    opened: list[SocketListener] = []
    missing: list[OSError] = []
    with contextlib.ExitStack() as undo:
        for host in hosts:
            try:
                opened.append(bind_tcp(host, port, backlog))
            except OSError as exc:
                # "localhost" can resolve to ::1 on a machine without IPv6.
                if exc.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise
                missing.append(exc)
                continue
            undo.callback(close_without_fork, opened[-1].socket)
            port = opened[-1].socket.getsockname()[1]
        if not opened:
            raise missing[0]
        undo.pop_all()
    return opened
