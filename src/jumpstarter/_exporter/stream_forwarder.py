"""Forward bytes between a client's raw stream and the stream that a driver yields.

Both directions are independent. A driver may yield a Trio stream or an anyio stream. If it has no
`send_eof`, the client's half-close is not passed on, and the other direction stays open. anyio is
not imported unless the driver has done so.

    state of the client's half   next
    IDLE                         FORWARDING, in `arrived`, when the client has sent something
    FORWARDING                   IDLE, when all was sent and little has come so far; ENDED, at the
                                 client's half-close; FAILED, when the device raises
    ENDED, FAILED                -

    state of the device's half   next
    FORWARDING                   ENDED, at the device's end, or when the client closes; FAILED
    ENDED, FAILED                -

The call's own task owns the device's half, and a second task the client's half. `run` returns when
both have ended or one has failed. If the device takes no more, it has a second for its last words.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable
from typing import Any, Final, Protocol

import trio

from .._io.byte_stream import SlotStream
from .._io.ownership import SharedWakeup
from .._util.writes import check_sent

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["Device", "StreamForwarder", "as_bytes", "device_stream"]

_UP_TASK: Final = f"{__name__}.StreamForwarder._carry_up"
# Seconds for what a device still says when it takes no more: a server that refuses a request says
# why, and closes.
_LAST_WORDS: Final = 1.0
_MANY: Final = 16  # chunks from the client after which the second task stays


class Device(Protocol):
    """The driver's stream, as far as a forwarder needs it."""

    def receive(self) -> Awaitable[Any]:
        """Receive the next bytes, in any buffer; an empty one is the end."""

    async def send(self, data: bytes) -> None:
        """Send bytes."""

    async def send_eof(self) -> None:
        """Pass on the client's half-close, if the stream supports it."""


def as_bytes(data: Any) -> bytes:
    """Copy any buffer. `bytes(data)` would also accept a number, as so many zeros, and a list."""
    if type(data) is bytes:
        return data
    try:
        return bytes(memoryview(data))
    except TypeError:
        text = f"a driver's stream must give a bytes-like object, and gave {type(data).__name__}"
        raise TypeError(text) from None


def _check_sent(answer: object, data: bytes, stream: object, method: str) -> None:
    """Raise if a stream's method says that it sent less, as the `send` of a socket may."""
    check_sent(answer, len(data), f"{type(stream).__name__}.{method}() of the driver's stream")


class _TrioDevice:
    __slots__ = ("_stream",)

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def receive(self) -> Awaitable[Any]:  # not `async`: another coroutine costs memory as it waits
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
        # If anyio was not imported, the stream cannot raise its EndOfStream.
        anyio = sys.modules.get("anyio")
        self._end: tuple[type[BaseException], ...] = () if anyio is None else (anyio.EndOfStream,)

    async def receive(self) -> bytes:
        try:
            # anyio reports the end by an exception. The caller would mistake empty bytes for the
            # end.
            while not (data := as_bytes(await self._stream.receive())):
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
    """Adapt the stream that an `exportstream` method has yielded.

    Raises:
        TypeError: It is neither a Trio stream nor an anyio stream.
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
    """Forward the bytes of one stream until both directions have ended, or one has failed.

    The call's own task waits for the device. A second task, in the same nursery, forwards the
    client's bytes. It exists only while there are any, so that an idle stream costs one task; after
    `_MANY` chunks it stays.
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

    def __init__(self, client: SlotStream, changed: SharedWakeup) -> None:
        self._client = client
        self._device: Device  # set by `run`
        self._task: trio.lowlevel.Task | None = None  # the call's, while the second may be started
        self._down = trio.CancelScope()
        self._up: trio.CancelScope | None = None  # of the second task, while there is one
        self._carried = 0  # chunks from the client
        self._up_ended = False
        self._changed = changed  # wakes the call's task, which checks the two above
        self._failure: BaseException | None = None

    @property
    def closed(self) -> bool:
        """True once the client has closed its side, and will read nothing more."""
        return self._down.cancel_called

    @property
    def carried(self) -> int:
        """The number of chunks that the device has taken from the client."""
        return self._carried

    @property
    def waits_for_device(self) -> bool:
        """True while the client has sent bytes that the device has not taken."""
        return bool(self._client.pending)

    def client_closed(self) -> None:
        """Stop reading the device. Bytes sent by the client are still delivered. Synchronous."""
        self._down.cancel()

    def arrived(self) -> None:
        """Start the second task if the client has sent something. Synchronous."""
        task = self._task
        if self._failure is not None:
            return
        if self._up is None and task is not None and self._client.pending:
            if task is trio.lowlevel.current_task():
                self._begin_up(task)
            else:  # in the reader's task: give it the context variables of the driver's code
                task.context.run(self._begin_up, task)

    def _begin_up(self, task: trio.lowlevel.Task) -> None:
        # Shielded: the call's task ends it (`_end_up`). Only that one is inside the cancel scopes
        # that the driver may have around its `yield`.
        self._up = trio.CancelScope(shield=True)
        assert task.parent_nursery is not None
        task.parent_nursery.start_soon(self._carry_up, self._up, name=_UP_TASK)

    async def run(self, device: Device) -> None:
        """Forward bytes. A checkpoint.

        Raises:
            Exception: The first one that the device's stream raised, in either direction.
        """
        self._device, self._task = device, trio.lowlevel.current_task()
        try:
            self.arrived()
            with self._down:
                while data := as_bytes(await device.receive()):
                    await self._client.send_all(data)
                    del data  # free it before waiting for the next
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
        except BaseException as exc:  # noqa: BLE001 - `run` raises it in the call's task
            self._failure = self._failure or exc
            if isinstance(exc, Exception):
                self._down.deadline = trio.current_time() + _LAST_WORDS
            else:
                self._down.cancel()
        self._up = None
        self._changed.set_with_lock()

    async def _to_device(self, device: Device) -> None:
        while self._carried >= _MANY or self._client.pending:
            data = await self._client.receive_some()
            if not data:
                await device.send_eof()
                self._up_ended, self._task = True, None
                return
            await device.send(data)
            del data
            self._carried += 1
