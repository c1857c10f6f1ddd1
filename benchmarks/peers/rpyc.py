"""The ends of RPyC, with a thread for each connection."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import rpyc
from rpyc.utils.factory import unix_connect
from rpyc.utils.server import ThreadedServer

from ..loops import repeat
from ..payloads import VALUE
from ..worker import rounds
from .common import serve_in_thread

__all__ = ["call", "generator", "serve", "set_up"]


class _Bench(rpyc.Service):
    def exposed_echo(self, value: bytes) -> bytes:
        return value

    def exposed_items(self, count: int) -> Iterator[bytes]:
        for _ in range(count):
            yield VALUE


def serve(path: str) -> None:
    serve_in_thread(path, ThreadedServer(_Bench(), socket_path=path).start)


def _connect(path: str) -> Any:
    return unix_connect(path)


def call(path: str) -> None:
    with _connect(path) as connection:
        echo = connection.root.echo  # the lookup makes remote calls itself
        repeat(lambda: echo(VALUE))


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
