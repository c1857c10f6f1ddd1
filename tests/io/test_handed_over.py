"""Tests of hand-overs of a connection between its threads and its loop, at points that they choose.

The locks are real, and so is everything that uses them. But after the n-th time that a connection's
lock was released, only the actor that the test has chosen may take it next, if it wants it soon.
"""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Final

import pytest
import trio

from drivers_for_tests import Echo, Lab
from helpers import PATIENCE, ask, channel_over
from jumpstarter import serve
from jumpstarter._exporter.led_connection import LedConnection
from jumpstarter._exporter.session import Session
from jumpstarter._io.connection import Connection
from jumpstarter._io.ownership import Reader
from jumpstarter.client import DriverClient
from transports import unix_pair

POINTS: Final = 40  # the lock is released about as often in one round of the test
SOON: Final = 0.05  # seconds that the chosen actor has; then any other one may take the lock


class Turnstile:
    """A lock that is handed to a chosen actor after its n-th release.

    Attributes:
        names: The actors, by the identifiers of their threads; any other thread is a "worker".
        releases: How often it was released since it was armed.
        handed: How often it went to the chosen actor.
    """

    def __init__(self, names: dict[int, str]) -> None:
        self.names = names
        self.releases = self.handed = 0
        self._at, self._next = 0, ""
        self._changed = threading.Condition()
        self._held = False
        self._chosen: str | None = None
        self._until = 0.0

    def arm(self, at: int, owner: str) -> None:
        """Hand it to this actor after so many releases."""
        with self._changed:
            self.releases, self._at, self._next, self._chosen = 0, at, owner, None

    def acquire(self) -> bool:
        me = self.names.get(threading.get_ident(), "worker")
        with self._changed:
            while self._held or self._chosen not in (None, me):
                left = None if self._chosen is None else self._until - time.monotonic()
                if left is not None and left <= 0:
                    self._chosen = left = None
                    continue
                self._changed.wait(left)
            self.handed += self._chosen is not None
            self._chosen, self._held = None, True
            self._changed.notify_all()
        return True

    def release(self) -> None:
        with self._changed:
            self._held = False
            self.releases += 1
            if self.releases == self._at:
                self._chosen, self._until = self._next, time.monotonic() + SOON
            self._changed.notify_all()

    def locked(self) -> bool:
        return self._held

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


@contextmanager
def connected(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[DriverClient, LedConnection]]:
    """Yield a client with a watch, and the exporter's connection to it."""
    made: list[LedConnection] = []

    def make(*args: Any, **options: Any) -> LedConnection:
        made.append(LedConnection(*args, **options))
        return made[-1]

    monkeypatch.setattr(Session, "_connection_class", staticmethod(make))
    with serve(Echo()) as client, client.timeout(PATIENCE):
        for number in range(3):  # the first calls make the watches
            assert client.call("echo", number) == number
        yield client, made[0]


def install(connection: Connection, turnstile: Turnstile) -> None:
    """Let a connection use a turnstile as its lock. In its loop, when nothing is under way."""
    connection.lock = connection.ownership.lock = turnstile  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("side", "owner"),
    [
        ("client", "first"),
        ("client", "second"),
        ("client", "loop"),
        ("exporter", "loop"),
        ("exporter", "worker"),
    ],
)
def test_the_lock_goes_to_each_actor_at_each_point_where_it_is_released(
    side: str, owner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        connected(monkeypatch) as (client, of_exporter),
        client.stream() as stream,
        ThreadPoolExecutor(1) as first,
        ThreadPoolExecutor(1) as second,
    ):
        names = {
            first.submit(threading.get_ident).result(PATIENCE): "first",
            second.submit(threading.get_ident).result(PATIENCE): "second",
        }
        connection = client.channel.channel.connection
        turnstile = Turnstile(names)
        portal = client.portal
        assert portal is not None
        names[portal.call(threading.get_ident)] = "loop"
        portal.call(install, connection if side == "client" else of_exporter, turnstile)

        def ping(data: bytes) -> None:
            stream.send(data)
            received = b""
            while len(received) < len(data):
                received += stream.receive()
            assert received == data

        def call(number: int) -> object:
            assert list(client.streamingcall("count", 3)) == [0, 1, 2]
            return [client.call("echo", number) for _ in range(5)]

        releases = 0
        for at in range(1, POINTS + 1):
            turnstile.arm(at, owner)
            with client.timeout(PATIENCE):
                work: list[Future[Any]] = [
                    first.submit(call, at),
                    second.submit(ping, b"%d" % at),
                    portal.start_task_soon(client.call_async, "echo_async", -at),
                ]
                values = [each.result(PATIENCE) for each in work]
            assert values == [[at] * 5, None, -at]
            assert connection.ownership.reader in (Reader.LOOP, Reader.TASK)
            releases = max(releases, turnstile.releases)
    assert releases > 5
    assert turnstile.handed > 0


def owners_of(coroutine: Any) -> Iterator[object]:
    """Yield the objects whose methods a task is in."""
    while (frame := getattr(coroutine, "cr_frame", None)) is not None:
        yield frame.f_locals.get("self")
        coroutine = coroutine.cr_await


async def test_the_loop_does_not_read_beside_a_thread_when_it_gets_its_watch() -> None:
    """Make the watch, and let a thread take the role, after the read task was woken by bytes."""
    async with channel_over(await unix_pair(), Lab()) as channel:
        connection = channel.connection
        ownership = connection.ownership
        led: list[bool] = []

        def take_role() -> None:
            ownership.acquire()
            led.append(ownership.take_role())
            ownership.release()

        class Waker(trio.abc.Instrument):
            def before_task_step(self, task: trio.lowlevel.Task) -> None:
                if led or connection not in owners_of(task.coro):
                    return
                if select.select([ownership._fd], [], [], 0)[0]:
                    ownership.watch_socket()
                    thread = threading.Thread(target=take_role)
                    thread.start()
                    thread.join(PATIENCE)

        waker = Waker()
        trio.lowlevel.add_instrument(waker)
        assert await channel.call(ask("echo", 1)) == 1
        trio.lowlevel.remove_instrument(waker)
        assert led == [False]
        assert await channel.call(ask("echo", 2)) == 2
        assert ownership.watch is not None
