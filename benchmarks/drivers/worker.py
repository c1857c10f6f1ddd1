"""Run each workload once, with an exporter in another process, and print a JSON object of rates.

The first argument is the lane of the exporter's drivers: trio, asyncio, or published for that core.
The second one is how many seconds a workload takes.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from .bench import STREAM

EXPORTER: Final = "benchmarks.drivers.exporter"
ITEMS: Final = 1000  # items of a generator
PIECE: Final = bytes(64 * 1024)  # what a test sends in one go
FILE: Final = 64 << 20  # bytes of a transfer through opendal


def rate(seconds: float, work: Callable[[], float]) -> float:
    """Repeat work for some time, and return how much of it was done per second."""
    work()  # warms up
    done, started = 0.0, time.perf_counter()
    while (passed := time.perf_counter() - started) < seconds:
        done += work()
    return done / passed


def download(client: Any) -> float:
    read = 0
    with client.stream("download") as stream:
        while read < STREAM:
            read += len(stream.receive())
    return read / 1e6


def upload(client: Any) -> float:
    with client.stream("upload") as stream:
        for _ in range(STREAM // len(PIECE)):
            stream.send(PIECE)
        assert stream.receive() == b"done"
    return STREAM / 1e6


def calls(client: Any, method: str) -> float:
    for _ in range(50):
        client.call(method)
    return 50


def items(client: Any) -> float:
    return sum(1 for _ in client.streamingcall("items", ITEMS))


def of_bench(client: Any, seconds: float) -> dict[str, float]:
    return {
        "async calls/s": rate(seconds, lambda: calls(client, "nothing")),
        "plain calls/s": rate(seconds, lambda: calls(client, "nothing_plain")),
        "generator items/s": rate(seconds, lambda: items(client)),
        "stream to the client, MB/s": rate(seconds, lambda: download(client)),
        "stream to the driver, MB/s": rate(seconds, lambda: upload(client)),
    }


def of_opendal(client: Any, directory: Path, seconds: float) -> dict[str, float]:
    (directory / "image").write_bytes(bytes(FILE))

    def exists() -> float:
        for _ in range(20):
            client.exists("image")
        return 20

    def write() -> float:
        client.write_from_path("copy", directory / "image")
        return FILE / 1e6

    def read() -> float:
        client.read_into_path("image", directory / "back")
        return FILE / 1e6

    return {
        "opendal exists, calls/s": rate(seconds, exists),
        "opendal write, MB/s": rate(seconds, write),
        "opendal read, MB/s": rate(seconds, read),
    }


@contextmanager
def connected(lane: str, path: str) -> Iterator[Any]:
    """Connect by the core of this environment."""
    if lane != "published":
        from jumpstarter import connect  # noqa: PLC0415 - the published core has none

        with connect(f"unix:{path}") as client:
            yield client
        return
    from anyio.from_thread import start_blocking_portal  # noqa: PLC0415

    from jumpstarter.client import client_from_path  # noqa: PLC0415

    with start_blocking_portal() as portal, ExitStack() as stack:
        connecting = client_from_path(path, portal, stack, allow=[], unsafe=True)
        with portal.wrap_async_context_manager(connecting) as client:
            yield client


def main() -> None:
    lane, seconds = sys.argv[1], float(sys.argv[2])
    with tempfile.TemporaryDirectory() as name:
        path = f"{name}/socket"
        with subprocess.Popen(
            [sys.executable, "-m", EXPORTER, lane, name, path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            with connected(lane, path) as client:
                figures = of_bench(client.bench, seconds)
                if lane != "trio":
                    figures |= of_opendal(client.files, Path(name), seconds)
            process.communicate()
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
