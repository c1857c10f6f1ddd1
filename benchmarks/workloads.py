"""The workloads and their sides. Pure data: this module imports nothing that a side needs.

A workload has a side named `jumpstarter`, one named `floor`, and one for each peer for which it is
meaningful. To add a workload, add an entry here, and add its ends to the modules of its sides.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from .model import FLOOR, OURS, Side, Unit, Workload
from .payloads import MESSAGE, VALUE
from .sides import (
    ASYNC_ECHO,
    ASYNC_ITEMS,
    ASYNC_PIECES,
    BLOCKING_ECHO,
    BLOCKING_ITEMS,
    BLOCKING_PIECES,
    BULK,
    CLIENT_EACH,
    CONNECTIONS,
    FRAMES,
    ITEMS,
    P50,
    P99,
    RATE,
    SERVER_EACH,
    SERVER_PEAK,
    SLOWDOWN,
    TIME,
    floor,
    grpc,
    grpc_aio,
    grpclib,
    ours,
    peer,
    pipes,
    published,
    pyro5,
    pyzmq,
    rpyc,
    thriftpy2,
)
from .situations import SITUATIONS

__all__ = ["WORKLOADS"]

# ---------------------------------------------------------------------------------- workloads

_NO_GOALS: Final[Mapping[str, float]] = {}


def _call(
    name: str,
    sides: Mapping[str, Side],
    goals: Mapping[str, float] = _NO_GOALS,
    *,
    quick: bool = True,
) -> Workload:
    return Workload(f"call, {name}", (TIME,), sides, goals, quick=quick)


_CALLS: Final = (
    _call(
        "async -> async",
        ours("async_call echo_async")
        | ASYNC_ECHO
        | grpc_aio("call")
        | grpclib("call")
        | published("async_call echo_async"),
        {FLOOR: 1.0},
    ),
    _call(
        "async -> plain",
        ours("async_call echo") | ASYNC_ECHO | published("async_call echo"),
        quick=False,
    ),
    _call(
        "blocking -> async",
        ours("blocking_call echo_async")
        | BLOCKING_ECHO
        | peer("grpc -> aio", "grpc_blocking", "call", "grpcio", "serve_aio")
        | published("blocking_call echo_async"),
        {FLOOR: 1.5},
    ),
    _call(
        "blocking -> plain",
        ours("blocking_call echo")
        | BLOCKING_ECHO
        | floor("serve_blocking", "blocking_ping_pong", "blocking sockets")
        | pipes("call")
        | thriftpy2("call")
        | pyzmq("call")
        | rpyc("call")
        | pyro5("call")
        | grpc("call")
        | published("blocking_call echo"),
        {"blocking sockets": 0.45, "thriftpy2": 1},
    ),
    _call(
        "serve(), blocking -> plain",
        ours("blocking_serve_and_call echo", "")
        | BLOCKING_ECHO
        | published("blocking_serve_and_call echo", ""),
        {"published": 20},
    ),
)


def _at_once(tasks: int, goals: Mapping[str, float] = _NO_GOALS) -> Workload:
    # The floor still runs one round trip at a time, so the ratio shows the gain from concurrency.
    return Workload(
        f"{tasks} calls in flight",
        (RATE,),
        ours(f"async_calls_at_once echo_async {tasks}")
        | ASYNC_ECHO
        | grpc_aio(f"calls_at_once {tasks}")
        | grpclib(f"calls_at_once {tasks}")
        | published(f"async_calls_at_once echo_async {tasks}"),
        goals,
        series="calls in flight",
        size=tasks,
        cores=2,
        quick=tasks == 64,
    )


_COMPANY: Final = (
    *(_at_once(tasks) for tasks in (1, 8)),
    _at_once(64, {"grpc.aio": 30, "published": 25}),
    _at_once(512),
    Workload(
        "calls from 8 threads",
        (RATE,),
        ours("blocking_calls_from_threads echo 8")
        | BLOCKING_ECHO
        | grpc("calls_from_threads 8")
        | published("blocking_calls_from_threads echo 8"),
        {},
        cores=2,
    ),
)


def _payload(name: str, size: int) -> Workload:
    whole = size + len(MESSAGE) - len(VALUE)
    sides = (
        ours(f"async_call echo_async {size}")
        | floor(f"serve_messages {whole}", f"trio_messages {whole}")
        | grpc_aio(f"call {size}")
    )
    if size < 4 * 2**20:  # gRPC's default limit, which the published jumpstarter keeps
        sides |= published(f"async_call echo_async {size}")
    return Workload(f"echo of {name}", (TIME,), sides, {}, "bytes", size, quick=size == 2**20)


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
        ITEMS,
        ours("async_generator items_async")
        | ASYNC_ITEMS
        | grpc_aio("generator items")
        | grpclib("generator")
        | published("async_generator items_async"),
        {"grpc.aio": 10},
    ),
    _generator(
        "async -> plain",
        ITEMS,
        ours("async_generator items") | ASYNC_ITEMS | published("async_generator items"),
        quick=False,
    ),
    _generator(
        "blocking -> async",
        ITEMS,
        ours("blocking_generator items_async")
        | BLOCKING_ITEMS
        | published("blocking_generator items_async"),
        quick=False,
    ),
    _generator(
        "blocking -> plain",
        ITEMS,
        ours("blocking_generator items")
        | BLOCKING_ITEMS
        | rpyc("generator")
        | pyro5("generator")
        | grpc("generator items")
        | published("blocking_generator items"),
        {"grpc": 4},
    ),
    _generator(
        "64 KiB, async -> async",
        BULK,
        ours("async_generator pieces_async") | ASYNC_PIECES | grpc_aio("generator pieces"),
        quick=False,
    ),
    _generator(
        "64 KiB, blocking -> plain",
        BULK,
        ours("blocking_generator pieces") | BLOCKING_PIECES | grpc("generator pieces"),
        quick=False,
    ),
)

# A bulk transfer between two cores needs this long to settle in one of its modes.
_LONG: Final = 0.3

_STREAMS: Final = (
    Workload(
        "stream, ping-pong, async",
        (TIME,),
        ours("async_ping_pong") | ASYNC_ECHO | grpc_aio("ping_pong") | published("async_ping_pong"),
        {},
    ),
    Workload(
        "stream, ping-pong, blocking",
        (TIME,),
        ours("blocking_ping_pong") | BLOCKING_ECHO | published("blocking_ping_pong"),
        {},
        quick=False,
    ),
    Workload(
        "stream, 64 KiB pieces up",
        (BULK,),
        ours("async_upload")
        | floor("serve_uploads", "trio_upload")
        | grpc_aio("upload")
        | pyzmq("upload", "serve_uploads")
        | published("async_upload"),
        {FLOOR: 0.6, "grpc.aio": 2.5},
        shortest=_LONG,
        cores=2,
    ),
    Workload(
        "stream, 64 KiB pieces down",
        (BULK,),
        ours("async_download")
        | ASYNC_PIECES
        | grpc_aio("generator pieces")
        | published("async_download"),
        {FLOOR: 0.6, "grpc.aio": 2.5},
        shortest=_LONG,
        cores=2,
    ),
    Workload(
        "stream, 64 KiB pieces both ways",
        (BULK,),
        ours("async_both_ways")
        | floor("serve_echo", "trio_both_ways")
        | grpc_aio("both_ways")
        | published("async_both_ways"),
        {FLOOR: 0.8},
        shortest=_LONG,
        cores=2,
    ),
    Workload(
        "small calls beside 4 bulk streams",
        (P99, P50, SLOWDOWN),
        ours("async_beside_bulk 4")
        | floor("serve_beside_bulk", "trio_beside_bulk 4")
        | grpc_aio("beside_bulk 4"),
        {OURS: 5},
        operations=600,
        cores=2,
    ),
)

_CONNECTING: Final = (
    Workload(
        "connect, call, close, async",
        (TIME,),
        ours("async_set_up")
        | floor("serve_echo", "trio_set_up")
        | grpc_aio("set_up")
        | grpclib("set_up")
        | published("async_set_up"),
        {},
    ),
    Workload(
        "connect, call, close, blocking",
        (TIME,),
        ours("blocking_set_up")
        | floor("serve_echo", "blocking_set_up")
        | pipes("set_up")
        | thriftpy2("set_up")
        | rpyc("set_up")
        | pyro5("set_up")
        | grpc("set_up"),
        {},
        quick=False,
    ),
    Workload(
        "1,000 connections x 10 calls",
        (SERVER_PEAK, RATE),
        ours("async_connections 10")
        | floor("serve_echo", "trio_connections 10")
        | grpc_aio("connections 10"),
        {OURS: 150},
        operations=10_000,
        cores=2,
        afresh=True,
    ),
    Workload(
        "10,000 calls in flight",
        (SERVER_PEAK, RATE),
        ours("async_meeting", "serve_many_calls")
        | floor("serve_echo", "trio_pipeline")
        | grpc_aio("meeting"),
        {OURS: 150},
        operations=10_000,
        cores=2,
        afresh=True,
    ),
)


def _memory(what: str, count: int, goal: float, sides: Mapping[str, Side]) -> Workload:
    return Workload(
        f"memory, {count:,} {what}",
        (SERVER_EACH, CLIENT_EACH),
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
            17,
            ours("async_connections 1") | CONNECTIONS | grpc_aio("connections 1"),
        )
        for count in (250, 500, 1000)
    ),
    # These workloads' floor opens one connection for each stream or call.
    *(
        _memory("idle streams", count, 8, ours("async_streams") | CONNECTIONS | grpc_aio("streams"))
        for count in (250, 500, 1000)
    ),
    *(
        _memory(
            "calls in flight",
            count,
            4.3,
            ours("async_meeting", "serve_many_calls") | CONNECTIONS | grpc_aio("meeting"),
        )
        for count in (250, 1000, 4000)
    ),
)


def _framing(task: str, size: int) -> Workload:
    def side(name: str, side: str, peer: str = "") -> dict[str, Side]:
        return {name: Side("", f"benchmarks.framing_loops.run {side} {task} {size}", peer)}

    return Workload(
        f"framing alone, {task} {size:,} B",
        (FRAMES,),
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
    *SITUATIONS,
    *_CALLS,
    *_COMPANY,
    *_PAYLOADS,
    *_GENERATORS,
    *_STREAMS,
    *_CONNECTING,
    *_MEMORY,
    *_FRAMING,
)
