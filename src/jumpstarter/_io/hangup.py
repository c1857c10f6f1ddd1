"""Tell if the program at the other end of a socket has gone, or has only ended its half.

Both look the same to a reader: there are no more bytes. On one machine the kernel knows more. A
Unix socket whose other end was closed has hung up, one that was shut down for writing has not. Of a
TCP connection within the machine, the other end is in the same table of sockets: one that was
closed is an orphan there, which no file descriptor stands for, until the kernel forgets it.

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
        """Which kind of address it has."""

    def fileno(self) -> int:
        """Give its descriptor."""

    def getpeername(self) -> Any:
        """Give the other end's address."""

    def getsockname(self) -> Any:
        """Give its own."""


def at_end(sock: Socket) -> bool:
    """Tell if nothing more can be read: the peer has ended its half, or the connection is broken.

    No checkpoint. Nothing is taken from what is there to be read.
    """
    # A second object for the same descriptor, since Trio's has no way to look without waiting.
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
    """Tell of a peer that has ended its half if it can still take something. No checkpoint.

    Args:
        sock: A connected Unix or TCP socket that is open.

    Returns:
        True if nobody can: the other end was closed by each program that had it, or shut down in
        both directions, or the connection is broken. None if it cannot be told: the peer is on
        another machine, or this is not Linux, or it lets nobody ask.
    """
    poll = select.poll()
    poll.register(sock.fileno(), 0)
    happened = sum(event for _, event in poll.poll(0))
    if happened & select.POLLERR:
        return True
    if sys.platform != "linux":  # where half an end may be a hang-up too
        return None
    if happened & select.POLLHUP:
        return True
    return False if sock.family == socket.AF_UNIX else _is_orphan(sock)


def _is_orphan(sock: Socket) -> bool | None:
    """Look the other end of a TCP connection up in the kernel's table, by sock_diag(7)."""
    try:
        # What is the peer's own there comes first.
        question = _question(sock.family, sock.getpeername(), sock.getsockname())
        with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _NETLINK_SOCK_DIAG) as kernel:
            kernel.send(question)
            answer = kernel.recv(4096, socket.MSG_DONTWAIT)
    except OSError:
        return None
    if len(answer) < _INODE_AT + _INODE.size:
        return None  # an error: most often that it has no such socket
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
