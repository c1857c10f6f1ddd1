"""Run exporters of a ledger in forks of this process, so that two hundred of them start quickly.

This process never waits for the exporters, so no process id is used twice while it runs: a late
signal reaches a dead exporter and no other process. The script reads lines of `SOCKET LEDGER` on
stdin and answers each with the process id of an exporter that is ready. test_ledger.py runs it;
with the argument `asyncio`, the driver's async code runs in the asyncio lane.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio
import trio.testing

from jumpstarter import serve_async
from jumpstarter.driver import Driver, export, exportstream

GRACE = 5.0  # seconds that a drain allows running calls


@dataclass(kw_only=True)
class Ledger(Driver):
    """A driver that records every operation before it answers.

    Attributes:
        path: The file; each line is the id of an operation.
    """

    path: str

    def __post_init__(self) -> None:
        super().__post_init__()
        self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND)

    @classmethod
    def client(cls) -> str:
        return "jumpstarter.client.DriverClient"

    def _write(self, operation: str) -> None:
        os.write(self._file, f"{operation}\n".encode())

    @export
    async def note(self, operation: str) -> str:
        self._write(operation)
        await trio.lowlevel.checkpoint()
        return operation

    @export
    def note_in_thread(self, operation: str) -> str:
        self._write(operation)
        return operation

    @export
    async def note_items(self, operation: str, count: int) -> AsyncGenerator[str, None]:
        for number in range(count):
            self._write(f"{operation}.{number}")
            yield f"{operation}.{number}"

    @exportstream
    @asynccontextmanager
    async def note_stream(self) -> AsyncIterator[trio.abc.Stream]:
        """Receive each operation as a line, record it, and send the line back."""
        ours, theirs = trio.testing.memory_stream_pair()

        async def note() -> None:
            rest = b""
            async for data in ours:
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    self._write(line.decode())
                    await ours.send_all(line + b"\n")
            await ours.send_eof()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(note)
            yield theirs
            nursery.cancel_scope.cancel()


async def serve(socket: str, driver: Driver, ready: int) -> None:
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with serve_async(driver, f"unix:{socket}") as server:
            os.write(ready, b"!")
            async for _ in signals:
                await server.drain(GRACE)
                return


def main() -> None:
    kind: type[Ledger] = Ledger
    if "asyncio" in sys.argv:
        sys.modules["script_ledger"] = sys.modules["__main__"]  # so that there is one `Ledger`
        import driver_ledger_asyncio  # noqa: PLC0415 - it imports this module

        kind = driver_ledger_asyncio.Ledger
    for line in sys.stdin:
        socket, ledger = line.split()
        wait, ready = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(wait)
            trio.run(serve, socket, kind(path=ledger), ready)
            os._exit(0)
        os.close(ready)
        assert os.read(wait, 1) == b"!"
        os.close(wait)
        print(child, flush=True)


if __name__ == "__main__":
    main()
