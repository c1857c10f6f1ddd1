"""The driver under attack, and the constants that attacks share with it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import trio

from drivers_for_tests import Echo
from jumpstarter.driver import export, exportstream

__all__ = ["BAD_RESULTS", "TEXTS", "Victim"]

_circle: Final[list[Any]] = []
_circle.append(_circle)

BAD_RESULTS: Final[dict[str, Any]] = {
    "too large an int": 2**64,
    "complex": 1j,
    "a circle": _circle,
    "a surrogate": "\ud800",
    "an object": object(),
    "a class": Echo,
    "an iterator": iter(()),
    "a map of odd keys": {(1, 2): 3, None: 4},
}

TEXTS: Final = (
    "two\nlines",
    "\x1b[31mred\x1b[2J",
    "\u202eright to left\u202c",
    "carriage\rreturn",
    "nul\0byte",
    "%s%n{0}{secret}",
)


class _Full(trio.abc.Stream):
    """A device that neither returns nor accepts nor buffers bytes."""

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        del max_bytes
        await trio.sleep_forever()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        del data
        await trio.sleep_forever()

    async def wait_send_all_might_not_block(self) -> None:
        await trio.sleep_forever()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


class Victim(Echo):
    """A driver with methods that an attacker can call, and members that it must not reach."""

    @export
    async def hold(self) -> None:
        """Never return."""
        await trio.sleep_forever()

    @export
    async def echo_size(self, value: Any) -> int:
        """Take a large value, and return a small one."""
        return len(value) if isinstance(value, str | bytes | list | dict) else 0

    @export
    async def big(self, size: int) -> bytes:
        """Return `size` bytes."""
        return bytes(size)

    @export
    async def items(self, count: int, size: int) -> AsyncGenerator[bytes, None]:
        """Yield `count` items of `size` bytes each."""
        for _ in range(count):
            yield bytes(size)

    @exportstream
    @asynccontextmanager
    async def sink(self) -> AsyncIterator[trio.abc.Stream]:
        """Open a device that accepts no bytes."""
        yield _Full()

    @export
    async def fail(self, text: str) -> None:
        """Raise an exception with this text."""
        raise ValueError(text)

    @export
    async def bad_result(self, name: str) -> Any:
        """Return a value that cannot be sent."""
        return BAD_RESULTS[name]

    @property
    def secret(self) -> str:
        """End the process if a peer reaches this property."""
        raise SystemExit("a property was executed that a peer has named")

    async def not_exported(self) -> None:
        """End the process if a peer reaches this method."""
        raise SystemExit("a method was executed that is not exported")
