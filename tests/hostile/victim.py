"""The driver that is attacked, and what the attacks on it must know of it."""

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
    """A device that gives no bytes, takes none, and keeps none."""

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
    """Has what an attacker can ask for, and something that it cannot."""

    @export
    async def hold(self) -> None:
        """Never return."""
        await trio.sleep_forever()

    @export
    async def echo_size(self, value: Any) -> int:
        """Take a large value, and give a small one."""
        return len(value) if isinstance(value, str | bytes | list | dict) else 0

    @export
    async def big(self, size: int) -> bytes:
        """Give so many bytes."""
        return bytes(size)

    @export
    async def items(self, count: int, size: int) -> AsyncGenerator[bytes, None]:
        """Give so many items of so many bytes."""
        for _ in range(count):
            yield bytes(size)

    @exportstream
    @asynccontextmanager
    async def sink(self) -> AsyncIterator[trio.abc.Stream]:
        """Open a device that takes nothing."""
        yield _Full()

    @export
    async def fail(self, text: str) -> None:
        """Raise."""
        raise ValueError(text)

    @export
    async def bad_result(self, name: str) -> Any:
        """Return what cannot be sent."""
        return BAD_RESULTS[name]

    @property
    def secret(self) -> str:
        """End the process, if anybody gets here."""
        raise SystemExit("a property was executed that a peer has named")

    async def not_exported(self) -> None:
        """Raise, if anybody gets here."""
        raise SystemExit("a method was executed that is not exported")
