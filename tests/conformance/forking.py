"""Start helper processes that outlive the process that forked them, in every way Python offers.

This module is not a test: the processes of test_forks.py import it. The exporter serves `Forking`.
Run as a program, the module is the client: python forking.py ADDRESS WAY [AUTHORITY]
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

LIFE = 200  # seconds that a helper lives unless it is killed
SLEEP = [sys.executable, "-c", f"import time; time.sleep({LIFE})"]
WAYS = ["os.fork", "multiprocessing", "pty.fork", "preexec_fn", "close_fds=False", "os.exec"]


def start_helper(way: str) -> int:
    """Start a helper, and return its process id."""
    match way:
        case "multiprocessing":
            context = multiprocessing.get_context("fork")
            helper = context.Process(target=time.sleep, args=(LIFE,), daemon=True)
            helper.start()
            return cast("int", helper.pid)
        case "preexec_fn":
            return subprocess.Popen(SLEEP, preexec_fn=os.getpid, close_fds=False).pid  # noqa: PLW1509 - yet another way to fork
        case "close_fds=False":
            return subprocess.Popen(SLEEP, close_fds=False).pid
        case "pty.fork":
            pid = pty.fork()[0]
        case _:
            pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the end of its terminal sends SIGHUP
        if way == "os.exec":
            os.execv(SLEEP[0], SLEEP)  # noqa: S606 - the forked child becomes this program
        time.sleep(LIFE)
        os._exit(0)
    return pid


class Forking(Driver):
    """A driver that starts helpers, from a thread and from a task of the loop."""

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
        """Begin to read the lent resource, and continue after `release`."""
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
    """A client that forwards ports and lends resources."""


def main(address: str, way: str, authority: str = "") -> None:
    """Forward two ports, start a helper, and hold a call."""
    context = ssl.create_default_context(cafile=authority) if authority else None
    with (
        connect(address, allow=["forking.*"], ssl_context=context) as client,
        client.portforward() as (_, port),
        client.portforward_unix() as path,
    ):
        print(port, path, flush=True)
        sys.stdin.readline()  # wait until the test has connected to both
        print(start_helper(way), flush=True)
        client.call("hold")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main(*sys.argv[1:])
