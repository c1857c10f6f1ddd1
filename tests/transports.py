"""Connect two sides in six ways, for tests that must pass over all of them.

A maker returns a new pair of connected streams, `(client_stream, server_stream)`; its caller closes
them. Two pairs are kernel sockets, and one is TLS over such. Three are in memory, and find mistakes
that the kernel's buffers hide: `memory` accepts any number of bytes, `lockstep` buffers none, and
`dripping` delivers one byte at a time, so every frame is split at every place.
"""

from __future__ import annotations

import functools
import ssl
from collections.abc import Awaitable, Callable
from typing import Final

import pytest
import trio
import trio.testing
import trustme

from jumpstarter._io.tls import TlsStream

__all__ = ["MAKERS", "DrippingStream", "Pair", "PairMaker", "over_every_transport"]

Pair = tuple[trio.abc.Stream, trio.abc.Stream]
PairMaker = Callable[[], Awaitable[Pair]]

_BYTE_BY_BYTE: Final = 4096  # bytes: more than any test of frames needs; they take 50 ms
_BULK: Final = 251  # bytes per read after that: a prime, which divides none of our sizes
_SEND_SIZE: Final = 7


class DrippingStream(trio.abc.Stream):
    """Receives one byte at a time, and sends a few, with a checkpoint after each chunk.

    After the first 4 KiB in each direction the chunks are larger, so that a test can send
    megabytes.
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
            size = _SEND_SIZE if self._sent < _BYTE_BY_BYTE else _BULK
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


@functools.cache
def tls_contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return contexts that all tests share: they leave them as they are."""
    return make_tls_contexts()


def make_tls_contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return a client's context, and one for a server at localhost that it trusts."""
    authority = trustme.CA()
    client = ssl.create_default_context()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.num_tickets = 0  # a client that closes without having read them resets the connection
    authority.configure_trust(client)
    authority.issue_cert("localhost").configure_cert(server)
    return client, server


async def tls_pair() -> Pair:
    """Connect over TLS. The client has shaken hands, and the server has as far as it needs to."""
    client_context, server_context = tls_contexts()
    ours, theirs = await unix_pair()
    client = TlsStream(ours, client_context, "localhost")
    server = TlsStream(theirs, server_context, server_side=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.do_handshake)
        nursery.start_soon(server.do_handshake)
    return client, server


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
    "tls": tls_pair,
    "memory": memory_pair,
    "lockstep": lockstep_pair,
    "dripping": dripping_pair,
}

over_every_transport = pytest.mark.parametrize("make_pair", MAKERS.values(), ids=MAKERS)
