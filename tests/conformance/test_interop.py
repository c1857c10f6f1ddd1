"""Tests of the conformance cases, with gRPC's sizes, over every transport and in blocking code.

In memory, the cases make hundreds of calls instead of thousands (see `IN_MEMORY` and `DRIPPING`);
over sockets, they make all of them. The tests at the end use a scripted exporter, because only a
misbehaving peer can cause the behaviour that they check.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from typing import Final

import pytest
import trio
from cases import CASES, Case
from cases_blocking import BLOCKING_CASES
from driver_conformance import Conformance, receive_exactly
from driver_conformance_asyncio import AsyncioConformance
from ends import Ends
from scales import DRIPPING, FULL, IN_MEMORY, Scale
from trio.testing import MockClock, wait_all_tasks_blocked

from helpers import ScriptedExporter, ask, in_time, scripted
from jumpstarter import Limits, connect, serve, serve_async
from jumpstarter._limits import DEFAULT_LIMITS
from jumpstarter._protocol import events as ev
from jumpstarter._protocol.codec import encode_error, encode_value
from jumpstarter._protocol.frames import ErrorBody, Kind
from jumpstarter.client import DriverClient
from jumpstarter.client._channel import Channel
from jumpstarter.client._raw_streams import open_stream
from jumpstarter.errors import CallRefused, Code, DriverError, DriverOSError
from jumpstarter.portal import start_blocking_portal
from transports import (
    PairMaker,
    dripping_pair,
    lockstep_pair,
    memory_pair,
    over_every_transport,
    unix_pair,
)

PATIENCE: Final = 120.0  # seconds for a case; the largest take five on an idle machine
SCALES: Final[dict[PairMaker, Scale]] = {
    memory_pair: IN_MEMORY,
    lockstep_pair: IN_MEMORY,
    dripping_pair: DRIPPING,
}
CONNECTIONS: Final = 20
DAY: Final = 86_400.0  # seconds


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_asyncio_code_of_a_driver_answers_it(case: Case) -> None:
    scale = IN_MEMORY.in_lane().within(case.max_calls)
    ends = Ends(await memory_pair(), scale.limits, AsyncioConformance)
    async with in_time(PATIENCE), ends.running() as client:
        await case.run(client, scale)
        assert not ends.driver.running


@over_every_transport
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_a_trio_client_does_it(case: Case, make_pair: PairMaker) -> None:
    scale = SCALES.get(make_pair, FULL).within(case.max_calls)
    ends = Ends(await make_pair(), scale.limits)
    async with in_time(PATIENCE), ends.running() as client:
        await case.run(client, scale)
        assert not ends.driver.running


@contextmanager
def connected(limits: Limits) -> Iterator[DriverClient]:
    """Yield a blocking client that is connected over TCP to an exporter in another thread."""
    address = "tcp://127.0.0.1:0"
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(serve_async(Conformance(), address)) as server,
        connect(server.address, limits=limits) as client,
        client.timeout(PATIENCE),
    ):
        yield client


@contextmanager
def served(limits: Limits) -> Iterator[DriverClient]:
    """Yield the client of `serve`, which uses a Unix socket and the default limits."""
    del limits
    with serve(Conformance()) as client, client.timeout(PATIENCE):
        yield client


@pytest.mark.parametrize("join", [connected, served])
@pytest.mark.parametrize("name", BLOCKING_CASES)
def test_a_blocking_client_does_it(
    name: str, join: Callable[[Limits], AbstractContextManager[DriverClient]]
) -> None:
    scale = FULL.within(CASES[name].max_calls)
    with join(scale.limits) as client:
        BLOCKING_CASES[name](client, scale)


# ------------------------------------------------------------------------ many and long connections


@over_every_transport
async def test_many_connections_one_after_the_other(make_pair: PairMaker) -> None:
    async with in_time(PATIENCE):
        for _ in range(CONNECTIONS):
            async with Ends(await make_pair(), FULL.limits).running() as client:
                await CASES["large_unary"].run(client, Scale(request=500, response=500))


@pytest.mark.parametrize("make_pair", [unix_pair, memory_pair])
async def test_a_connection_lives_as_long_as_it_takes(
    make_pair: PairMaker, autojump_clock: MockClock
) -> None:
    del autojump_clock
    async with Ends(await make_pair(), FULL.limits).running() as client:
        for day in range(3):
            assert await client.call_async("unary_async", 3, bytes([day])) == bytes([day] * 3)
            await trio.sleep(DAY)


# ------------------------------------------------------------------------------ a scripted exporter


@asynccontextmanager
async def scripted_over(
    make_pair: PairMaker, limits: Limits = DEFAULT_LIMITS
) -> AsyncIterator[tuple[Channel, ScriptedExporter]]:
    """Yield a channel and a scripted exporter over a new pair of streams, then close both."""
    ours, theirs = await make_pair()
    async with theirs, scripted(limits=limits, make_pair=lambda: (ours, theirs)) as ends:
        await wait_all_tasks_blocked()  # the exporter has sent its HELLO
        yield ends


@over_every_transport
async def test_a_goaway_between_calls_refuses_the_second(make_pair: PairMaker) -> None:
    async with scripted_over(make_pair) as (channel, exporter), trio.open_nursery() as tasks:
        tasks.start_soon(channel.call, ask("first"))
        slot = (await exporter.event(ev.CallReceived)).slot
        await exporter.goaway("enough for today")
        await exporter.event(ev.GoawayAcked)
        with pytest.raises(CallRefused, match="enough for today"):
            await channel.call(ask("second"))
        await exporter.result(slot)


async def send_for_ever(stream: trio.abc.SendStream) -> None:
    while True:
        await stream.send_all(b"x")


@over_every_transport
@pytest.mark.parametrize("sent", ["nothing", "some", "all"])
async def test_an_error_at_any_point_of_a_stream_is_told_behind_its_bytes(
    make_pair: PairMaker, sent: str
) -> None:
    data = {"nothing": b"", "some": b"half", "all": b"all of it"}[sent]
    async with scripted_over(make_pair) as (channel, exporter), trio.open_nursery() as tasks:

        async def answer() -> None:
            slot = (await exporter.event(ev.CallReceived)).slot
            exporter.rules.accept(slot, encode_value(None))
            if data:
                exporter.rules.data(slot, data, end=sent == "all")
            await exporter.error(slot, Code.OS_ERROR, "the cable is out")

        tasks.start_soon(answer)
        stream = await open_stream(channel, ask("connect", kind=Kind.STREAM))
        assert await receive_exactly(stream, len(data)) == data
        if sent == "all":
            assert await stream.receive_some() == b""
        else:
            with pytest.raises(trio.BrokenResourceError):
                await stream.receive_some()
        with pytest.raises(trio.BrokenResourceError) as broken:
            await send_for_ever(stream)
        assert isinstance(broken.value.__cause__, DriverOSError)
        await stream.aclose()
        with pytest.raises(DriverOSError, match="the cable is out"):
            stream.check()


@over_every_transport
async def test_every_ping_is_answered_and_of_a_flood_at_least_the_last(
    make_pair: PairMaker,
) -> None:
    pings = [number.to_bytes(8, "little") for number in range(100)]
    patient = Limits(ping_burst=2 * len(pings))
    async with scripted_over(make_pair, patient) as (_, exporter):
        for ping in pings:
            exporter.rules.ping(ping)
            await exporter.send()
            assert (await exporter.event(ev.PongReceived)).payload == ping
        for ping in pings:
            exporter.rules.ping(ping)
        await exporter.send()
        answers = [(await exporter.event(ev.PongReceived)).payload]
        while answers[-1] != pings[-1]:
            answers.append((await exporter.event(ev.PongReceived)).payload)
        assert answers == sorted(answers)


async def test_bytes_in_the_smallest_frames_are_all_accounted_for() -> None:
    """Send 314,160 bytes in frames of 5 bytes; the window would hold a tenth of them."""
    size, pieces = 5, 62_832
    async with in_time(PATIENCE), scripted() as (channel, exporter), trio.open_nursery() as tasks:

        async def answer() -> None:
            slot = (await exporter.event(ev.CallReceived)).slot
            exporter.rules.accept(slot, encode_value(None))
            for _ in range(pieces):
                while exporter.rules.sendable(slot) < size:
                    await exporter.send()
                    await exporter.event(ev.CreditReceived)
                exporter.rules.data(slot, bytes(size))
            exporter.rules.data(slot, b"", end=True)
            await exporter.result(slot)

        tasks.start_soon(answer)
        stream = await open_stream(channel, ask("connect", kind=Kind.STREAM))
        received = 0
        async for data in stream:
            received += len(data)
        assert received == size * pieces
        await stream.aclose()


@pytest.mark.parametrize("number", range(1, 17))
async def test_every_status_of_grpc_arrives_as_an_error_of_its_call(number: int) -> None:
    async with scripted() as (channel, exporter), trio.open_nursery() as tasks:

        async def answer() -> None:
            slot = (await exporter.event(ev.CallReceived)).slot
            exporter.rules.error(slot, encode_error(number, ErrorBody("", "no reason")))
            await exporter.send()

        tasks.start_soon(answer)
        with pytest.raises(DriverError, match="no reason") as info:
            await channel.call(ask("first"))
        known = number in Code._value2member_map_
        assert info.value.code == (number if known else Code.UNKNOWN)
