"""The `Ledger` driver of script_ledger.py with its async code written for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import script_ledger

from jumpstarter.driver import export, exportstream

__all__ = ["Ledger"]


class _Recorder:
    """A stream that records each line, and gives it back."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._rest = b""
        self._lines: asyncio.Queue[bytes] = asyncio.Queue()

    async def receive_some(self) -> bytes:
        return await self._lines.get()

    async def send_all(self, data: bytes) -> None:
        await asyncio.sleep(0)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._write(line.decode())
            self._lines.put_nowait(line + b"\n")

    async def send_eof(self) -> None:
        self._lines.put_nowait(b"")


class Ledger(script_ledger.Ledger):
    """A driver that records every operation before it answers."""

    @export
    async def note(self, operation: str) -> str:
        self._write(operation)
        await asyncio.sleep(0)
        return operation

    @export
    async def note_items(self, operation: str, count: int) -> AsyncGenerator[str, None]:
        for number in range(count):
            self._write(f"{operation}.{number}")
            yield f"{operation}.{number}"

    @exportstream
    @asynccontextmanager
    async def note_stream(self) -> AsyncIterator[Any]:
        """Receive each operation as a line, record it, and send the line back."""
        yield _Recorder(self._write)
