"""The ends of grpcio in threads."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from google.protobuf.wrappers_pb2 import BytesValue

from ..loops import repeat, repeat_from_threads
from ..payloads import PIECE, VALUE, decode_order, encode_order
from ..worker import rounds
from .common import serve_in_thread
from .grpc_aio import NO_WALL, method
from .grpc_aio import serve as serve_aio

__all__ = ["call", "calls_from_threads", "generator", "serve", "serve_aio", "set_up"]


def _echo(request: Any, _context: Any) -> Any:
    return request


def _items(request: Any, _context: Any) -> Iterator[Any]:
    for _ in range(decode_order(request.value)):
        yield BytesValue(value=VALUE)


def _pieces(request: Any, _context: Any) -> Iterator[Any]:
    for _ in range(decode_order(request.value)):
        yield BytesValue(value=PIECE)


def serve(path: str) -> None:
    codec = (BytesValue.FromString, BytesValue.SerializeToString)
    handlers = {
        "echo": grpc.unary_unary_rpc_method_handler(_echo, *codec),
        "items": grpc.unary_stream_rpc_method_handler(_items, *codec),
        "pieces": grpc.unary_stream_rpc_method_handler(_pieces, *codec),
    }
    server = grpc.server(ThreadPoolExecutor(), options=NO_WALL)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("Bench", handlers)])
    server.add_insecure_port(f"unix:{path}")
    server.start()
    serve_in_thread(path, server.wait_for_termination)


def _connect(path: str) -> Any:
    return grpc.insecure_channel(f"unix:{path}", options=NO_WALL)


def call(path: str) -> None:
    with _connect(path) as channel:
        echo = method(channel, "unary_unary", "echo")
        repeat(lambda: echo(BytesValue(value=VALUE)))


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
