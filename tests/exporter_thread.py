"""Serve a driver from a thread of the test's process, at an address that other code connects to."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import trio

from helpers import PATIENCE
from jumpstarter import serve_async
from jumpstarter.driver import Driver

__all__ = ["served_at"]


@contextmanager
def served_at(address: str, driver: Driver, **options: Any) -> Iterator[str]:
    """Serve a driver for the length of a block.

    Args:
        address: Where to listen.
        driver: The driver.
        options: Those of `serve_async`.

    Yields:
        The address, with the real port.
    """
    ready, done, found = threading.Event(), trio.Event(), list[Any]()

    async def main() -> None:
        async with serve_async(driver, address, **options) as server:
            found.extend([server.address, trio.lowlevel.current_trio_token()])
            ready.set()
            await done.wait()

    thread = threading.Thread(target=trio.run, args=(main,))
    thread.start()
    assert ready.wait(PATIENCE)
    try:
        yield found[0]
    finally:
        found[1].run_sync_soon(done.set)
        thread.join()
