"""Everyday situations: the workloads that users feel first. Pure data, as in `workloads`.

A test nearly always has a console open, often several threads, and sometimes a network in between.
Most of these workloads have a side that is ours without the situation, such as "nothing else open".
The sides take turns as everywhere, so the ratio of the two is what the situation costs.
"""

from __future__ import annotations

from typing import Final

from .model import FLOOR, OURS, Side, Workload
from .sides import (
    ASYNC_ECHO,
    ASYNC_ITEMS,
    ASYNC_PIECES,
    BLOCKING_ECHO,
    BULK,
    ITEMS,
    P50,
    P99,
    RATE,
    TIME,
    delayed,
    floor,
    grpc,
    grpc_aio,
    ours,
    peer,
    published,
    rpyc,
)

__all__ = ["SITUATIONS"]

_QUIET: Final = "nothing else open"
_EVERYDAY: Final = "benchmarks.everyday"


def _ours(client: str, server: str = "serve") -> dict[str, Side]:
    return {OURS: Side(f"benchmarks.idle.{server}", f"{_EVERYDAY}.{client}")}


def _ours_otherwise(name: str, client: str) -> dict[str, Side]:
    return {name: Side("benchmarks.idle.serve", f"{_EVERYDAY}.{client}", is_ours=True)}


# ------------------------------------------------------------------------- a console beside calls


def _beside(what: str, company: str, goal: float, shortest: float = 0.0) -> tuple[Workload, ...]:
    """Make the workloads of calls beside a console.

    Args:
        what: What the console does.
        company: Its name in `everyday`.
        goal: The multiple of a call with nothing else open that we want to stay within.
        shortest: Seconds that a round takes at least.
    """
    blocking = f"blocking_call echo_async {company}"
    plain = f"blocking_call echo {company}"
    tasks = f"async_call echo_async {company}"
    return (
        Workload(
            f"call, blocking -> async, {what}",
            (TIME,),
            _ours(blocking)
            | _ours_otherwise(_QUIET, "blocking_call echo_async")
            | BLOCKING_ECHO
            | peer("grpc -> aio", "grpc_blocking", f"call_beside {company}", "grpcio", "serve_aio")
            | published(blocking.replace("_call", "_call_beside")),
            {_QUIET: goal},
            shortest=shortest,
        ),
        Workload(
            f"call, blocking -> plain, {what}",
            (TIME,),
            _ours(plain)
            | _ours_otherwise(_QUIET, "blocking_call echo")
            | BLOCKING_ECHO
            | grpc(f"call_beside {company}")
            | published(plain.replace("_call", "_call_beside")),
            {_QUIET: goal},
            shortest=shortest,
            quick=company == "open",
        ),
        Workload(
            f"call, async -> async, {what}",
            (TIME,),
            _ours(tasks)
            | _ours_otherwise(_QUIET, "async_call echo_async")
            | ASYNC_ECHO
            | grpc_aio(f"call_beside {company}"),
            {_QUIET: goal},
            shortest=shortest,
            quick=False,
        ),
    )


_CONSOLES: Final = (
    *_beside("console open", "open", 1.3),
    *_beside("console being read", "read", 1.3),
    *_beside("console at 1 MB/s", "chatter", 1.5),
    # 64 KiB arrive every 64 ms: a shorter round would have two or three of them.
    *_beside("console at 1 MB/s by 64 KiB", "chunks", 1.5, shortest=0.5),
)


# ---------------------------------------------------------------------------- threads, call_as


def _threads(count: int, kind: str, method: str, peers: dict[str, Side]) -> Workload:
    # The floor is one client that makes one round trip after the other.
    return Workload(
        f"calls, blocking -> {kind}, {count} threads",
        (TIME,),
        ours(f"blocking_calls_from_threads {method} {count}")
        | _ours_otherwise("one thread", f"blocking_call {method}")
        | BLOCKING_ECHO
        | peers
        | published(f"blocking_calls_from_threads {method} {count}"),
        {"one thread": 1},
        quick=kind == "async" or count == 4,
    )


_THREADS: Final = tuple(
    workload
    for count in (2, 4, 8)
    for workload in (
        _threads(
            count,
            "async",
            "echo_async",
            peer(
                "grpc -> aio", "grpc_blocking", f"calls_from_threads {count}", "grpcio", "serve_aio"
            ),
        ),
        _threads(
            count,
            "plain",
            "echo",
            grpc(f"calls_from_threads {count}") | rpyc(f"calls_from_threads {count}"),
        ),
    )
)

_CALL_AS: Final = tuple(
    Workload(
        f"call_as, blocking -> {kind}",
        (TIME,),
        _ours(f"blocking_call_as {method}")
        | _ours_otherwise("call", f"blocking_call {method}")
        | BLOCKING_ECHO,
        {"call": 1.25},
        quick=kind == "async",
    )
    for kind, method in (("async", "echo_async"), ("plain", "echo"))
)


