"""One attack's sockets, its time, and what is counted.

An attack is a function of an `Attacker`. It is called again and again until the time is over, each
time with all its connections hung up; who was cut off comes back that way. It need not look at the
clock: whatever waits here ends with `Over` in time, and with `Cut` where the server has hung up.

This file knows no protocol.
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

_TICK: Final = 0.05  # seconds; how late an attack may notice that its time is over
_CHUNK: Final = 256 * 1024
_PAUSE: Final = 0.002  # seconds before the next round of an attack that was refused at once


class Cut(Exception):
    """The server has hung up, or does not let us in."""


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
        """Whether the server has not hung up, as far as we know."""
        return self._alive

    def cut(self) -> Cut:
        """Note that the server has hung up."""
        if self._alive:
            self._alive = False
            self._attacker.cuts += 1
        return Cut()

    def send(self, data: bytes, frames: int = 1) -> None:
        """Send all of it, however long the server takes.

        Args:
            data: What.
            frames: How many it counts for, once it has left.
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
        """Send the same without end."""
        while True:
            self.send(data, frames)

    def drip(self, data: bytes, every: float) -> None:
        """Send it a byte at a time."""
        for byte in data:
            self.send(bytes((byte,)), 0)
            self._attacker.sleep(every)

    def receive(self, size: int = _CHUNK) -> bytes:
        """Read at least a byte."""
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
        """Read so many bytes."""
        data = b""
        while len(data) < size:
            data += self.receive(size - len(data))
        return data

    def drain(self) -> None:
        """Throw away what has come, without waiting."""
        while select.select([self.socket], [], [], 0)[0]:
            self.receive()

    def until_cut(self) -> None:
        """Throw away what comes, until the server hangs up."""
        with contextlib.suppress(Cut):
            while True:
                self.receive()

    def reset(self) -> None:
        """Hang up without a goodbye: what is under way is lost, and the server gets an error."""
        with contextlib.suppress(OSError):
            linger = struct.pack("ii", 1, 0)
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.close()

    def close(self) -> None:
        """Hang up."""
        self._alive = False
        self.socket.close()


class Attacker:
    """Whoever attacks.

    Args:
        address: Host and port.
        seconds: For how long.

    Attributes:
        frames: Frames, messages or requests that were sent whole, by what the attack is about.
        connections: That the server, or its system, has accepted.
        cuts: Of these, how many it has ended.
    """

    def __init__(self, address: tuple[str, int], seconds: float) -> None:
        self.address = address
        self.frames = 0
        self.connections = 0
        self.cuts = 0
        self._until = time.monotonic() + seconds
        self._lines: list[Line] = []

    def check(self) -> None:
        """Go on only if there is time left."""
        if time.monotonic() >= self._until:
            raise Over

    def sleep(self, seconds: float) -> None:
        """Wait for so long, or for the end."""
        time.sleep(max(0.0, min(seconds, self._until - time.monotonic())))
        self.check()

    def dial(self, receive_buffer: int | None = None) -> Line:
        """Connect.

        Args:
            receive_buffer: Bytes that the system takes for who does not read; about.
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
        """Connect so many times, or until the server lets no more in."""
        return list(self._dialled(count))

    def _dialled(self, count: int) -> Iterator[Line]:
        with contextlib.suppress(Cut):
            for _ in range(count):
                yield self.dial()

    def send_each(self, lines: Iterable[Line], data: bytes, frames: int = 1) -> None:
        """Send the same on all that are not cut."""
        for line in lines:
            if not line.alive:
                continue
            with contextlib.suppress(Cut):
                line.send(data, frames)

    def hold(self, seconds: float | None = None) -> None:
        """Keep all connections, without reading, until the server has cut the last of them.

        Args:
            seconds: At most.
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
        """End all connections."""
        for line in self._lines:
            line.close()
        self._lines.clear()


Function = Callable[[Attacker], None]


def attack(function: Function, attacker: Attacker) -> None:
    """Attack until the time is over."""
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
