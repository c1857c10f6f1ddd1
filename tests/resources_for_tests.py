"""A driver that uses what its client lends to it, in each way there is, and its client."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import trio

from jumpstarter.client import DriverClient
from jumpstarter.driver import Driver, export
from jumpstarter.drivers.mixins import ResourceMixin

__all__ = ["Library", "Reader"]


@dataclass(kw_only=True)
class Library(Driver):
    """Reads and writes resources.

    Attributes:
        opened: Is set when one of the methods that wait has opened its resource.
        let_go: What these wait for.
        failures: What reading has failed with.
    """

    opened: trio.Event = field(default_factory=trio.Event)
    let_go: trio.Event = field(default_factory=trio.Event)
    failures: list[BaseException] = field(default_factory=list)

    @classmethod
    def client(cls) -> str:
        return "resources_for_tests.Reader"

    @export
    async def read(self, handle: str, max_bytes: int = 2**40, pieces_of: int | None = None) -> str:
        """Give the digest of all there is."""
        digest = hashlib.sha256()
        async with self.resource(handle, max_bytes=max_bytes) as stream:
            while data := await stream.receive_some(pieces_of):
                digest.update(data)
        return digest.hexdigest()

    @export
    def read_in_thread(self, handle: str) -> str:
        with self.resource(handle) as file:
            trio.from_thread.run_sync(self.opened.set)
            return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]

    @export
    async def read_some(self, handle: str, count: int) -> bytes:
        """Read the beginning, and leave the rest."""
        async with self.resource(handle) as stream:
            return await stream.receive_some(count)

    @export
    async def read_slowly(self, handle: str) -> None:
        """Wait with the resource open, then read it all."""
        try:
            async with self.resource(handle) as stream:
                self.opened.set()
                await self.let_go.wait()
                async for _ in stream:
                    pass
        except BaseException as exc:
            self.failures.append(exc)
            raise

    @export
    async def write(self, handle: str, piece: bytes, times: int) -> None:
        async with self.resource(handle) as stream:
            for _ in range(times):
                await stream.send_all(piece)

    @export
    def write_in_thread(self, handle: str, piece: bytes, times: int) -> None:
        with self.resource(handle) as file:
            for _ in range(times):
                file.write(piece)

    @export
    async def write_and_fail(self, handle: str) -> None:
        async with self.resource(handle) as stream:
            await stream.send_all(b"the first half")
            raise OSError("the card has gone")

    @export
    def write_in_thread_and_fail(self, handle: str) -> None:
        with self.resource(handle) as file:
            file.write(b"the first half")
            raise OSError("the card has gone")

    @export
    async def write_and_hide_it(self, handle: str) -> str:
        """Fail within the block, and tell nobody."""
        try:
            await self.write_and_fail(handle)
        except OSError:
            return "all is well"
        raise AssertionError

    @export
    async def write_slowly(self, handle: str) -> None:
        """Write something, and wait before the rest."""
        async with self.resource(handle) as stream:
            await stream.send_all(b"one")
            self.opened.set()
            await self.let_go.wait()
            await stream.send_all(b"two")

    @export
    async def ignore(self, handle: Any) -> None:
        """Do nothing with it."""


class Reader(ResourceMixin, DriverClient):
    """Its client."""
