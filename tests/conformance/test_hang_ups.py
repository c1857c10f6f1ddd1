"""Tests of a forwarded port that cannot detect whether a program on another machine has quit.

A network namespace stands in for the other machine, and a pair of network devices for its cable.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest
import trio
import trio.testing
from test_lost_peers import Cable, cable, ip

from jumpstarter._io.forward import forward_to, listen_tcp

PATIENCE = 60.0  # seconds for a test; each takes a few


class Device:
    """A device that sends nothing.

    Attributes:
        opened: Set when its stream has opened.
        ended: Set when its stream has ended.
    """

    def __init__(self) -> None:
        self.opened, self.ended = trio.Event(), trio.Event()

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[trio.abc.HalfCloseableStream]:
        near, _ = trio.testing.memory_stream_pair()
        self.opened.set()
        try:
            yield near
        finally:
            self.ended.set()


@contextmanager
def program(link: Cable, port: int, script: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program at the cable's other end that connects to the port and then runs `script`."""
    connected = f"import socket, time\ns = socket.create_connection(({link.here!r}, {port}))\n"
    command = ["ip", "netns", "exec", link.namespace, sys.executable, "-c", connected + script]
    with subprocess.Popen(command) as process:
        try:
            yield process
        finally:
            process.kill()


async def test_a_program_elsewhere_that_has_ended_its_half_has_until_the_limit() -> None:
    device = Device()
    with trio.fail_after(PATIENCE), cable() as link:
        handler = forward_to(device.connect, quiet_limit=1.5)
        async with listen_tcp(handler, local_host=link.here) as (_, port):
            with program(link, port, "s.shutdown(1); time.sleep(60)"):
                await device.opened.wait()
                with trio.move_on_after(1):
                    await device.ended.wait()
                assert not device.ended.is_set()
                await device.ended.wait()


async def test_a_program_elsewhere_that_has_quit_frees_the_device_by_the_limit() -> None:
    device = Device()
    with trio.fail_after(PATIENCE), cable() as link:
        handler = forward_to(device.connect, quiet_limit=1)
        async with listen_tcp(handler, local_host=link.here) as (_, port):
            with program(link, port, "s.send(b'x'); s.close()"):
                await device.ended.wait()


async def test_a_program_whose_cable_was_pulled_frees_the_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    quick = {"TCP_KEEPIDLE": 1, "TCP_KEEPINTVL": 1, "TCP_KEEPCNT": 2}
    monkeypatch.setattr("jumpstarter._io.forward._KEEPALIVE", quick)
    device = Device()
    with trio.fail_after(PATIENCE), cable() as link:
        handler = forward_to(device.connect)
        async with listen_tcp(handler, local_host=link.here) as (_, port):
            with program(link, port, "time.sleep(60)"):
                await device.opened.wait()
                ip("link", "set", link.device, "down").check_returncode()
                await device.ended.wait()
