"""An exporter on a real socket that can break the protocol: the test sends every byte.

`helpers.ScriptedExporter` is the counterpart that obeys the protocol.
"""

from __future__ import annotations

import socket
import struct
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import trio

from jumpstarter._framing import FrameDecoder
from jumpstarter._limits import DEFAULT_LIMITS
from jumpstarter._protocol.codec import encode_error, encode_hello
from jumpstarter._protocol.frames import ErrorBody, FrameType, Hello
from jumpstarter._util.background import open_background
from wire import Frame, frame, payload, value

__all__ = [
    "REPORT",
    "RawExporter",
    "Script",
    "answering",
    "error",
    "hello",
    "in_parts",
    "listening",
    "node",
    "result",
]

_RST: Final = struct.pack("ii", 1, 0)  # SO_LINGER: on, with a time of 0
_PIECE: Final = 64 * 1024


def node(target: Any = 1, parent: Any = None, name: Any = "", **fields: Any) -> Any:
    """Return one driver of a report. A keyword replaces a field; `...` removes it."""
    whole: dict[str, Any] = {
        "target": target,
        "parent": parent,
        "name": name,
        "uuid": "6b7a2b1e-0000-4000-8000-000000000001",
        "labels": {},
        "client": "jumpstarter.client.DriverClient",
        "methods": {},
    }
    return {key: given for key, given in {**whole, **fields}.items() if given is not ...}


REPORT: Final = (node(),)


def hello(**changes: Any) -> bytes:
    """Return a HELLO frame. A keyword replaces a field."""
    fields = Hello.of(DEFAULT_LIMITS, agent="hostile")
    whole = {name: changes.get(name, getattr(fields, name)) for name in Hello.__struct_fields__}
    return frame(FrameType.HELLO, 0, encode_hello(Hello(**whole)))


def result(slot: int, content: Any = None) -> bytes:
    """Return a RESULT with a value that fits one frame."""
    return frame(FrameType.RESULT, slot, payload(value(content)))


def error(slot: int, code: int, body: ErrorBody) -> bytes:
    """Return an ERROR, in as many frames as it needs."""
    return in_parts(FrameType.ERROR, slot, payload(encode_error(code, body)))


def in_parts(type_: FrameType, slot: int, body: bytes) -> bytes:
    """Return a message of any size, in as many frames as it needs."""
    pieces = [body[start : start + _PIECE] for start in range(0, len(body), _PIECE)] or [b""]
    *first, last = pieces
    more = b"".join(frame(type_, slot, piece, 0x20) for piece in first)
    return more + frame(type_, slot, last)


class RawExporter:
    """The exporter's end of one connection."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._decoder = FrameDecoder(2**24 - 1)
        self._came: deque[Frame] = deque()

    async def next(self, type_: FrameType) -> Frame:
        """Wait for the client's next frame of this type, and drop other frames."""
        while True:
            while self._came:
                came = self._came.popleft()
                if came.type == type_:
                    return came
            data = await self.stream.receive_some()
            if not data:
                raise trio.BrokenResourceError("the client has hung up")
            self._came.extend(Frame(FrameType(f[0]), *f[1:]) for f in self._decoder.feed(data))

    async def say(self, *pieces: bytes) -> None:
        """Send bytes."""
        await self.stream.send_all(b"".join(pieces))

    async def greet(self, report: Sequence[Any] = REPORT, answer: bytes | None = None) -> None:
        """Exchange HELLOs and send the device tree, or answer the HELLO with other bytes."""
        await self.next(FrameType.HELLO)
        await self.say(answer if answer is not None else hello())
        asked = await self.next(FrameType.CALL)
        await self.say(in_parts(FrameType.RESULT, asked.slot, payload(value(report))))

    async def reset(self) -> None:
        """Reset the connection: the system sends RST and drops bytes not yet delivered."""
        self.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
        await self.stream.aclose()

    async def until_gone(self) -> None:
        """Read without answering until the client closes the connection."""
        async for _ in self.stream:
            pass


Script = Callable[[RawExporter], Awaitable[None]]


@asynccontextmanager
async def listening(script: Script) -> AsyncIterator[str]:
    """Listen on TCP, run the script for each connection, and yield the address.

    A connection that the script leaves open stays open until the client closes it.
    """

    async def serve(stream: trio.SocketStream) -> None:
        peer = RawExporter(stream)
        try:
            await script(peer)
            await peer.until_gone()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the script or the client closed it

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    async with open_background() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, listeners)
        yield f"tcp://127.0.0.1:{port}"


def answering(answer: Callable[[int], bytes]) -> Script:
    """Return a script that sends a valid HELLO, and answers each CALL with these bytes."""

    async def script(peer: RawExporter) -> None:
        await peer.greet()
        while True:
            await peer.say(answer((await peer.next(FrameType.CALL)).slot))

    return script
