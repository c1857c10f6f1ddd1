"""Between a client's raw stream and the one that a driver yields: bytes both ways, each half apart.

A driver may yield a Trio stream or an anyio one; what it cannot do, it is not asked for: a stream
without `send_eof` keeps its other direction when the client half-closes. Nothing of anyio is
imported unless the driver has imported it already.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import trio

from .._streams import SlotStream

__all__ = ["Bridge", "Device", "device_stream"]


class Device(Protocol):
    """What a bridge needs of the driver's stream."""

    async def receive(self) -> bytes:
        """Give the next bytes, `b""` at the end."""

    async def send(self, data: bytes) -> None:
        """Take bytes."""

    async def send_eof(self) -> None:
        """Take the end of the client's half, where the stream has such a thing."""


def _as_bytes(data: Any) -> bytes:
    """Copy any buffer; `bytes` alone would make zeros of a number, and take a list."""
    return data if type(data) is bytes else bytes(memoryview(data))


class _TrioDevice:
    def __init__(self, stream: Any) -> None:
        self._stream = stream

    async def receive(self) -> bytes:
        return _as_bytes(await self._stream.receive_some())

    async def send(self, data: bytes) -> None:
        await self._stream.send_all(data)

    async def send_eof(self) -> None:
        if hasattr(self._stream, "send_eof"):
            await self._stream.send_eof()


class _AnyioDevice:
    def __init__(self, stream: Any) -> None:
        self._stream = stream
        # Whoever made an anyio stream has imported anyio; with any other the name cannot be raised.
        anyio = sys.modules.get("anyio")
        self._end: tuple[type[BaseException], ...] = () if anyio is None else (anyio.EndOfStream,)

    async def receive(self) -> bytes:
        try:
            # An empty piece is no end here, and would be taken for one further on.
            while not (data := _as_bytes(await self._stream.receive())):
                pass
        except self._end:
            return b""
        return data

    async def send(self, data: bytes) -> None:
        await self._stream.send(data)

    async def send_eof(self) -> None:
        if hasattr(self._stream, "send_eof"):
            await self._stream.send_eof()


def device_stream(stream: object) -> Device:
    """Adapt what an `exportstream` method has yielded.

    Raises:
        TypeError: It is neither a Trio stream nor an anyio one.
    """
    if hasattr(stream, "receive_some") and hasattr(stream, "send_all"):
        return _TrioDevice(stream)
    if hasattr(stream, "receive") and hasattr(stream, "send"):
        return _AnyioDevice(stream)
    text = (
        f"an exportstream method must yield a Trio or an anyio stream, not {type(stream).__name__}"
    )
    raise TypeError(text)


class Bridge:
    """Carries the bytes of one open stream until both directions have ended, or either fails."""

    def __init__(self, client: SlotStream) -> None:
        self._client = client
        self._down = trio.CancelScope()
        self._failure: Exception | None = None

    @property
    def closed(self) -> bool:
        """True once the client reads no more."""
        return self._down.cancel_called

    def client_closed(self) -> None:
        """The client reads no more. What it has sent before is still delivered. Synchronous."""
        self._down.cancel()

    async def run(self, device: Device) -> None:
        """Carry bytes. A checkpoint.

        Raises:
            Exception: What the device's stream raised, in whichever direction came first.
        """
        async with trio.open_nursery() as nursery:
            for direction in (self._to_device, self._to_client):
                nursery.start_soon(self._guard, direction, device, nursery.cancel_scope)
        if self._failure is not None:
            raise self._failure

    async def _guard(
        self,
        direction: Callable[[Device], Awaitable[None]],
        device: Device,
        both: trio.CancelScope,
    ) -> None:
        try:
            await direction(device)
        except Exception as exc:  # noqa: BLE001 - raised again by `run`, alone and not in a group
            self._failure = self._failure or exc
            both.cancel()

    async def _to_device(self, device: Device) -> None:
        while data := await self._client.receive_some():
            await device.send(data)
        await device.send_eof()

    async def _to_client(self, device: Device) -> None:
        with self._down:
            while data := await device.receive():
                await self._client.send_all(data)
            await self._client.send_eof()
