"""The ends of Pyro5, with msgpack: the default serializer would send bytes as base64."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from Pyro5.api import Daemon, Proxy, config, expose

from ..loops import repeat
from ..payloads import VALUE
from ..worker import rounds
from .common import serve_in_thread

__all__ = ["Bench", "call", "generator", "serve", "set_up"]

config.SERIALIZER = "msgpack"


@expose
class Bench:
    def echo(self, value: bytes) -> bytes:
        return value

    def items(self, count: int) -> Iterator[bytes]:
        for _ in range(count):
            yield VALUE


def serve(path: str) -> None:
    daemon = Daemon(unixsocket=path)
    daemon.register(Bench(), "bench")
    serve_in_thread(path, daemon.requestLoop)


def _connect(path: str) -> Any:
    return Proxy(f"PYRO:bench@./u:{path}")


def call(path: str) -> None:
    with _connect(path) as bench:
        repeat(lambda: bench.echo(VALUE))


def generator(path: str) -> None:
    with _connect(path) as bench:
        for count in rounds():
            for _ in bench.items(count):
                pass


def set_up(path: str) -> None:
    def connect_and_call() -> None:
        with _connect(path) as bench:
            bench.echo(VALUE)

    repeat(connect_and_call)
