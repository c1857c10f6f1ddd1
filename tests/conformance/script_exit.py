"""Exit while an operation is open. This is not a test: test_process_end.py runs it.

python script_exit.py WHAT [HOW]
"""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import trio

sys.path.insert(0, str(Path(__file__).parent.parent))

from drivers_for_tests import Echo
from jumpstarter import serve
from jumpstarter.client import DriverClient
from jumpstarter.driver import export


def say(line: object) -> None:
    """Write a line in one system call, because the driver's thread also writes lines."""
    os.write(1, f"{line}\n".encode())


class Slow(Echo):
    """A driver that runs forever or for a while, and reports its progress on stdout."""

    @export
    async def sleep(self) -> None:
        say("started")
        try:
            await trio.sleep_forever()
        finally:
            say("ended")

    @export
    def block(self) -> None:
        say("started")
        time.sleep(60)

    @export
    async def tick(self) -> AsyncGenerator[int, None]:
        try:
            for number in range(1_000_000):
                yield number
        finally:
            say("ended")


KEPT: list[object] = []  # keeps objects from being collected before the exit


def in_thread(function: Callable[..., Any], *args: object) -> None:
    threading.Thread(target=function, args=args, daemon=True).start()


def begin(client: DriverClient, what: str) -> object:
    """Begin an operation, and return the object that keeps it open, if any."""
    match what:
        case "call":
            in_thread(client.call, "sleep")
        case "blocking call":
            in_thread(client.call, "block")
        case "generator":
            items = client.streamingcall("tick")
            next(items)
            return items
        case "plain generator":
            items = client.streamingcall("count", 1_000_000)
            next(items)
            return items
        case "stream":
            stream = client.open_stream()
            stream.send(b"half a wor")
            return stream
    return None


def fork(client: DriverClient) -> None:
    """Use the client in a forked child, then again in the parent."""
    child = os.fork()
    if child == 0:
        try:
            client.call("echo", 1)
        except RuntimeError as exc:
            say(f"child: {exc}")
            os._exit(0)
        os._exit(1)
    status = os.waitpid(child, 0)[1]
    say(f"child exit {status}, parent {client.call('echo', 'still there')}")


def interrupted(client: DriverClient) -> None:
    """Wait in a call for Ctrl-C, then call again."""
    try:
        client.call("sleep")
    except KeyboardInterrupt:
        say("interrupted")
    say(client.call("echo", "and on"))


def collected(client: DriverClient) -> None:
    """Drop an unfinished generator in a reference cycle, so that only the collector finds it."""
    gc.disable()
    items: Any = client.streamingcall("tick")
    next(items)
    items.itself = items
    del items
    start = time.monotonic()
    gc.collect()
    say(f"collected in {time.monotonic() - start:.3f} s")
    time.sleep(1)


def main(what: str, how: str = "") -> None:
    manager = serve(Slow())
    client = manager.__enter__()  # exited only after the three functions above
    KEPT.append(begin(client, what))
    if what in {"fork", "interrupted", "collected"}:
        {"fork": fork, "interrupted": interrupted, "collected": collected}[what](client)
        manager.__exit__(None, None, None)
        return
    if what.endswith("call"):
        time.sleep(0.3)  # let the driver start; this process cannot observe it
    say(f"exiting {time.monotonic()}")
    if how == "exit":
        raise SystemExit(7)
    if how == "error":
        raise ValueError("the only thing")


if __name__ == "__main__":
    main(*sys.argv[1:])
