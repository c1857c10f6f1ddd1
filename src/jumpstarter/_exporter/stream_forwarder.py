"""Between a client's raw stream and the one that a driver yields: bytes both ways, each half apart.

A driver may yield a Trio stream or an anyio one; what it cannot do, it is not asked for: a stream
without `send_eof` keeps its other direction when the client half-closes. Nothing of anyio is
imported unless the driver has imported it already.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable
from typing import Any, Final, Protocol

import trio

from .._io.byte_stream import SlotStream
from .._util.wakeup import Wakeup
from .._util.writes import check_sent

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["Device", "StreamForwarder", "device_stream"]

_UP_TASK: Final = f"{__name__}.Bridge._carry_up"
_MUCH: Final = 16  # pieces from the client after which the task that carries them stays


class Device(Protocol):
    """What a bridge needs of the driver's stream."""

    def receive(self) -> Awaitable[Any]:
        """Give the next bytes, in any buffer, an empty one at the end."""

    async def send(self, data: bytes) -> None:
        """Take bytes."""

    async def send_eof(self) -> None:
        """Take the end of the client's half, where the stream has such a thing."""


def _as_bytes(data: Any) -> bytes:
    """Copy any buffer; `bytes` alone would make zeros of a number, and take a list."""
    if type(data) is bytes:
        return data
    try:
        return bytes(memoryview(data))
    except TypeError:
        text = f"a driver's stream must give a bytes-like object, and gave {type(data).__name__}"
        raise TypeError(text) from None


def _check_sent(answer: object, data: bytes, stream: object, method: str) -> None:
    """A stream that says how much it took, as a socket's `send` does, may have taken less."""
    check_sent(answer, len(data), f"{type(stream).__name__}.{method}() of the driver's stream")


class _TrioDevice:
    __slots__ = ("_stream",)

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def receive(self) -> Awaitable[Any]:  # no coroutine of ours, which would cost while it waits
        return self._stream.receive_some()  # type: ignore[no-any-return]  # of any driver's

    async def send(self, data: bytes) -> None:
        answer = await self._stream.send_all(data)
        if answer is not None:
            _check_sent(answer, data, self._stream, "send_all")

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
        answer = await self._stream.send(data)
        if answer is not None:
            _check_sent(answer, data, self._stream, "send")

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


class StreamForwarder:
    """Carries the bytes of one open stream until both directions have ended, or either fails.

    The call's own task waits for the device. What the client sends is carried by a second one,
    beside it in its nursery: that is there while there is something to carry, so a stream at rest
    costs one task and no nursery. Where it is begun again and again, it stays.
    """

    __slots__ = (
        "_carried",
        "_changed",
        "_client",
        "_device",
        "_down",
        "_failure",
        "_task",
        "_up",
        "_up_ended",
    )

    def __init__(self, client: SlotStream, changed: Wakeup) -> None:
        self._client = client
        self._device: Device  # once there is one
        self._task: trio.lowlevel.Task | None = None  # the call's own, while more may come
        self._down = trio.CancelScope()
        self._up: trio.CancelScope | None = None  # of the second task, while there is one
        self._carried = 0  # pieces from the client
        self._up_ended = False  # its half has
        self._changed = changed  # wakes the call's task, which looks what has
        self._failure: BaseException | None = None

    @property
    def closed(self) -> bool:
        """True once the client reads no more."""
        return self._down.cancel_called

    @property
    def carried(self) -> int:
        """Pieces that the device has taken from the client."""
        return self._carried

    @property
    def waits_for_device(self) -> bool:
        """True while the client has sent what the device has not taken."""
        return bool(self._client.pending)

    def client_closed(self) -> None:
        """The client reads no more. What it has sent before is still delivered. Synchronous."""
        self._down.cancel()

    def arrived(self) -> None:
        """Something may have come from the client. Synchronous."""
        task = self._task
        if self._up is None and task is not None and self._client.pending:
            if task is trio.lowlevel.current_task():
                self._begin_up(task)
            else:  # with the context variables that the driver's code has
                task.context.run(self._begin_up, task)

    def _begin_up(self, task: trio.lowlevel.Task) -> None:
        # Shielded, so that it ends when the call's task says so, which is where the driver's code
        # is: within the driver's own scopes, if there are any around its `yield`.
        self._up = trio.CancelScope(shield=True)
        assert task.parent_nursery is not None
        task.parent_nursery.start_soon(self._carry_up, self._up, name=_UP_TASK)

    async def run(self, device: Device) -> None:
        """Carry bytes. A checkpoint.

        Raises:
            Exception: What the device's stream raised, in whichever direction came first.
        """
        self._device, self._task = device, trio.lowlevel.current_task()
        try:
            self.arrived()
            with self._down:
                while data := _as_bytes(await device.receive()):
                    await self._client.send_all(data)
                    del data  # not to be held until the next one comes
                await self._client.send_eof()
            while not self._up_ended and self._failure is None:
                await self._changed.wait()
        except Exception as exc:  # noqa: BLE001 - raised again below, if it came first
            self._failure = self._failure or exc
        finally:
            self._task = None
            await self._end_up()
        if self._failure is not None:
            raise self._failure

    async def _end_up(self) -> None:
        if self._up is not None:
            self._up.cancel()
            with trio.CancelScope(shield=True):
                while self._up is not None:
                    await self._changed.wait()

    async def _carry_up(self, scope: trio.CancelScope) -> None:
        try:
            with scope:
                await self._to_device(self._device)
        except BaseException as exc:  # noqa: BLE001 - raised again by `run`, in the call's task
            self._failure = self._failure or exc
            self._down.cancel()
        self._up = None
        self._changed.set()

    async def _to_device(self, device: Device) -> None:
        while self._carried >= _MUCH or self._client.pending:
            data = await self._client.receive_some()
            if not data:
                await device.send_eof()
                self._up_ended, self._task = True, None
                return
            await device.send(data)
            del data
            self._carried += 1
