"""The sockets, the deadline and the counters of one attack.

An attack is a function that takes an `Attacker`. `attack` calls it repeatedly until the time is
over, and closes all connections between two calls, so an attack that was cut off reconnects. The
function need not check the time: every method that waits raises `Over` at the deadline, and `Cut`
if the server has closed the connection.

This module is independent of protocols.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final

__all__ = ["Attacker", "Cut", "Function", "Line", "Over", "attack"]

_TICK: Final = 0.05  # seconds; the maximum delay after which an attack notices its deadline
_CHUNK: Final = 256 * 1024
_PAUSE: Final = 0.002  # seconds before the next round of an attack that was refused immediately


class Cut(Exception):
    """The server has closed the connection or refused it."""


class Over(Exception):
    """The attack's time is over."""


class Line:
    """One connection of an attacker."""

    def __init__(self, attacker: Attacker, sock: socket.socket) -> None:
        self.socket = sock
        self._attacker = attacker
        self._alive = True

    @property
    def alive(self) -> bool:
        """Whether the connection is open, as far as this side knows."""
        return self._alive

    def cut(self) -> Cut:
        """Record that the server has closed the connection. Returns a `Cut` to raise."""
        if self._alive:
            self._alive = False
            self._attacker.cuts += 1
        return Cut()

    def send(self, data: bytes, frames: int = 1) -> None:
        """Send all the data, however long the server takes to read it.

        Args:
            data: The bytes to send.
            frames: The number of frames to count once all the data is sent.
        """
        rest = memoryview(data)
        while rest:
            self._attacker.check()
            try:
                rest = rest[self.socket.send(rest) :]
            except TimeoutError:
                continue
            except OSError:
                raise self.cut() from None
        self._attacker.frames += frames

    def flood(self, data: bytes, frames: int) -> None:
        """Send the same data repeatedly, until the time is over or the connection is cut."""
        while True:
            self.send(data, frames)

    def drip(self, data: bytes, every: float) -> None:
        """Send the data one byte at a time, with a pause of `every` seconds after each."""
        for byte in data:
            self.send(bytes((byte,)), 0)
            self._attacker.sleep(every)

    def receive(self, size: int = _CHUNK) -> bytes:
        """Read at least one byte."""
        while True:
            self._attacker.check()
            try:
                data = self.socket.recv(size)
            except TimeoutError:
                continue
            except OSError:
                raise self.cut() from None
            if not data:
                raise self.cut()
            return data

    def receive_exactly(self, size: int) -> bytes:
        """Read exactly `size` bytes."""
        data = b""
        while len(data) < size:
            data += self.receive(size - len(data))
        return data

    def drain(self) -> None:
        """Discard the data that has arrived, without waiting."""
        while select.select([self.socket], [], [], 0)[0]:
            self.receive()

    def until_cut(self) -> None:
        """Read and discard data until the server closes the connection."""
        with contextlib.suppress(Cut):
            while True:
                self.receive()

    def reset(self) -> None:
        """Reset the connection (RST): data in flight is lost, and the server gets an error."""
        with contextlib.suppress(OSError):
            linger = struct.pack("ii", 1, 0)
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._alive = False
        self.socket.close()


class Attacker:
    """The connections, the deadline and the counters of one attack.

    Args:
        address: Host and port of the server.
        seconds: The duration of the attack.

    Attributes:
        frames: The number of frames, messages or requests (as the attack defines) sent completely.
        connections: The number of connections that the server, or its kernel, has accepted.
        cuts: The number of these connections that the server has closed.
    """

    def __init__(self, address: tuple[str, int], seconds: float) -> None:
        self.address = address
        self.frames = 0
        self.connections = 0
        self.cuts = 0
        self._until = time.monotonic() + seconds
        self._lines: list[Line] = []

    def check(self) -> None:
        """Raise `Over` if the time is over."""
        if time.monotonic() >= self._until:
            raise Over

    def sleep(self, seconds: float) -> None:
        """Sleep for `seconds`. Raises `Over` when the time of the attack is over."""
        time.sleep(max(0.0, min(seconds, self._until - time.monotonic())))
        self.check()

    def dial(self, receive_buffer: int | None = None) -> Line:
        """Connect to the server.

        Args:
            receive_buffer: The approximate number of bytes that the kernel buffers for a connection
                that does not read.
        """
        self.check()
        sock = socket.socket()
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.settimeout(_TICK)
        line = Line(self, sock)
        self._lines.append(line)
        try:
            sock.connect(self.address)
        except OSError:
            raise Cut from None
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connections += 1
        return line

    def dial_many(self, count: int) -> list[Line]:
        """Connect `count` times, or until the server refuses a connection."""
        return list(self._dialled(count))

    def _dialled(self, count: int) -> Iterator[Line]:
        with contextlib.suppress(Cut):
            for _ in range(count):
                yield self.dial()

    def send_each(self, lines: Iterable[Line], data: bytes, frames: int = 1) -> None:
        """Send the same data on all connections that are not cut."""
        for line in lines:
            if not line.alive:
                continue
            with contextlib.suppress(Cut):
                line.send(data, frames)

    def hold(self, seconds: float | None = None) -> None:
        """Keep all connections open, without reading, until the server has cut the last one.

        Args:
            seconds: The maximum time to wait; by default, until the time is over.
        """
        poll = select.poll()
        left = {line.socket.fileno(): line for line in self._lines if line.alive}
        for number in left:
            poll.register(number, select.POLLRDHUP)
        until = time.monotonic() + seconds if seconds is not None else self._until
        while left and time.monotonic() < until:
            self.check()
            for number, _ in poll.poll(_TICK * 1000):
                poll.unregister(number)
                left.pop(number).cut()

    def hang_up(self) -> None:
        """Close all connections."""
        for line in self._lines:
            line.close()
        self._lines.clear()


Function = Callable[[Attacker], None]


def attack(function: Function, attacker: Attacker) -> None:
    """Run an attack repeatedly until the time is over."""
    with contextlib.suppress(Over):
        while True:
            attacker.check()
            cuts, connections = attacker.cuts, attacker.connections
            try:
                function(attacker)
            except Cut:
                if attacker.connections == connections or attacker.cuts == cuts:
                    time.sleep(_PAUSE)
            finally:
                attacker.hang_up()
