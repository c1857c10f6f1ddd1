"""Make calls in loops, for the instruction counts of `benchmarks.calls`.

    python -m benchmarks.call_loops rules END              the protocol's rules, without a socket
    python -m benchmarks.call_loops calls END ADDRESS      calls to an exporter
    python -m benchmarks.call_loops serve ADDRESS [WHAT]   this exporter

WHAT is `metrics`, `json` or `exclusive`: what the exporter does beside.

END is `client` or `exporter`: the process whose instructions are counted. Each loop runs `ROUNDS`
times between two marks, which callgrind recognizes. The client's process makes the marks itself,
and the exporter's in a call.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import trio
from trio.testing import MockClock

import jumpstarter
from jumpstarter import Limits
from jumpstarter._framing import pack_frame
from jumpstarter._protocol.client import ClientProtocol
from jumpstarter._protocol.codec import (
    call_prefix,
    decode_value,
    encode_call,
    encode_value,
)
from jumpstarter._protocol.frames import FrameType, Hello, Kind
from jumpstarter._protocol.server import ServerProtocol
from jumpstarter.client import DriverClient
from jumpstarter.driver import export
from jumpstarter.observe import JsonFormatter, Metrics

from .framing_loops import mark
from .idle import IdleDriver
from .payloads import VALUE

__all__ = ["CALLS", "IN_FLIGHT", "PATHS", "ROUNDS", "RULES", "Marked"]

IN_FLIGHT: Final = 64
CALLS: Final = 4 * IN_FLIGHT  # in a round; the warm-up has as many
ROUNDS: Final = 5

Loop = Callable[[], object]


class Marked(IdleDriver):
    """A driver whose methods do no work, and a mark in the exporter's process."""

    @export
    async def mark(self) -> None:
        mark()


def run(loop: Loop, begin_or_end: Callable[[], object]) -> None:
    """Run a loop once to warm up, and then `ROUNDS` times between two marks."""
    loop()
    gc.collect()
    gc.disable()  # a collection costs as much as many calls, and happens at any time
    for _ in range(ROUNDS):
        begin_or_end()
        loop()
        begin_or_end()
    gc.enable()


# -------------------------------------------------------------------------------- the whole path


def _blocking(client: DriverClient, method: str) -> Loop:
    def repeat() -> None:
        for _ in range(CALLS):
            client.call(method, VALUE)

    return repeat


def _async(client: DriverClient, in_flight: int) -> Loop:
    async def repeat() -> None:
        for _ in range(CALLS // in_flight):
            await client.call_async("echo_async", VALUE)

    async def all_of_them() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(in_flight):
                nursery.start_soon(repeat)

    portal = client.portal
    assert portal is not None
    return lambda: portal.call(all_of_them)


PATHS: Final[dict[str, Callable[[DriverClient], Loop]]] = {
    "blocking call, async method": lambda client: _blocking(client, "echo_async"),
    "blocking call, plain method": lambda client: _blocking(client, "echo"),
    "async call": lambda client: _async(client, 1),
    f"{IN_FLIGHT} async calls in flight": lambda client: _async(client, IN_FLIGHT),
}


def make_calls(end: str, address: str) -> None:
    with jumpstarter.connect(address) as client:
        for make in PATHS.values():
            run(make(client), mark if end == "client" else lambda: client.call("mark"))


async def serve(address: str, observed: str = "") -> None:
    formatter = JsonFormatter() if observed == "json" else None  # calls are noted while it exists
    metrics = Metrics() if observed == "metrics" else None
    exclusive = observed == "exclusive"
    # The watchdog's thread looks by the machine's clock, so it would count the machine's speed.
    limits = Limits(loop_hold=3600)
    async with jumpstarter.serve_async(
        Marked(), address, limits=limits, metrics=metrics, exclusive=exclusive
    ):
        print("ready", flush=True)
        await trio.lowlevel.wait_readable(sys.stdin)
    del formatter


# ------------------------------------------------------------------------------------- the rules


def connected_rules() -> tuple[ClientProtocol, ServerProtocol]:
    """Return the two ends of a connection that have exchanged their HELLOs."""
    hello = Hello.of(Limits())
    client, server = ClientProtocol(Limits(), hello), ServerProtocol(Limits())
    server.receive(_taken(client))
    server.admit(hello)
    client.receive(_taken(server))
    return client, server


def _taken(rules: ClientProtocol | ServerProtocol) -> bytes:
    return b"".join(rules.next_batch().buffers)


def client_rules(in_flight: int) -> Loop:
    """Return a loop of calls, each with an answer that was prepared."""
    client, _ = connected_rules()
    prefix = call_prefix(1, Kind.UNARY, "echo")
    body = bytes(encode_value(VALUE, b""))
    slots = range(in_flight, 0, -1)  # the slot that was freed last is used first
    answers = b"".join(pack_frame(FrameType.RESULT, 0, slot, body) for slot in slots)
    limits = Limits()

    def repeat() -> None:
        for _ in range(CALLS // in_flight):
            for _ in range(in_flight):
                client.call(Kind.UNARY, encode_call(prefix, (VALUE,)))
            client.next_batch()
            for event in client.receive(answers):
                decode_value(event.body, limits)  # type: ignore[union-attr]

    return repeat


def exporter_rules(in_flight: int) -> Loop:
    """Return a loop of calls that were prepared, each with its answer."""
    client, server = connected_rules()
    for _ in range(in_flight):
        client.call(Kind.UNARY, encode_call(call_prefix(1, Kind.UNARY, "echo"), (VALUE,)))
    calls = _taken(client)
    limits = Limits()

    def repeat() -> None:
        for _ in range(CALLS // in_flight):
            events: list[Any] = server.receive(calls)
            for event in events:
                (value,) = decode_value(event.body, limits)
                server.result(event.slot, encode_value(value))
            server.next_batch()

    return repeat


RULES: Final = {"rules alone, one call": 1, f"rules alone, {IN_FLIGHT} calls in flight": IN_FLIGHT}


def use_rules(end: str) -> None:
    for in_flight in RULES.values():
        run((client_rules if end == "client" else exporter_rules)(in_flight), mark)


def main(what: str, *args: str) -> None:
    match what:
        case "serve":
            # The clock stands still, or the count would depend on the machine's speed: callgrind
            # makes an exporter so slow that a call may take longer than a worker thread may keep
            # the connection (2 ms), and the loop takes it back.
            trio.run(partial(serve, *args), clock=MockClock())
        case "calls":
            make_calls(*args)
        case _:
            use_rules(*args)


if __name__ == "__main__":
    main(*sys.argv[1:])
