"""A link between two ends that takes time: a process that delays all bytes by the same time.

It stands for a network whose delay matters and whose bandwidth does not. Each byte arrives this
much later, in order, and any number of bytes up to `_ROOM` is on its way in each direction. The
round trip takes twice the delay, and a little more for this process itself.

This module imports only the standard library and `worker`.
"""

from __future__ import annotations

import contextlib
import select
import socket
import sys
import time
from collections import deque
from collections.abc import Iterator
from typing import Final

from .worker import ready

__all__ = ["behind", "forward"]

_READ: Final = 256 * 1024  # bytes
_ROOM: Final = 64 * 2**20  # bytes on their way in one direction; a sender of more has to wait


def behind(path: str) -> str:
    """Return the path of the server to which the link at a path leads."""
    return f"{path}-far"


def forward(path: str, delay: str) -> None:
    """Accept connections at the path, and forward each to the server behind it.

    Args:
        path: Where the client connects to.
        delay: Seconds that each byte takes in each direction.
    """
    with socket.socket(socket.AF_UNIX) as listener, contextlib.ExitStack() as sockets:
        listener.bind(path)
        listener.listen()
        ready()
        link = Link(listener, behind(path), float(delay), sockets)
        while link.turn():
            pass


class Half:
    """One direction of one connection: the bytes that are on their way.

    Args:
        source: Where bytes come from.
        sink: Where they go.
        delay: Seconds between the two.
    """

    def __init__(self, source: socket.socket, sink: socket.socket, delay: float) -> None:
        self.source = source
        self.sink = sink
        self.ended = False  # the source has sent everything
        self._delay = delay
        self._moving: deque[tuple[float, memoryview]] = deque()  # when they arrive
        self._bytes = 0

    @property
    def has_room(self) -> bool:
        """Return True if more bytes may set out."""
        return not self.ended and self._bytes < _ROOM

    def due(self, now: float) -> float:
        """Return the seconds until the next bytes arrive; infinite if none are on their way."""
        return max(0.0, self._moving[0][0] - now) if self._moving else float("inf")

    def take(self, now: float) -> None:
        """Read what has arrived at the source. Its end travels like a byte."""
        try:
            data = self.source.recv(_READ)
        except OSError:
            data = b""
        self.ended = not data
        self._moving.append((now + self._delay, memoryview(data)))
        self._bytes += len(data)

    def deliver(self, now: float) -> None:
        """Write what is due, as far as the sink accepts it."""
        while self._moving and self._moving[0][0] <= now:
            due, data = self._moving[0]
            if not data:
                self._moving.popleft()
                with contextlib.suppress(OSError):  # the sink has gone
                    self.sink.shutdown(socket.SHUT_WR)
                continue
            try:
                sent = self.sink.send(data)
            except BlockingIOError:
                return
            except OSError:  # the sink has gone: what it would get is lost
                sent = len(data)
            self._bytes -= sent
            if sent < len(data):
                self._moving[0] = due, data[sent:]
                return
            self._moving.popleft()


class Link:
    """All connections of a link, served by one thread."""

    def __init__(
        self, listener: socket.socket, far: str, delay: float, sockets: contextlib.ExitStack
    ) -> None:
        self._listener = listener
        self._far = far
        self._delay = delay
        self._sockets = sockets
        self._halves: list[Half] = []

    def turn(self) -> bool:
        """Wait for something to do and do it. Returns False when the harness closes the input."""
        now = time.monotonic()
        waits = [half.due(now) for half in self._halves]
        later = min((wait for wait in waits if wait > 0), default=float("inf"))
        readable, _, _ = select.select(
            [sys.stdin, self._listener, *(half.source for half in self._halves if half.has_room)],
            [half.sink for half, wait in zip(self._halves, waits, strict=True) if wait == 0],
            [],
            None if later == float("inf") else later,
        )
        if sys.stdin in readable:
            return False
        if self._listener in readable:
            self._connect()
        now = time.monotonic()
        for half in self._halves:
            if half.source in readable and half.has_room:
                half.take(now)
        for half in self._halves:
            half.deliver(now)
        return True

    def _connect(self) -> None:
        near, _address = self._listener.accept()
        far = socket.socket(socket.AF_UNIX)
        far.connect(self._far)
        self._halves += self._halves_of(near, far)

    def _halves_of(self, near: socket.socket, far: socket.socket) -> Iterator[Half]:
        for sock in (near, far):
            self._sockets.enter_context(sock)
            sock.setblocking(False)
        yield Half(near, far, self._delay)
        yield Half(far, near, self._delay)
