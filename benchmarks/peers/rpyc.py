"""The ends of RPyC, with a thread for each connection."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from typing import Any

import rpyc
from rpyc.utils.authenticators import SSLAuthenticator
from rpyc.utils.factory import ssl_connect, unix_connect
from rpyc.utils.server import ThreadedServer

from ..certificates import address_at, certificate_of, leave_address, make_certificate
from ..loops import repeat, repeat_from_threads, repeat_timed
from ..payloads import VALUE
from ..worker import ready, rounds
from .common import serve_in_thread

__all__ = [
    "call",
    "call_over_tls",
    "call_timed",
    "calls_from_threads",
    "generator",
    "serve",
    "serve_tls",
    "set_up",
]


class _Bench(rpyc.Service):
    def exposed_echo(self, value: bytes) -> bytes:
        return value

    def exposed_items(self, count: int) -> Iterator[bytes]:
        for _ in range(count):
            yield VALUE


def serve(path: str) -> None:
    serve_in_thread(path, ThreadedServer(_Bench(), socket_path=path).start)


def serve_tls(path: str) -> None:
    certificate, key = make_certificate(path)
    server = ThreadedServer(
        _Bench(), hostname="localhost", port=0, authenticator=SSLAuthenticator(key, certificate)
    )
    threading.Thread(target=server.start, daemon=True).start()
    leave_address(path, str(server.port))
    ready()
    sys.stdin.read()


def _connect(path: str) -> Any:
    return unix_connect(path)


def call(path: str) -> None:
    with _connect(path) as connection:
        echo = connection.root.echo  # the lookup makes remote calls itself
        repeat(lambda: echo(VALUE))


def call_over_tls(path: str) -> None:
    port = int(address_at(path))
    with ssl_connect("localhost", port, ca_certs=certificate_of(path)) as connection:
        echo = connection.root.echo
        repeat(lambda: echo(VALUE))


def call_timed(path: str, beside: str) -> None:
    with _connect(path) as connection:
        echo = connection.root.echo
        repeat_timed(lambda: echo(VALUE), beside)


def calls_from_threads(path: str, threads: str) -> None:
    with _connect(path) as connection:
        echo = connection.root.echo
        repeat_from_threads(lambda: echo(VALUE), int(threads))


def generator(path: str) -> None:
    with _connect(path) as connection:
        for count in rounds():
            for _ in connection.root.items(count):
                pass


def set_up(path: str) -> None:
    def connect_and_call() -> None:
        with _connect(path) as connection:
            connection.root.echo(VALUE)

    repeat(connect_and_call)
