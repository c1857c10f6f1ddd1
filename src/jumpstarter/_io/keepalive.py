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

    __slots__ = ("_asked", "_connection", "_is_second_look", "_pinged")

    def __init__(self, connection: _Host) -> None:
        self._connection = connection
        self._asked = -math.inf  # when `is_alive` last sent a PING
        self._pinged: float | None = None  # when `look` sent the PING that is not answered yet
        self._is_second_look = False

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
        """Look after the peer until cancelled. A checkpoint."""
        while True:  # noqa: ASYNC110 - it sleeps until there is something to do
            await trio.sleep_until(self.look())

    def look(self) -> float:
        """Send a PING after a quiet `ping_interval`; end the connection if it is not answered.

        Returns:
            When to call this again, in seconds of `trio.current_time`.
        """
        if self._pinged is not None:
            return self._look_for_answer(self._pinged)
        connection, reader = self._connection, self._connection.reader
        now = trio.current_time()
        reader.catch_up()
        # No PING may precede HELLO, which has a limit of its own.
        if connection.rules.peer is None:
            reader.last_read = now
        limits = connection.rules.limits
        due = reader.last_read + limits.ping_interval
        if now < due:
            return due
        self._pinged = now
        with connection.lock:
            connection.rules.ping(b"alive???")
            connection.writer.flush()
        return now + limits.ping_timeout

    def _look_for_answer(self, pinged: float) -> float:
        connection, reader = self._connection, self._connection.reader
        now = trio.current_time()
        due = pinged + connection.rules.limits.ping_timeout
        if now < due:
            return due
        reader.catch_up()
        if reader.last_read >= pinged:
            self._pinged, self._is_second_look = None, False
            return self.look()
        if not self._is_second_look:
            self._is_second_look = True
            return now + SECOND_LOOK
        silence = round(now - reader.last_read)
        lost = ConnectionError(f"{connection.name} gave no sign of life for {silence} s")
        connection.log_end(lost)
        connection.end(lost)
        return math.inf
