"""The ends of thriftpy2, with its compiled protocol and transport.

A connection carries one call at a time.
"""

from __future__ import annotations

import io
from typing import Any, Final

import thriftpy2
from thriftpy2.protocol import TCyBinaryProtocolFactory
from thriftpy2.rpc import make_client, make_server
from thriftpy2.transport import TCyBufferedTransportFactory

from ..loops import repeat
from ..payloads import VALUE
from .common import serve_in_thread

__all__ = ["call", "serve", "set_up"]

_IDL: Final = "service Bench { binary echo(1: binary value) }"
_bench: Final = thriftpy2.load_fp(io.StringIO(_IDL), "bench_thrift")


class _Bench:
    def echo(self, value: bytes) -> bytes:
        return value


def serve(path: str) -> None:
    server = make_server(
        _bench.Bench,
        _Bench(),
        unix_socket=path,
        proto_factory=TCyBinaryProtocolFactory(),
        trans_factory=TCyBufferedTransportFactory(),
        client_timeout=None,  # by default the server closes a connection after 3 idle seconds
    )
    serve_in_thread(path, server.serve)


def _connect(path: str) -> Any:
    return make_client(
        _bench.Bench,
        unix_socket=path,
        proto_factory=TCyBinaryProtocolFactory(),
        trans_factory=TCyBufferedTransportFactory(),
        timeout=None,
    )


def call(path: str) -> None:
    client = _connect(path)
    repeat(lambda: client.echo(VALUE))
    client.close()


def set_up(path: str) -> None:
    def connect_and_call() -> None:
        client = _connect(path)
        client.echo(VALUE)
        client.close()

    repeat(connect_and_call)
