"""Compare large transfers to and from a driver with a raw stream that carries the same bytes.

`python -m benchmarks.resources` prints a table: the rate of each transfer, and the peak growth of
both processes. Reads come from memory and writes go to the null device, so that the table does not
measure a disk. The exporter runs in its own process, over a Unix socket.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from jumpstarter import connect, serve_async
from jumpstarter.client import DriverClient
from jumpstarter.driver import Driver, export, exportstream
from jumpstarter.drivers.mixins import ResourceMixin

MIB = 1024 * 1024
PIECE = bytes(64 * 1024)
ZEROS = bytes(MIB // 2)


class _Counting(trio.abc.HalfCloseableStream):
    """A device that discards what it receives, and sends a given number of bytes."""

    def __init__(self, size: int) -> None:
        self._left = size

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        del data

    async def wait_send_all_might_not_block(self) -> None:
        pass

    async def send_eof(self) -> None:
        pass

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        del max_bytes
        piece = PIECE[: self._left]
        self._left -= len(piece)
        return piece

    async def aclose(self) -> None:
        pass


class _Zeros(io.RawIOBase):
    """A file with a given number of zeros."""

    def __init__(self, size: int) -> None:
        self._left = size

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        count = min(size, len(ZEROS), self._left)
        self._left -= count
        return ZEROS[:count]


class Storage(Driver):
    """Discards the bytes that it receives, and sends zeros."""

    @classmethod
    def client(cls) -> str:
        """Return the dotted name of the client class."""
        return "benchmarks.resources.StorageClient"

    @export
    async def read(self, handle: str) -> int:
        """Read a resource to its end. Returns the number of bytes."""
        count = 0
        async with self.resource(handle) as stream:
            async for data in stream:
                count += len(data)
        return count

    @export
    async def write(self, handle: str, size: int) -> None:
        """Write `size` zeros to a resource."""
        async with self.resource(handle) as stream:
            for _ in range(size // len(PIECE)):
                await stream.send_all(PIECE)

    @exportstream
    @asynccontextmanager
    async def connect(self, size: int) -> AsyncIterator[trio.abc.Stream]:
        """Open a stream that sends `size` zeros, and discards what it receives."""
        yield _Counting(size)

    @export
    def peak(self) -> int:
        """Return this process's peak memory since the previous call, in KiB."""
        return peak()


class StorageClient(ResourceMixin, DriverClient):
    """Runs each kind of transfer."""

    def send_raw(self, size: int) -> None:
        """Send `size` bytes through a raw stream."""
        assert self.portal is not None
        self.portal.call(self._send_raw, size)

    async def _send_raw(self, size: int) -> None:
        async with self.stream_async("connect", 0) as stream:
            for _ in range(size // len(PIECE)):
                await stream.send_all(PIECE)

    def receive_raw(self, size: int) -> None:
        """Receive `size` bytes through a raw stream."""
        assert self.portal is not None
        self.portal.call(self._receive_raw, size)

    async def _receive_raw(self, size: int) -> None:
        async with self.stream_async("connect", size) as stream:
            async for _ in stream:
                pass

    def lend_to_read(self, size: int) -> None:
        """Lend the driver a blocking stream, from which it reads `size` bytes."""
        with self.resource(_Zeros(size), progress=False) as handle:
            assert self.call("read", handle) == size

    def lend_to_write(self, size: int) -> None:
        """Lend the driver a file, to which it writes `size` bytes."""
        with self.local_file("/dev/null", write=True, progress=False) as handle:
            self.call("write", handle, size)


def peak() -> int:
    """Return this process's peak memory since the previous call, in KiB."""
    status = Path("/proc/self/status").read_text()
    found = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    Path("/proc/self/clear_refs").write_text("5")
    return int(found.split()[1])


def measure(client: StorageClient, transfer: Callable[[int], None], size: int) -> list[float]:
    """Return the rate in MB/s, and the growth of the client's and exporter's processes in MiB."""
    transfer(16 * MIB)
    before = peak(), client.call("peak")
    start = time.perf_counter()
    transfer(size)
    rate = size / 1e6 / (time.perf_counter() - start)
    after = peak(), client.call("peak")
    return [rate, *((now - then) / 1024 for now, then in zip(after, before, strict=True))]


async def run_exporter(path: str) -> None:
    """Serve until the parent closes this process's standard input."""
    async with serve_async(Storage(), f"unix:{path}"):
        print("ready", flush=True)
        await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)


def run_client(path: str, size: int) -> None:
    """Run each transfer, and print the table."""
    with connect(f"unix:{path}", allow=["benchmarks.*"]) as client:
        assert isinstance(client, StorageClient)
        print(f"{size // MIB} MiB           MB/s  client MiB  exporter MiB")
        for transfer in (
            client.send_raw,
            client.lend_to_read,
            client.receive_raw,
            client.lend_to_write,
        ):
            rate, ours, theirs = measure(client, transfer, size)
            print(f"{transfer.__name__:<14} {rate:>9.0f} {ours:>11.1f} {theirs:>13.1f}", flush=True)


def main() -> None:
    """Run the exporter only, or the client with a new exporter process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=4096, help="size of each transfer")
    parser.add_argument("--exporter", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.exporter:
        trio.run(run_exporter, options.exporter)
        return
    with tempfile.TemporaryDirectory() as directory:
        path = f"{directory}/socket"
        command = [sys.executable, "-m", "benchmarks.resources", "--exporter", path]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe) as exporter:
            assert exporter.stdin is not None
            assert exporter.stdout is not None
            exporter.stdout.readline()
            run_client(path, options.mib * MIB)
            exporter.stdin.close()


if __name__ == "__main__":
    main()
