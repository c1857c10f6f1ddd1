"""Starts helpers that outlive the process which has forked them, in each way that Python has.

Not a test: the processes of test_forks.py import it. The exporter serves `Forking`; and as
a program it is the client: python forking.py ADDRESS WAY [AUTHORITY]
"""

from __future__ import annotations

import multiprocessing
import os
import pty
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import trio
import trio.testing

from jumpstarter import connect
from jumpstarter.client import DriverClient
from jumpstarter.driver import Driver, export, exportstream
from jumpstarter.drivers.mixins import ResourceMixin, StreamMixin

LIFE = 60  # seconds that a helper lives, unless it is killed
SLEEP = [sys.executable, "-c", f"import time; time.sleep({LIFE})"]
WAYS = ["os.fork", "multiprocessing", "pty.fork", "preexec_fn", "close_fds=False", "os.exec"]


def start_helper(way: str) -> int:
    """Start a helper, and give its process id."""
    match way:
        case "multiprocessing":
            context = multiprocessing.get_context("fork")
            helper = context.Process(target=time.sleep, args=(LIFE,), daemon=True)
            helper.start()
            return cast("int", helper.pid)
        case "preexec_fn":
            return subprocess.Popen(SLEEP, preexec_fn=os.getpid, close_fds=False).pid  # noqa: PLW1509 - which forks in yet another way
        case "close_fds=False":
            return subprocess.Popen(SLEEP, close_fds=False).pid
        case "pty.fork":
            pid = pty.fork()[0]
        case _:
            pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # which the end of its terminal sends
        if way == "os.exec":
            os.execv(SLEEP[0], SLEEP)  # noqa: S606 - a program that a fork becomes
        time.sleep(LIFE)
        os._exit(0)
    return pid


class Forking(Driver):
    """Starts helpers, from a thread and from the loop's task."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.begun, self.released = trio.Event(), trio.Event()

    @classmethod
    def client(cls) -> str:
        return "forking.ForkingClient"

    @export
    def start(self, way: str) -> int:
        return start_helper(way)

    @export
    async def start_in_loop(self, way: str) -> int:
        return start_helper(way)

    @export
    def echo(self, value: object) -> object:
        return value

    @export
    async def hold_resource(self, handle: str) -> None:
        """Begin to read what was lent, and go on when told to."""
        async with self.resource(handle) as stream:
            await stream.receive_some()
            self.begun.set()
            await self.released.wait()
            async for _ in stream:
                pass

    @export
    async def until_begun(self) -> None:
        await self.begun.wait()

    @export
    async def release(self) -> None:
        self.released.set()

    @export
    async def hold(self) -> None:
        self.logger.info("hold begins")
        try:
            await trio.sleep_forever()
        finally:
            self.logger.info("hold has ended")

    @exportstream
    @asynccontextmanager
    async def connect(self) -> AsyncIterator[trio.abc.Stream]:
        ours, theirs = trio.testing.memory_stream_pair()
        async with ours:
            yield theirs


class ForkingClient(StreamMixin, ResourceMixin, DriverClient):
    """Has the ports."""


def main(address: str, way: str, authority: str = "") -> None:
    """Hold a call and two forwarded ports, and start a helper."""
    context = ssl.create_default_context(cafile=authority) if authority else None
    with (
        connect(address, allow=["forking.*"], ssl_context=context) as client,
        client.portforward() as (_, port),
        client.portforward_unix() as path,
    ):
        print(port, path, flush=True)
        sys.stdin.readline()  # the test has connected to both
        print(start_helper(way), flush=True)
        client.call("hold")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main(*sys.argv[1:])
