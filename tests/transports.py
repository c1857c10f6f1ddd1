"""Five ways to join two sides, for tests that must hold over all of them.

A maker gives a fresh pair of connected streams, `(client_stream, server_stream)`; whoever is given
the pair closes it. Two are the kernel's, three are in memory and find what the kernel's buffers
hide: `memory` never refuses a byte, `lockstep` buffers none, and `dripping` hands over one byte at
a time, so every frame is cut at every place.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import pytest
import trio
import trio.testing

__all__ = ["MAKERS", "DrippingStream", "Pair", "PairMaker", "over_every_transport"]

Pair = tuple[trio.abc.Stream, trio.abc.Stream]
PairMaker = Callable[[], Awaitable[Pair]]

_BYTE_BY_BYTE: Final = 4096  # bytes: more than any test of frames needs, and 50 ms worth of them
_BULK: Final = 251  # bytes at once after that; a prime, so that no size of ours divides it
_SENT_AT_ONCE: Final = 7


class DrippingStream(trio.abc.Stream):
    """Receives one byte at a time, and sends a few, with a checkpoint after each piece.

    After the first 4 KiB each way the pieces are larger, so that a test may send megabytes.
    """

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._received = 0
        self._sent = 0

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        del max_bytes
        size = 1 if self._received < _BYTE_BY_BYTE else _BULK
        data = await self._stream.receive_some(size)
        self._received += len(data)
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        rest = memoryview(data)
        while rest:
            size = _SENT_AT_ONCE if self._sent < _BYTE_BY_BYTE else _BULK
            await self._stream.send_all(rest[:size])
            self._sent += len(rest[:size])
            rest = rest[size:]

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()


async def unix_pair() -> Pair:
    ours, theirs = trio.socket.socketpair()
    return trio.SocketStream(ours), trio.SocketStream(theirs)


async def tcp_pair() -> Pair:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        return await trio.testing.open_stream_to_socket_listener(listener), await listener.accept()


async def memory_pair() -> Pair:
    return trio.testing.memory_stream_pair()


async def lockstep_pair() -> Pair:
    return trio.testing.lockstep_stream_pair()


async def dripping_pair() -> Pair:
    ours, theirs = trio.testing.memory_stream_pair()
    return DrippingStream(ours), DrippingStream(theirs)


MAKERS: Final[dict[str, PairMaker]] = {
    "unix": unix_pair,
    "tcp": tcp_pair,
    "memory": memory_pair,
    "lockstep": lockstep_pair,
    "dripping": dripping_pair,
}

over_every_transport = pytest.mark.parametrize("make_pair", MAKERS.values(), ids=MAKERS)
