"""Units, and the sides that several workloads have. Pure data, as in `workloads`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from .model import FLOOR, OURS, Side, Unit
from .payloads import PIECE

__all__ = [
    "ASYNC_ECHO",
    "ASYNC_ITEMS",
    "ASYNC_PIECES",
    "BLOCKING_ECHO",
    "BLOCKING_ITEMS",
    "BLOCKING_PIECES",
    "BULK",
    "CLIENT_EACH",
    "CONNECTIONS",
    "FRAMES",
    "ITEMS",
    "P50",
    "P99",
    "RATE",
    "SERVER_EACH",
    "SERVER_PEAK",
    "SLOWDOWN",
    "TIME",
    "delayed",
    "floor",
    "grpc",
    "grpc_aio",
    "grpclib",
    "ours",
    "peer",
    "pipes",
    "published",
    "pyro5",
    "pyzmq",
    "rpyc",
    "thriftpy2",
]

# -------------------------------------------------------------------------------------- units

TIME: Final = Unit("µs", 1e6)
RATE: Final = Unit("calls/ms", 1e-3, is_rate=True)
ITEMS: Final = Unit("items/ms", 1e-3, is_rate=True)
FRAMES: Final = Unit("frames/ms", 1e-3, is_rate=True)
BULK: Final = Unit("MB/s", len(PIECE) / 1e6, is_rate=True)
P99: Final = Unit("p99, ms", 1e3, measure="p99", each=False)
P50: Final = Unit("p50, ms", 1e3, measure="p50", each=False)
SLOWDOWN: Final = Unit("bulk slowed, times", 1, measure="slowdown", each=False)
SERVER_EACH: Final = Unit("server, KiB each", 1 / 1024, measure="server_growth")
CLIENT_EACH: Final = Unit("client, KiB each", 1 / 1024, measure="client_growth")
SERVER_PEAK: Final = Unit("server, MiB", 2**-20, measure="server_peak", each=False)

# -------------------------------------------------------------------------------------- sides


def ours(client: str, server: str = "serve") -> dict[str, Side]:
    return {OURS: Side(server and f"benchmarks.idle.{server}", f"benchmarks.ours.{client}")}


def delayed(sides: Mapping[str, Side], seconds: float) -> dict[str, Side]:
    """Return the same sides with a link between their ends."""
    return {name: replace(side, delay=seconds) for name, side in sides.items()}


def floor(server: str, client: str, name: str = FLOOR) -> dict[str, Side]:
    return {name: Side(f"benchmarks.floors.{server}", f"benchmarks.floors.{client}")}


def peer(name: str, module: str, client: str, peer: str, server: str = "serve") -> dict[str, Side]:
    home = f"benchmarks.peers.{module}"
    return {name: Side(server and f"{home}.{server}", f"{home}.{client}", peer)}


def grpc_aio(client: str) -> dict[str, Side]:
    return peer("grpc.aio", "grpc_aio", client, "grpcio")


def grpc(client: str) -> dict[str, Side]:
    return peer("grpc", "grpc_blocking", client, "grpcio")


def grpclib(client: str) -> dict[str, Side]:
    return peer("grpclib", "grpclib", client, "grpclib")


def rpyc(client: str) -> dict[str, Side]:
    return peer("RPyC", "rpyc", client, "rpyc")


def pyro5(client: str) -> dict[str, Side]:
    return peer("Pyro5", "pyro5", client, "Pyro5")


def thriftpy2(client: str) -> dict[str, Side]:
    return peer("thriftpy2", "thriftpy2", client, "thriftpy2")


def pyzmq(client: str, server: str = "serve") -> dict[str, Side]:
    return peer("pyzmq", "pyzmq", client, "pyzmq", server)


def pipes(client: str) -> dict[str, Side]:
    return peer("multiprocessing", "pipes", client, "")


def published(client: str, server: str = "serve") -> dict[str, Side]:
    return peer("published", "published", client, "jumpstarter", server)


ASYNC_ECHO: Final = floor("serve_echo", "trio_ping_pong")
BLOCKING_ECHO: Final = floor("serve_echo", "blocking_ping_pong")
ASYNC_ITEMS: Final = floor("serve_downloads message", "trio_download message")
BLOCKING_ITEMS: Final = floor("serve_downloads message", "blocking_download message")
ASYNC_PIECES: Final = floor("serve_downloads piece", "trio_download piece")
BLOCKING_PIECES: Final = floor("serve_downloads piece", "blocking_download piece")
CONNECTIONS: Final = floor("serve_echo", "trio_connections 1")
