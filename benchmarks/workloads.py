"""The workloads and their sides. Pure data: this module imports nothing that a side needs.

A workload has a side named `jumpstarter`, one named `floor`, and one for each peer for which it is
meaningful. To add a workload, add an entry here, and add its ends to the modules of its sides.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from .model import FLOOR, OURS, Side, Unit, Workload
from .payloads import MESSAGE, PIECE, VALUE

__all__ = ["WORKLOADS"]

# -------------------------------------------------------------------------------------- units

_TIME: Final = Unit("µs", 1e6)
_RATE: Final = Unit("calls/ms", 1e-3, is_rate=True)
_ITEMS: Final = Unit("items/ms", 1e-3, is_rate=True)
_FRAMES: Final = Unit("frames/ms", 1e-3, is_rate=True)
_BULK: Final = Unit("MB/s", len(PIECE) / 1e6, is_rate=True)
_P99: Final = Unit("p99, ms", 1e3, measure="p99", each=False)
_P50: Final = Unit("p50, ms", 1e3, measure="p50", each=False)
_SLOWDOWN: Final = Unit("bulk slowed, times", 1, measure="slowdown", each=False)
_SERVER_EACH: Final = Unit("server, KiB each", 1 / 1024, measure="server_growth")
_CLIENT_EACH: Final = Unit("client, KiB each", 1 / 1024, measure="client_growth")
_SERVER_PEAK: Final = Unit("server, MiB", 2**-20, measure="server_peak", each=False)

# -------------------------------------------------------------------------------------- sides


def _ours(client: str, server: str = "serve") -> dict[str, Side]:
    return {OURS: Side(server and f"benchmarks.idle.{server}", f"benchmarks.ours.{client}")}


def _floor(server: str, client: str, name: str = FLOOR) -> dict[str, Side]:
    return {name: Side(f"benchmarks.floors.{server}", f"benchmarks.floors.{client}")}


def _peer(name: str, module: str, client: str, peer: str, server: str = "serve") -> dict[str, Side]:
    home = f"benchmarks.peers.{module}"
    return {name: Side(server and f"{home}.{server}", f"{home}.{client}", peer)}


def _grpc_aio(client: str) -> dict[str, Side]:
    return _peer("grpc.aio", "grpc_aio", client, "grpcio")


def _grpc(client: str) -> dict[str, Side]:
    return _peer("grpc", "grpc_blocking", client, "grpcio")


def _grpclib(client: str) -> dict[str, Side]:
    return _peer("grpclib", "grpclib", client, "grpclib")


def _rpyc(client: str) -> dict[str, Side]:
    return _peer("RPyC", "rpyc", client, "rpyc")


def _pyro5(client: str) -> dict[str, Side]:
    return _peer("Pyro5", "pyro5", client, "Pyro5")


def _thriftpy2(client: str) -> dict[str, Side]:
    return _peer("thriftpy2", "thriftpy2", client, "thriftpy2")


def _pyzmq(client: str, server: str = "serve") -> dict[str, Side]:
    return _peer("pyzmq", "pyzmq", client, "pyzmq", server)


def _pipes(client: str) -> dict[str, Side]:
    return _peer("multiprocessing", "pipes", client, "")


def _published(client: str, server: str = "serve") -> dict[str, Side]:
    return _peer("published", "published", client, "jumpstarter", server)


_ASYNC_ECHO: Final = _floor("serve_echo", "trio_ping_pong")
_BLOCKING_ECHO: Final = _floor("serve_echo", "blocking_ping_pong")
_ASYNC_ITEMS: Final = _floor("serve_downloads message", "trio_download message")
_BLOCKING_ITEMS: Final = _floor("serve_downloads message", "blocking_download message")
_ASYNC_PIECES: Final = _floor("serve_downloads piece", "trio_download piece")
_BLOCKING_PIECES: Final = _floor("serve_downloads piece", "blocking_download piece")
_CONNECTIONS: Final = _floor("serve_echo", "trio_connections 1")


# ---------------------------------------------------------------------------------- workloads

_NO_GOALS: Final[Mapping[str, float]] = {}


def _call(
    name: str,
    sides: Mapping[str, Side],
    goals: Mapping[str, float] = _NO_GOALS,
    *,
    quick: bool = True,
) -> Workload:
    return Workload(f"call, {name}", (_TIME,), sides, goals, quick=quick)


_CALLS: Final = (
    _call(
        "async -> async",
        _ours("async_call echo_async")
        | _ASYNC_ECHO
        | _grpc_aio("call")
        | _grpclib("call")
        | _published("async_call echo_async"),
        {FLOOR: 1.3},
    ),
    _call(
        "async -> plain",
        _ours("async_call echo") | _ASYNC_ECHO | _published("async_call echo"),
        quick=False,
    ),
    _call(
        "blocking -> async",
        _ours("blocking_call echo_async")
        | _BLOCKING_ECHO
        | _peer("grpc -> aio", "grpc_blocking", "call", "grpcio", "serve_aio")
        | _published("blocking_call echo_async"),
        {FLOOR: 1.8},
    ),
    _call(
        "blocking -> plain",
        _ours("blocking_call echo")
        | _BLOCKING_ECHO
        | _floor("serve_blocking", "blocking_ping_pong", "blocking sockets")
        | _pipes("call")
        | _thriftpy2("call")
        | _pyzmq("call")
        | _rpyc("call")
        | _pyro5("call")
        | _grpc("call")
        | _published("blocking_call echo"),
        {"RPyC": 1, "Pyro5": 1, "grpc": 1},
    ),
    _call(
        "serve(), blocking -> plain",
        _ours("blocking_serve_and_call echo", "")
        | _BLOCKING_ECHO
        | _published("blocking_serve_and_call echo", ""),
        {"published": 6},
    ),
)


def _at_once(tasks: int, goals: Mapping[str, float] = _NO_GOALS) -> Workload:
    # The floor still runs one round trip at a time, so the ratio shows the gain from concurrency.
    return Workload(
        f"{tasks} calls at once",
        (_RATE,),
        _ours(f"async_calls_at_once echo_async {tasks}")
        | _ASYNC_ECHO
        | _grpc_aio(f"calls_at_once {tasks}")
        | _grpclib(f"calls_at_once {tasks}")
        | _published(f"async_calls_at_once echo_async {tasks}"),
        goals,
        series="calls at once",
        size=tasks,
        cores=2,
        quick=tasks == 64,
    )


_COMPANY: Final = (
    *(_at_once(tasks) for tasks in (1, 8)),
    _at_once(64, {"grpc.aio": 20, "published": 25}),
    _at_once(512),
    Workload(
        "calls from 8 threads",
        (_RATE,),
        _ours("blocking_calls_from_threads echo 8")
        | _BLOCKING_ECHO
        | _grpc("calls_from_threads 8")
        | _published("blocking_calls_from_threads echo 8"),
        {},
        cores=2,
    ),
)


def _payload(name: str, size: int) -> Workload:
    whole = size + len(MESSAGE) - len(VALUE)
    sides = (
        _ours(f"async_call echo_async {size}")
        | _floor(f"serve_messages {whole}", f"trio_messages {whole}")
        | _grpc_aio(f"call {size}")
    )
    if size < 4 * 2**20:  # gRPC's default limit, which the published jumpstarter keeps
        sides |= _published(f"async_call echo_async {size}")
    return Workload(f"echo of {name}", (_TIME,), sides, {}, "bytes", size, quick=size == 2**20)


_PAYLOADS: Final = tuple(
    _payload(name, size)
    for name, size in {
        "0 B": 0,
        "1 KiB": 1024,
        "64 KiB": 64 * 1024,
        "1 MiB": 2**20,
        "64 MiB": 64 * 2**20,
    }.items()
)


def _generator(
    name: str,
    unit: Unit,
    sides: Mapping[str, Side],
    goals: Mapping[str, float] = _NO_GOALS,
    *,
    quick: bool = True,
) -> Workload:
    return Workload(f"generator, {name}", (unit,), sides, goals, cores=2, quick=quick)


_GENERATORS: Final = (
    # The floor sends each item separately; the library may combine several items in one send.
    _generator(
        "async -> async",
        _ITEMS,
        _ours("async_generator items_async")
        | _ASYNC_ITEMS
        | _grpc_aio("generator items")
        | _grpclib("generator")
        | _published("async_generator items_async"),
        {"grpc.aio": 10},
    ),
    _generator(
        "async -> plain",
        _ITEMS,
        _ours("async_generator items") | _ASYNC_ITEMS | _published("async_generator items"),
        quick=False,
    ),
    _generator(
        "blocking -> async",
        _ITEMS,
        _ours("blocking_generator items_async")
        | _BLOCKING_ITEMS
        | _published("blocking_generator items_async"),
        quick=False,
    ),
    _generator(
        "blocking -> plain",
        _ITEMS,
        _ours("blocking_generator items")
        | _BLOCKING_ITEMS
        | _rpyc("generator")
        | _pyro5("generator")
        | _grpc("generator items")
        | _published("blocking_generator items"),
        {"grpc": 4},
    ),
    _generator(
        "64 KiB, async -> async",
        _BULK,
        _ours("async_generator pieces_async") | _ASYNC_PIECES | _grpc_aio("generator pieces"),
        quick=False,
    ),
    _generator(
        "64 KiB, blocking -> plain",
        _BULK,
        _ours("blocking_generator pieces") | _BLOCKING_PIECES | _grpc("generator pieces"),
        quick=False,
    ),
)

_STREAMS: Final = (
    Workload(
        "stream, ping-pong, async",
        (_TIME,),
        _ours("async_ping_pong")
        | _ASYNC_ECHO
        | _grpc_aio("ping_pong")
        | _published("async_ping_pong"),
        {},
    ),
    Workload(
        "stream, ping-pong, blocking",
        (_TIME,),
        _ours("blocking_ping_pong") | _BLOCKING_ECHO | _published("blocking_ping_pong"),
        {},
        quick=False,
    ),
    Workload(
        "stream, 64 KiB pieces up",
        (_BULK,),
        _ours("async_upload")
        | _floor("serve_uploads", "trio_upload")
        | _grpc_aio("upload")
        | _pyzmq("upload", "serve_uploads")
        | _published("async_upload"),
        {FLOOR: 0.6, "grpc.aio": 2.5},
        cores=2,
    ),
    Workload(
        "stream, 64 KiB pieces down",
        (_BULK,),
        _ours("async_download")
        | _ASYNC_PIECES
        | _grpc_aio("generator pieces")
        | _published("async_download"),
        {FLOOR: 0.6, "grpc.aio": 2.5},
        cores=2,
    ),
    Workload(
        "stream, 64 KiB pieces both ways",
        (_BULK,),
        _ours("async_both_ways")
        | _floor("serve_echo", "trio_both_ways")
        | _grpc_aio("both_ways")
        | _published("async_both_ways"),
        {},
        cores=2,
    ),
    Workload(
        "small calls beside 4 bulk streams",
        (_P99, _P50, _SLOWDOWN),
        _ours("async_beside_bulk 4")
        | _floor("serve_beside_bulk", "trio_beside_bulk 4")
        | _grpc_aio("beside_bulk 4"),
        {OURS: 5},
        operations=600,
        cores=2,
    ),
)

_CONNECTING: Final = (
    Workload(
        "connect, call, close, async",
        (_TIME,),
        _ours("async_set_up")
        | _floor("serve_echo", "trio_set_up")
        | _grpc_aio("set_up")
        | _grpclib("set_up")
        | _published("async_set_up"),
        {},
    ),
    Workload(
        "connect, call, close, blocking",
        (_TIME,),
        _ours("blocking_set_up")
        | _floor("serve_echo", "blocking_set_up")
        | _pipes("set_up")
        | _thriftpy2("set_up")
        | _rpyc("set_up")
        | _pyro5("set_up")
        | _grpc("set_up"),
        {},
        quick=False,
    ),
    Workload(
        "1,000 connections x 10 calls",
        (_SERVER_PEAK, _RATE),
        _ours("async_connections 10")
        | _floor("serve_echo", "trio_connections 10")
        | _grpc_aio("connections 10"),
        {OURS: 150},
        operations=10_000,
        cores=2,
        afresh=True,
    ),
    Workload(
        "10,000 calls in flight",
        (_SERVER_PEAK, _RATE),
        _ours("async_meeting", "serve_many_calls")
        | _floor("serve_echo", "trio_pipeline")
        | _grpc_aio("meeting"),
        {OURS: 150},
        operations=10_000,
        cores=2,
        afresh=True,
    ),
)


def _memory(what: str, count: int, goal: float, sides: Mapping[str, Side]) -> Workload:
    return Workload(
        f"memory, {count:,} {what}",
        (_SERVER_EACH, _CLIENT_EACH),
        sides,
        {OURS: goal},
        series=what,
        size=count,
        operations=count,
        afresh=True,
        quick=count == 1000,
    )


_MEMORY: Final = (
    *(
        _memory(
            "idle connections",
            count,
            24,
            _ours("async_connections 1") | _CONNECTIONS | _grpc_aio("connections 1"),
        )
        for count in (250, 500, 1000)
    ),
    # These workloads' floor opens one connection for each stream or call.
    *(
        _memory(
            "idle streams", count, 8, _ours("async_streams") | _CONNECTIONS | _grpc_aio("streams")
        )
        for count in (250, 500, 1000)
    ),
    *(
        _memory(
            "calls in flight",
            count,
            6,
            _ours("async_meeting", "serve_many_calls") | _CONNECTIONS | _grpc_aio("meeting"),
        )
        for count in (250, 1000, 4000)
    ),
)


def _framing(task: str, size: int) -> Workload:
    def side(name: str, side: str, peer: str = "") -> dict[str, Side]:
        return {name: Side("", f"benchmarks.framing_loops.run {side} {task} {size}", peer)}

    return Workload(
        f"framing alone, {task} {size:,} B",
        (_FRAMES,),
        side(OURS, "ours")
        | side(FLOOR, "floor")
        | side("plain Python", "plain")
        | side("h2", "h2", "h2"),
        {},
        quick=(task, size) == ("decode", 16),
    )


_FRAMING: Final = tuple(
    _framing(task, size) for task in ("decode", "encode") for size in (16, 1024, 16 * 1024)
)

WORKLOADS: Final = (
    *_CALLS,
    *_COMPANY,
    *_PAYLOADS,
    *_GENERATORS,
    *_STREAMS,
    *_CONNECTING,
    *_MEMORY,
    *_FRAMING,
)
