"""The conformance cases that any client and exporter must pass: one async function for each.

The cases and their byte sizes are those of gRPC's interoperability tests, including the cases that
gRPC's list only plans. A case receives a client of a `Conformance` driver and does not depend on
the transport below it; a `Scale` defines its sizes. `cases_blocking` has the same cases for
blocking code.

A case may be cancelled at any step, and its connection may be lost at any step. Then it raises the
client's exception, alone or in the group of its nursery, and never mistakes it for another failure.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import trio
from driver_conformance import HEAD, pattern, receive_exactly, stretched
from scales import PASSED_ON, Scale

from jumpstarter._protocol.frames import Kind
from jumpstarter.client import DriverClient
from jumpstarter.client._remote import DriverRef
from jumpstarter.errors import (
    CallOutcomeUnknown,
    CallRefused,
    Code,
    DriverError,
    DriverMethodNotImplemented,
)

__all__ = [
    "CASES",
    "EXPORTED",
    "SPECIAL_TEXT",
    "Case",
    "nobody_at",
    "ping_pongs",
]

AT_ONCE: Final = 32  # large calls in flight: a heavy load of at most 20 MB
LONG: Final = 1000.0  # seconds; nothing waits for it

# One method of each kind; the driver lists each as running.
EXPORTED: Final = {Kind.UNARY: "hold", Kind.GENERATOR: "gen_async", Kind.STREAM: "duplex"}

SPECIAL_TEXT: Final = (
    "\t\ntest with whitespace\r\nand Unicode BMP \u263a and non-BMP \U0001f608\t\n"
)


@dataclass(frozen=True)
class Case:
    """A conformance case.

    Attributes:
        run: Runs the case, and raises if it fails.
        max_calls: The number of slots that the case requires, or None if it works with any.
    """

    run: Callable[[DriverClient, Scale], Awaitable[None]]
    max_calls: int | None = None


CASES: Final[dict[str, Case]] = {}

Run = Callable[[DriverClient, Scale], Awaitable[None]]


def case(run: Run) -> Run:
    CASES[run.__name__] = Case(run)
    return run


def case_with(max_calls: int) -> Callable[[Run], Run]:
    def decorate(run: Run) -> Run:
        CASES[run.__name__] = Case(run, max_calls)
        return run

    return decorate


# ---------------------------------------------------------------------------------- shared helpers


async def failure_of(step: Awaitable[Any]) -> DriverError:
    """Return the error that the driver raised; let errors of the connection propagate."""
    try:
        await step
    except (CallOutcomeUnknown, CallRefused):
        raise
    except DriverError as exc:
        return exc
    except trio.BrokenResourceError as exc:
        if isinstance(exc.__cause__, DriverError) and not isinstance(
            exc.__cause__, CallOutcomeUnknown
        ):
            return exc.__cause__
        raise
    raise AssertionError("it did not fail")


async def nothing_runs(client: DriverClient) -> None:
    assert await client.call_async("what_runs") == []


async def all_of(stream: trio.abc.ReceiveStream) -> bytes:
    return b"".join([data async for data in stream])


async def settled(client: DriverClient, count: Callable[[], Awaitable[int]], echoes: int) -> int:
    """Wait until a number stops growing while other calls come and go, and return it."""
    before = -1
    while (now := await count()) != before:
        before = now
        for number in range(echoes):
            assert await client.call_async("echo", number) == number
    return now


def ping_pongs(scale: Scale) -> list[tuple[bytes, bytes]]:
    """Return requests for `duplex`, including their heads, with the answer to each."""
    exchanges = []
    for up, down in zip(scale.uploads, scale.downloads, strict=True):
        head = up.to_bytes(4, "little") + down.to_bytes(4, "little")
        assert len(head) == HEAD
        exchanges.append((head + pattern(up), stretched(pattern(up), down)))
    return exchanges


def nobody_at(client: DriverClient) -> DriverClient:
    """Return a client of a driver that the exporter does not have."""
    channel = client.channel.channel
    return DriverClient(
        uuid=client.uuid, channel=DriverRef(channel, 999, "nobody"), portal=client.portal
    )


# ------------------------------------------------------------------------------ values and streams


@case
async def empty_unary(client: DriverClient, _scale: Scale) -> None:
    for method in ("empty", "empty_async"):
        assert await client.call_async(method) is None


@case
async def large_unary(client: DriverClient, scale: Scale) -> None:
    payload = pattern(scale.request)
    for method in ("unary", "unary_async"):
        answer = await client.call_async(method, scale.response, payload)
        assert answer == stretched(payload, scale.response)


@case
async def client_streaming(client: DriverClient, scale: Scale) -> None:
    async with client.stream_async("sum_stream") as stream:
        for size in scale.uploads:
            await stream.send_all(bytes(size))
        await stream.send_eof()
        assert int.from_bytes(await all_of(stream), "little") == sum(scale.uploads)


@case
async def server_streaming(client: DriverClient, scale: Scale) -> None:
    for method in ("gen", "gen_async"):
        async with client.streamingcall_async(method, scale.downloads) as items:
            received = [item async for item in items]
        assert received == [pattern(size) for size in scale.downloads]


@case
async def ping_pong(client: DriverClient, scale: Scale) -> None:
    async with client.stream_async("duplex") as stream:
        for request, answer in ping_pongs(scale):
            await stream.send_all(request)
            assert await receive_exactly(stream, len(answer)) == answer
        await stream.send_eof()
        assert await all_of(stream) == b""


@case
async def empty_stream(client: DriverClient, _scale: Scale) -> None:
    async with client.stream_async("duplex") as stream:
        await stream.send_eof()
        assert await all_of(stream) == b""
    for method in ("gen", "gen_async"):
        async with client.streamingcall_async(method, []) as items:
            assert [item async for item in items] == []


@case
async def server_answers_before_request_ends(client: DriverClient, scale: Scale) -> None:
    async with client.stream_async("hasty") as stream:
        await stream.send_all(b"first")
        assert await all_of(stream) == b"enough"
        for size in scale.uploads:
            await stream.send_all(bytes(size))
    await nothing_runs(client)


# ------------------------------------------------------------------------------------- failures


async def failures(client: DriverClient, code: Code, text: str) -> list[DriverError]:
    """Make each of the three kinds of call fail, and return the errors."""
    args = (int(code), text, ["a note", text])

    async def iterate() -> None:
        async with client.streamingcall_async("fail_gen", *args) as items:
            assert await items.__anext__() == 1
            await items.__anext__()

    async def stream() -> None:
        async with client.stream_async("fail_stream", *args) as stream:
            await stream.send_all(b"x")
            await stream.receive_some()

    async def call() -> None:
        await client.call_async("fail", *args)

    return [await failure_of(step()) for step in (call, iterate, stream)]


@case
async def status_code_and_message(client: DriverClient, scale: Scale) -> None:
    for code in scale.codes:
        for exc in await failures(client, code, "test status message"):
            assert (exc.code, exc.message) == (PASSED_ON[code], "test status message")


@case
async def special_status_message(client: DriverClient, _scale: Scale) -> None:
    for exc in await failures(client, Code.UNKNOWN, SPECIAL_TEXT):
        assert exc.message == SPECIAL_TEXT


@case
async def custom_metadata(client: DriverClient, _scale: Scale) -> None:
    for exc in await failures(client, Code.UNKNOWN, SPECIAL_TEXT):
        assert exc.__notes__ == ["a note", SPECIAL_TEXT]


async def use_as(client: DriverClient, kind: Kind, method: str) -> None:
    match kind:
        case Kind.UNARY:
            await client.call_async(method)
        case Kind.GENERATOR:
            await client.streamingcall_async(method).__anext__()
        case Kind.STREAM:
            async with client.stream_async(method):
                pass


@case
async def unimplemented_method(client: DriverClient, _scale: Scale) -> None:
    for kind in Kind:
        exc = await failure_of(use_as(client, kind, "no_such_method"))
        assert isinstance(exc, DriverMethodNotImplemented)


@case
async def unimplemented_service(client: DriverClient, _scale: Scale) -> None:
    for kind in Kind:
        exc = await failure_of(use_as(nobody_at(client), kind, "empty"))
        assert isinstance(exc, DriverMethodNotImplemented)


@case
async def method_of_another_kind(client: DriverClient, _scale: Scale) -> None:
    for kind in Kind:
        for method in (name for other, name in EXPORTED.items() if other is not kind):
            exc = await failure_of(use_as(client, kind, method))
            assert isinstance(exc, DriverMethodNotImplemented)


# ---------------------------------------------------------------------- cancellation and deadlines


@case
async def cancel_before_start(client: DriverClient, _scale: Scale) -> None:
    began = await client.call_async("how_much_began")
    for kind, method in EXPORTED.items():
        with trio.CancelScope() as scope:
            scope.cancel()
            await use_as(client, kind, method)
        assert scope.cancelled_caught
    assert await client.call_async("how_much_began") == began


@case
async def cancel_after_begin(client: DriverClient, _scale: Scale) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.call_async, "hold")
        await trio.lowlevel.checkpoint()  # the call is sent, but may not have started
        nursery.cancel_scope.cancel()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.call_async, "hold")
        await client.call_async("until_running", "hold")
        nursery.cancel_scope.cancel()
    await nothing_runs(client)


@case
async def cancel_after_received_headers(client: DriverClient, scale: Scale) -> None:
    with trio.CancelScope() as scope:
        async with client.stream_async("duplex") as stream:
            scope.cancel()
            await stream.receive_some()
    assert scope.cancelled_caught
    with trio.CancelScope() as scope:
        async with client.streamingcall_async("gen_async", scale.downloads) as items:
            scope.cancel()
            await items.__anext__()
    assert scope.cancelled_caught
    await nothing_runs(client)


@case
async def cancel_after_sent_first_message(client: DriverClient, _scale: Scale) -> None:
    with trio.CancelScope() as scope:
        async with client.stream_async("duplex") as stream:
            await stream.send_all(b"half")
            scope.cancel()
            await stream.receive_some()
    assert scope.cancelled_caught
    await nothing_runs(client)


@case
async def cancel_after_first_response(client: DriverClient, scale: Scale) -> None:
    async with client.streamingcall_async("gen_async", scale.downloads) as items:
        assert await items.__anext__() == pattern(scale.downloads[0])
    await nothing_runs(client)
    request, answer = ping_pongs(scale)[0]
    with trio.CancelScope() as scope:
        async with client.stream_async("duplex") as stream:
            await stream.send_all(request)
            assert await receive_exactly(stream, 1) == answer[:1]
            scope.cancel()
            await trio.lowlevel.checkpoint()
    assert scope.cancelled_caught
    await nothing_runs(client)


@case
async def timeout_on_sleeping_server(client: DriverClient, _scale: Scale) -> None:
    with trio.move_on_after(0.001) as scope:
        await client.call_async("sleep", LONG)
    assert scope.cancelled_caught
    await nothing_runs(client)


@case
async def timeout_but_completed_before_expiry(client: DriverClient, scale: Scale) -> None:
    with trio.fail_after(LONG):
        assert await client.call_async("empty") is None
        async with client.streamingcall_async("gen_async", scale.downloads) as items:
            assert len([item async for item in items]) == len(scale.downloads)
        async with client.stream_async("sum_stream") as stream:
            await stream.send_eof()
            assert int.from_bytes(await all_of(stream), "little") == 0
    assert await client.call_async("empty") is None


# ------------------------------------------------------------------------------------- numbers


@case
async def rpc_soak(client: DriverClient, scale: Scale) -> None:
    for number in range(scale.soak):
        assert await client.call_async("echo", number) == number


@case
async def concurrent_large_unary(client: DriverClient, scale: Scale) -> None:
    payload = pattern(scale.request)
    expected = stretched(payload, scale.response)
    left = iter(range(scale.large_calls))

    async def work() -> None:
        for _ in left:
            assert await client.call_async("unary_async", scale.response, payload) == expected

    async with trio.open_nursery() as nursery:
        for _ in range(min(AT_ONCE, scale.large_calls)):
            nursery.start_soon(work)


async def echo_at_once(client: DriverClient, count: int) -> None:
    async def echo(number: int) -> None:
        assert await client.call_async("echo", number) == number

    async with trio.open_nursery() as nursery:
        for number in range(count):
            nursery.start_soon(echo, number)


@case
async def thousands_of_calls_on_one_channel(client: DriverClient, scale: Scale) -> None:
    await echo_at_once(client, scale.calls)


@case_with(max_calls=1)
async def max_streams_exceeded_does_not_fail(client: DriverClient, _scale: Scale) -> None:
    await echo_at_once(client, 10)


@case
async def thousands_of_calls_all_timing_out(client: DriverClient, scale: Scale) -> None:
    timed_out = 0

    async def hold() -> None:
        nonlocal timed_out
        with trio.move_on_after(0.01) as scope:
            await client.call_async("hold")
        timed_out += scope.cancelled_caught

    async with trio.open_nursery() as nursery:
        for _ in range(scale.calls):
            nursery.start_soon(hold)
    assert timed_out == scale.calls
    await nothing_runs(client)


# ----------------------------------------------------------------------------------- backpressure


@case
async def pushback_at_server(client: DriverClient, scale: Scale) -> None:
    window = scale.limits.stream_window
    sent = 0

    async def send(stream: trio.abc.HalfCloseableStream) -> None:
        nonlocal sent
        for _ in range(4 * scale.windows):
            await stream.send_all(bytes(window // 4))
            sent += window // 4
        await stream.send_eof()

    async def count() -> int:
        return sent

    async with client.stream_async("stuck") as stream, trio.open_nursery() as nursery:
        nursery.start_soon(send, stream)
        # A window waits on the exporter, and the driver may hold another.
        held = await settled(client, count, scale.echoes)
        assert window <= held <= (2 + scale.lane_windows) * window, held
        await client.call_async("release")
        assert int.from_bytes(await all_of(stream), "little") == scale.windows * window


@case
async def pushback_at_client(client: DriverClient, scale: Scale) -> None:
    window = scale.limits.stream_window

    async def count() -> int:
        number: int = await client.call_async("how_much_was_offered")
        return number

    async with client.stream_async("flood", 4 * scale.windows, window // 4) as stream:
        held = await settled(client, count, scale.echoes)
        assert window <= held <= (2 + scale.lane_windows) * window, held
        assert len(await all_of(stream)) == scale.windows * window
