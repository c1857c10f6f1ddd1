"""The floor of calls over TLS on loopback: bare bytes, as in `floors`."""

from __future__ import annotations

import functools
import socket
import ssl
from typing import Any

import trio

from .certificates import address_at, certificate_of, leave_address, make_certificate
from .ends import on_trio, stay
from .loops import repeat
from .payloads import MESSAGE

__all__ = ["blocking_ping_pong", "serve_echo"]

_READ = 64 * 1024  # bytes


async def _echo(stream: trio.abc.Stream) -> None:
    async for data in stream:
        await stream.send_all(data)


@on_trio
async def serve_echo(path: str) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*make_certificate(path))
    serve = functools.partial(
        trio.serve_ssl_over_tcp, _echo, 0, context, host="127.0.0.1", https_compatible=True
    )
    async with trio.open_nursery() as nursery:
        listeners: list[Any] = await nursery.start(serve)
        port = listeners[0].transport_listener.socket.getsockname()[1]
        leave_address(path, str(port))
        await stay()
        nursery.cancel_scope.cancel()


def blocking_ping_pong(path: str) -> None:
    context = ssl.create_default_context(cafile=certificate_of(path))
    address = "localhost", int(address_at(path))
    with (
        socket.create_connection(address) as bare,
        context.wrap_socket(bare, server_hostname="localhost") as sock,
    ):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def ping_pong() -> None:
            sock.sendall(MESSAGE)
            assert len(sock.recv(_READ)) == len(MESSAGE)

        repeat(ping_pong)
