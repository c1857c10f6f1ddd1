"""Keepalive: find out if a peer that has sent nothing for a while still answers.

Any byte that was read counts as a sign of life, so a PONG needs no handling of its own.
"""

from __future__ import annotations

import math
import threading
from typing import Protocol

import trio

from .._protocol.base import BaseProtocol
from .writer import Writer

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["Keepalive"]

_ANSWER_TIME = 1.0  # seconds for the peer to answer a PING of `is_alive`
SECOND_LOOK = 0.001  # seconds for the reader to find bytes that arrived while the loop was busy


class _Reading(Protocol):
    """The reading half of the connection, as far as keepalive needs it."""

    last_read: float

    def catch_up(self) -> None:
        """Take note of bytes that threads have read."""


class _Host(Protocol):
    """The connection, as far as keepalive needs it."""

    name: str
    rules: BaseProtocol
    writer: Writer
    lock: threading.Lock

    @property
    def reader(self) -> _Reading:
        """The reading half."""

    def log_end(self, reason: Exception) -> None:
        """Log why the connection ends."""

    def end(self, reason: Exception) -> None:
        """End the connection."""


class Keepalive:
    """Sends the PINGs of one connection, and ends it if the peer does not answer."""

    __slots__ = ("_asked", "_connection")

    def __init__(self, connection: _Host) -> None:
        self._connection = connection
        self._asked = -math.inf  # when `is_alive` last sent a PING

    async def is_alive(self) -> bool:
        """Send a PING if none is pending; return True if any byte arrives within a second.

        A checkpoint; cancelling it loses nothing. Concurrent callers share one PING or wait for the
        next one: at most one is sent per second, however many calls have reached their deadline.
        """
        connection, reader = self._connection, self._connection.reader
        since = trio.current_time()
        await trio.sleep_until(self._asked + _ANSWER_TIME)
        if self._asked < since:
            reader.catch_up()
            answered = reader.last_read >= self._asked
            self._asked = trio.current_time()
            if answered:  # otherwise the last PING still waits, and an answer to that one will do
                with connection.lock:
                    connection.rules.ping(b"deadline")
                    connection.writer.flush()
        asked = self._asked
        await trio.sleep_until(asked + _ANSWER_TIME)
        return await self._has_read_since(asked)

    async def _has_read_since(self, asked: float) -> bool:
        reader = self._connection.reader
        reader.catch_up()
        if reader.last_read < asked:
            await trio.sleep(SECOND_LOOK)
            reader.catch_up()
        return reader.last_read >= asked

    async def run(self) -> None:
        """Send a PING after each quiet `ping_interval`; end the connection if none is answered.

        Runs until cancelled, or until the peer is lost.
        """
        connection, reader = self._connection, self._connection.reader
        interval = connection.rules.limits.ping_interval
        timeout = connection.rules.limits.ping_timeout
        while True:
            await trio.sleep_until(reader.last_read + interval)
            reader.catch_up()
            # No PING may precede HELLO, which has a limit of its own.
            if connection.rules.peer is None:
                reader.last_read = trio.current_time()
            if trio.current_time() < reader.last_read + interval:
                continue
            asked = trio.current_time()
            with connection.lock:
                connection.rules.ping(b"alive???")
                connection.writer.flush()
            await trio.sleep(timeout)
            if not await self._has_read_since(asked):
                silence = round(trio.current_time() - reader.last_read)
                lost = ConnectionError(f"{connection.name} gave no sign of life for {silence} s")
                connection.log_end(lost)
                connection.end(lost)
                return
