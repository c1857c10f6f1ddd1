"""The ends of grpcio in threads."""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.wrappers_pb2 import BytesValue

from ..certificates import address_at, certificate_of, leave_address
from ..loops import repeat, repeat_from_threads, repeat_timed
from ..payloads import CHATTER, PIECE, VALUE, chatter_every, decode_order, encode_order
from ..worker import ready, rounds
from .common import serve_in_thread
from .grpc_aio import NO_WALL, method, server_credentials
from .grpc_aio import serve as serve_aio
from .grpc_aio import serve_tls as serve_aio_tls

__all__ = [
    "call",
    "call_beside",
    "call_over_tls",
    "call_timed",
    "calls_from_threads",
    "generator",
    "serve",
    "serve_aio",
    "serve_aio_tls",
    "serve_tls",
    "set_up",
]


def _echo(request: Any, _context: Any) -> Any:
    return request


def _items(request: Any, _context: Any) -> Iterator[Any]:
    for _ in range(decode_order(request.value)):
        yield BytesValue(value=VALUE)


def _pieces(request: Any, _context: Any) -> Iterator[Any]:
    for _ in range(decode_order(request.value)):
        yield BytesValue(value=PIECE)


def _back(requests: Iterator[Any], _context: Any) -> Iterator[Any]:
    yield from requests


def _console(request: Any, _context: Any) -> Iterator[Any]:
    size = decode_order(request.value)
    due = time.monotonic()
    while True:
        due += chatter_every(size)
        time.sleep(max(0.0, due - time.monotonic()))
        yield BytesValue(value=bytes(size))


def _server() -> Any:
    codec = (BytesValue.FromString, BytesValue.SerializeToString)
    handlers = {
        "echo": grpc.unary_unary_rpc_method_handler(_echo, *codec),
        "items": grpc.unary_stream_rpc_method_handler(_items, *codec),
        "pieces": grpc.unary_stream_rpc_method_handler(_pieces, *codec),
        "back": grpc.stream_stream_rpc_method_handler(_back, *codec),
        "console": grpc.unary_stream_rpc_method_handler(_console, *codec),
    }
    server = grpc.server(ThreadPoolExecutor(), options=NO_WALL)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("Bench", handlers)])
    return server


def serve(path: str) -> None:
    server = _server()
    server.add_insecure_port(f"unix:{path}")
    server.start()
    serve_in_thread(path, server.wait_for_termination)


def serve_tls(path: str) -> None:
    server = _server()
    port = server.add_secure_port("localhost:0", server_credentials(path))
    server.start()
    leave_address(path, f"localhost:{port}")
    ready()
    sys.stdin.read()


def _connect(path: str) -> Any:
    return grpc.insecure_channel(f"unix:{path}", options=NO_WALL)


def call(path: str) -> None:
    with _connect(path) as channel:
        echo = method(channel, "unary_unary", "echo")
        repeat(lambda: echo(BytesValue(value=VALUE)))


def call_timed(path: str, beside: str) -> None:
    with _connect(path) as channel:
        echo = method(channel, "unary_unary", "echo")
        repeat_timed(lambda: echo(BytesValue(value=VALUE)), beside)


def call_over_tls(path: str) -> None:
    credentials = grpc.ssl_channel_credentials(Path(certificate_of(path)).read_bytes())
    with grpc.secure_channel(address_at(path), credentials, options=NO_WALL) as channel:
        echo = method(channel, "unary_unary", "echo")
        repeat(lambda: echo(BytesValue(value=VALUE)))


def call_beside(path: str, company: str) -> None:
    """Call while a console is open; `benchmarks.everyday` explains the company."""
    with _connect(path) as channel, _company(channel, company) as switch:
        echo = method(channel, "unary_unary", "echo")
        for count in rounds():
            switch(True)
            for _ in range(count):
                echo(BytesValue(value=VALUE))
            switch(False)


@contextmanager
def _company(channel: Any, company: str) -> Iterator[Callable[[bool], object]]:
    """Yield what switches the console on and off, if it says anything."""
    if company in CHATTER:
        yield _Chatter(channel, CHATTER[company]).switch
        return
    typed: queue.SimpleQueue[Any] = queue.SimpleQueue()
    console = method(channel, "stream_stream", "back")(iter(typed.get, None))
    if company == "read":
        threading.Thread(target=_read, args=(console,), daemon=True).start()
    yield bool
    console.cancel()


class _Chatter:
    """A console whose stream is open during the rounds only."""

    def __init__(self, channel: Any, size: int) -> None:
        self._open = method(channel, "unary_stream", "console")
        self._size = size
        self._console: Any = None

    def switch(self, on: bool) -> None:
        if on:
            self._console = self._open(BytesValue(value=encode_order(self._size)))
            threading.Thread(target=_read, args=(self._console,), daemon=True).start()
        else:
            self._console.cancel()


def _read(console: Any) -> None:
    with suppress(grpc.RpcError):  # it was cancelled
        for _ in console:
            pass


def calls_from_threads(path: str, threads: str) -> None:
    with _connect(path) as channel:
        echo = method(channel, "unary_unary", "echo")
        repeat_from_threads(lambda: echo(BytesValue(value=VALUE)), int(threads))


def generator(path: str, name: str) -> None:
    with _connect(path) as channel:
        items = method(channel, "unary_stream", name)
        for count in rounds():
            for _ in items(BytesValue(value=encode_order(count))):
                pass


def set_up(path: str) -> None:
    def connect_and_call() -> None:
        with _connect(path) as channel:
            method(channel, "unary_unary", "echo")(BytesValue(value=VALUE))

    repeat(connect_and_call)