# ------------------------------------------------------------------- a thread that computes beside


def _beside_computing(kind: str, method: str, server: str, peers: dict[str, Side]) -> Workload:
    # Each end has its own core, or the thread would compete for one with the server. If a call
    # frees the interpreter's lock, the thread takes it, and keeps it for 5 ms.
    timed = f"blocking_call_timed {method}"
    return Workload(
        f"call, blocking -> {kind}, beside a computing thread",
        (P99, P50),
        _ours(f"{timed} computing")
        | _ours_otherwise("nothing beside", f"{timed} nothing")
        | floor(server, "blocking_ping_pong_timed computing")
        | peers
        | published(f"{timed} computing"),
        {},
        operations=200,
        cores=2,
        quick=kind == "plain",
    )


_COMPUTING: Final = (
    _beside_computing(
        "async",
        "echo_async",
        "serve_echo",
        peer("grpc -> aio", "grpc_blocking", "call_timed computing", "grpcio", "serve_aio"),
    ),
    _beside_computing(
        "plain",
        "echo",
        "serve_blocking",
        grpc("call_timed computing") | rpyc("call_timed computing"),
    ),
)


# ------------------------------------------------------------------------------------- networks


def _over_tls(kind: str, method: str, peers: dict[str, Side]) -> Workload:
    return Workload(
        f"call, blocking -> {kind}, over TLS",
        (TIME,),
        _ours(f"blocking_call_over_tls {method}", "serve_tls")
        | _ours_otherwise("over a Unix socket", f"blocking_call {method}")
        | {
            FLOOR: Side(
                "benchmarks.floors_tls.serve_echo", "benchmarks.floors_tls.blocking_ping_pong"
            )
        }
        | peers,
        {"over a Unix socket": 2},
        quick=kind == "async",
    )


_TLS: Final = (
    _over_tls(
        "async",
        "echo_async",
        peer("grpc -> aio", "grpc_blocking", "call_over_tls", "grpcio", "serve_aio_tls"),
    ),
    _over_tls(
        "plain",
        "echo",
        peer("grpc", "grpc_blocking", "call_over_tls", "grpcio", "serve_tls")
        | peer("RPyC", "rpyc", "call_over_tls", "rpyc", "serve_tls"),
    ),
)


def _far(milliseconds: int) -> tuple[Workload, ...]:
    """Make the workloads of a link whose round trip takes so long.

    The ends of a link have one core, and the link another.
    """
    where = f"{milliseconds} ms away"
    there = milliseconds / 2000
    return (
        Workload(
            f"call, blocking -> plain, {where}",
            (TIME,),
            delayed(
                ours("blocking_call echo")
                | BLOCKING_ECHO
                | rpyc("call")
                | grpc("call")
                | published("blocking_call echo"),
                there,
            ),
            {FLOOR: 1.1},
        ),
        Workload(
            f"connect, call, close, async, {where}",
            (TIME,),
            delayed(
                ours("async_set_up")
                | floor("serve_echo", "trio_set_up")
                | grpc_aio("set_up")
                | published("async_set_up"),
                there,
            ),
            {},
            quick=False,
        ),
        Workload(
            f"64 calls in flight, {where}",
            (RATE,),
            delayed(
                ours("async_calls_at_once echo_async 64")
                | ASYNC_ECHO
                | grpc_aio("calls_at_once 64")
                | published("async_calls_at_once echo_async 64"),
                there,
            ),
            {},
            cores=2,
            quick=milliseconds == 20,
        ),
        Workload(
            f"generator, async -> async, {where}",
            (ITEMS,),
            delayed(
                ours("async_generator items_async")
                | ASYNC_ITEMS
                | grpc_aio("generator items")
                | published("async_generator items_async"),
                there,
            ),
            {},
            cores=2,
            quick=False,
        ),
        Workload(
            f"stream, 64 KiB pieces up, {where}",
            (BULK,),
            delayed(
                ours("async_upload")
                | floor("serve_uploads", "trio_upload")
                | grpc_aio("upload")
                | published("async_upload"),
                there,
            ),
            {},
            cores=2,
            quick=False,
        ),
        Workload(
            f"stream, 64 KiB pieces down, {where}",
            (BULK,),
            delayed(
                ours("async_download")
                | ASYNC_PIECES
                | grpc_aio("generator pieces")
                | published("async_download"),
                there,
            ),
            {},
            cores=2,
            quick=milliseconds == 20,
        ),
    )


SITUATIONS: Final = (
    *_CONSOLES,
    *_THREADS,
    *_COMPUTING,
    *_CALL_AS,
    *_TLS,
    *_far(1),
    *_far(20),
)
