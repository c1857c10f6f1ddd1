"""Find out whether the program at the other end of a socket has gone, or only half-closed it.

A reader sees the end of the stream in both cases. On one machine the kernel knows more. It reports
a hang-up for a Unix socket whose other end was closed, and none if it was only shut down for
writing. For a TCP connection within the machine, the other end is in the same table of sockets: if
it was closed, it is an orphan, without an inode, until the kernel removes it.

This module does not use Trio.
"""

from __future__ import annotations

import select
import socket
import struct
import sys
from typing import Any, Final, Protocol

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["at_end", "is_gone"]

_NETLINK_SOCK_DIAG: Final = 4
_SOCK_DIAG_BY_FAMILY: Final = 20
_NLM_F_REQUEST: Final = 1
# From <linux/netlink.h> and <linux/inet_diag.h>.
_HEADER: Final = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_ASK: Final = struct.Struct("=BBxxI")  # family, protocol, states
_PORTS: Final = struct.Struct("!HH")
_NO_COOKIE: Final = struct.pack("=III", 0, 0xFFFFFFFF, 0xFFFFFFFF)  # any interface, any socket
_INODE: Final = struct.Struct("=I")
_INODE_AT: Final = _HEADER.size + 68  # the last member of inet_diag_msg


class Socket(Protocol):
    """The methods of Trio's and of Python's sockets that are used here."""

    @property
    def family(self) -> int:
        """The address family."""

    def fileno(self) -> int:
        """Return the file descriptor."""

    def getpeername(self) -> Any:
        """Return the address of the other end."""

    def getsockname(self) -> Any:
        """Return the address of this end."""


def at_end(sock: Socket) -> bool:
    """Return True if nothing more can be read: the peer has sent its end, or the connection broke.

    Not a checkpoint. Consumes nothing.
    """
    # A second object for the same descriptor: Trio's sockets cannot peek without waiting.
    look = socket.socket(sock.family, socket.SOCK_STREAM, 0, sock.fileno())
    try:
        return not look.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True
    finally:
        look.detach()


def is_gone(sock: Socket) -> bool | None:
    """Find out whether a peer that has half-closed can still receive. Not a checkpoint.

    Args:
        sock: A connected Unix or TCP socket that is open.

    Returns:
        True if it cannot: every program that had the other end has closed it, or it was shut down
        in both directions, or the connection is broken. None if that is unknown: the peer is on
        another machine, the system is not Linux, or the kernel does not answer.
    """
    poll = select.poll()
    poll.register(sock.fileno(), 0)
    happened = sum(event for _, event in poll.poll(0))
    if happened & select.POLLERR:
        return True
    if sys.platform != "linux":  # others may report a hang-up for a half-close too
        return None
    if happened & select.POLLHUP:
        return True
    return False if sock.family == socket.AF_UNIX else _is_orphan(sock)


def _is_orphan(sock: Socket) -> bool | None:
    """Look up the other end of a TCP connection in the kernel's table, by sock_diag(7)."""
    try:
        # The table is asked for the peer's socket, so the peer's address is the source.
        question = _question(sock.family, sock.getpeername(), sock.getsockname())
        with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _NETLINK_SOCK_DIAG) as kernel:
            kernel.send(question)
            answer = kernel.recv(4096, socket.MSG_DONTWAIT)
    except OSError:
        return None
    if len(answer) < _INODE_AT + _INODE.size:
        return None  # an error, usually that the socket does not exist
    if _HEADER.unpack_from(answer)[1] != _SOCK_DIAG_BY_FAMILY:
        return None
    return bool(_INODE.unpack_from(answer, _INODE_AT)[0] == 0)


def _question(family: int, source: tuple[str, int], destination: tuple[str, int]) -> bytes:
    addresses = [_packed(family, each[0]) for each in (source, destination)]
    body = (
        _ASK.pack(family, socket.IPPROTO_TCP, 0xFFFFFFFF)
        + _PORTS.pack(source[1], destination[1])
        + b"".join(addresses)
        + _NO_COOKIE
    )
    size = _HEADER.size + len(body)
    return _HEADER.pack(size, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 1, 0) + body


def _packed(family: int, host: str) -> bytes:
    return socket.inet_pton(family, host.partition("%")[0]).ljust(16, b"\0")
