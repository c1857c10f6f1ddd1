"""Tests of `jumpstarter.client._raw_streams`: how a raw stream opens, and how it ends."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest
import trio
import trio.testing
from trio.testing import MockClock, wait_all_tasks_blocked

from drivers_for_tests import Lab
from helpers import ask, begin, cancelled_scope, channel_to, scripted, stream
from jumpstarter._limits import Limits
from jumpstarter._protocol import events as ev
from jumpstarter._protocol.codec import encode_value
from jumpstarter.client import RemoteStream
from jumpstarter.client._raw_streams import close_together
from jumpstarter.driver import Driver, exportstream
from jumpstarter.errors import CallOutcomeUnknown, DriverConnectionError, DriverError, DriverOSError


async def test_a_stream_that_cannot_be_opened_raises_what_the_driver_raised() -> None:
    lab = Lab()
    lab.let_go.set()
    async with channel_to(lab) as channel:
        with pytest.raises(
            DriverConnectionError, match=r"'nobody' of the driver: .*nobody is there"
        ):
            await stream(channel, "nobody")


async def test_bytes_go_both_ways_however_many() -> None:
    async with channel_to(Lab()) as channel, trio.open_nursery() as nursery:
        echo = await stream(channel, "connect")

        async def send() -> None:
            await echo.send_all(bytes(3_000_000))
            await echo.send_eof()

        nursery.start_soon(send)
        assert sum([len(data) async for data in echo]) == 3_000_000
        await echo.aclose()


async def test_sending_is_done_when_the_bytes_have_left_and_not_when_they_were_taken() -> None:
    async with scripted() as (channel, exporter), trio.open_nursery() as nursery:
        opening = await begin(nursery, stream, channel, "connect")
        exporter.rules.accept((await exporter.event(ev.CallReceived)).slot, encode_value(None))
        await exporter.send()
        await wait_all_tasks_blocked()
        await begin(nursery, channel.call, ask("beside"))  # shares the writer's task
        sending = await begin(nursery, opening.value.send_all, bytes(20_000))
        assert sending.ended
        more = await begin(nursery, opening.value.send_all, bytes(20_000))
        assert not more.ended, "there is credit for 32 KiB"
        nursery.cancel_scope.cancel()


async def test_opening_that_is_cancelled_ends_the_driver() -> None:
    lab = Lab()
    async with channel_to(lab) as channel, trio.open_nursery() as nursery:
        opening = await begin(nursery, stream, channel, "nobody")
        await opening.cancel()
        assert isinstance(opening.error, trio.Cancelled)
        assert lab.log == ["nobody started", "nobody ended"]


async def test_closing_a_stream_delivers_what_was_sent_and_waits_for_the_driver(
    autojump_clock: MockClock,
) -> None:
    lab = Lab()
    async with channel_to(lab) as channel:
        sink = await stream(channel, "sink", 2)
        await sink.send_all(b"12345")
        await sink.aclose()
        assert lab.log == ["sink started", "took 5", "sink ended"]
        assert autojump_clock.current_time() == pytest.approx(2)
        assert sink.closed
        await sink.aclose()
        sink.check()


async def test_closing_waits_no_longer_than_the_device_may_linger(
    autojump_clock: MockClock,
) -> None:
    lab = Lab()
    async with channel_to(lab, limits=Limits(linger=3)) as channel:
        sink = await stream(channel, "sink", 100)
        await sink.send_all(b"12345")
        await sink.aclose()
        assert lab.log == ["sink started", "sink ended"]
        assert autojump_clock.current_time() == pytest.approx(3)
        sink.check()


class Slow(Driver):
    """A driver whose stream takes 16 KiB every 0.2 s, like a slow line but sped up."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.taken = 0

    @classmethod
    def client(cls) -> str:
        return "jumpstarter.client.DriverClient"

    @exportstream
    @asynccontextmanager
    async def connect(self) -> AsyncIterator[trio.abc.Stream]:
        near, far = trio.testing.lockstep_stream_pair()

        async def take() -> None:
            while True:
                for _ in range(16):
                    self.taken += len(await far.receive_some(1024))
                await trio.sleep(0.2)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(take)
            yield near
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize(("linger", "complete"), [(1.5, True), (0.5, False)])
async def test_closing_waits_while_the_device_takes_bytes(
    linger: float,
    complete: bool,
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    del autojump_clock
    lab = Slow()
    async with channel_to(lab, limits=Limits(linger=linger)) as channel:
        slow = await stream(channel, "connect")
        await slow.send_all(bytes(600_000))
        await slow.aclose()
        assert (lab.taken == 600_000) is complete
        assert ("had not taken all within 0.5 s" in caplog.text) is not complete
        slow.check()


async def test_closing_that_is_cancelled_cancels_the_driver(autojump_clock: MockClock) -> None:
    lab = Lab()
    async with channel_to(lab) as channel:
        sink = await stream(channel, "sink", 100)
        await sink.send_all(b"12345")
        with cancelled_scope():
            await sink.aclose()
        assert lab.log == ["sink started", "sink ended"]
        assert autojump_clock.current_time() == 0


async def test_two_tasks_may_close_a_stream_concurrently(autojump_clock: MockClock) -> None:
    lab = Lab()
    async with channel_to(lab) as channel:
        sink = await stream(channel, "sink", 2)
        await sink.send_all(b"12345")
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(sink.aclose)
        assert lab.log == ["sink started", "took 5", "sink ended"]
        assert autojump_clock.current_time() == pytest.approx(2)


async def test_streams_that_are_closed_together_take_no_longer_than_the_slowest(
    autojump_clock: MockClock,
) -> None:
    lab = Lab()
    async with channel_to(lab) as channel:
        sinks = [await stream(channel, "sink", pace) for pace in (2, 3)]
        for sink in sinks:
            await sink.send_all(b"12345")
        await close_together(sinks)
        assert lab.log.count("took 5") == 2
        assert autojump_clock.current_time() == pytest.approx(3)


async def test_a_stream_whose_driver_fails_breaks_with_what_it_raised_as_the_cause() -> None:
    async with channel_to(Lab()) as channel:
        sink = await stream(channel, "sink")
        await sink.send_all(b"fail")
        with pytest.raises(trio.BrokenResourceError) as caught:
            await sink.receive_some()
        assert isinstance(caught.value.__cause__, DriverOSError)
        with pytest.raises(trio.BrokenResourceError):
            await sink.send_all(b"more")
        await sink.aclose()
        with pytest.raises(DriverOSError, match=r"'sink' of the driver: .*the device has gone"):
            sink.check()


async def test_closing_after_an_incomplete_send_cancels_the_driver(
    autojump_clock: MockClock,
) -> None:
    lab = Lab()
    async with channel_to(lab) as channel, trio.open_nursery() as nursery:
        sink = await stream(channel, "sink", 100)
        sending = await begin(nursery, sink.send_all, bytes(1_000_000))
        await sending.cancel()
        assert isinstance(sending.error, trio.Cancelled)
        await sink.aclose()
        assert lab.log == ["sink started", "sink ended"]
        assert autojump_clock.current_time() == 0
        sink.check()


async def test_a_stream_that_ends_without_its_last_bytes_never_looks_finished() -> None:
    async with scripted() as (channel, exporter), trio.open_nursery() as nursery:
        opening = await begin(nursery, stream, channel, "connect")
        slot = (await exporter.event(ev.CallReceived)).slot
        exporter.rules.accept(slot, encode_value(None))
        exporter.rules.data(slot, b"almost")
        await exporter.result(slot)  # the exporter's half has not ended before it
        await wait_all_tasks_blocked()
        source = opening.value
        assert isinstance(source, RemoteStream)
        assert await source.receive_some() == b"almost"
        with pytest.raises(trio.BrokenResourceError, match="without its last bytes"):
            await source.receive_some()
        with pytest.raises(DriverError, match="'connect' of the driver: the exporter ended the"):
            source.check()


async def test_a_stream_whose_connection_ends_breaks_and_can_be_closed() -> None:
    async with scripted() as (channel, exporter), trio.open_nursery() as nursery:
        opening = await begin(nursery, stream, channel, "connect")
        slot = (await exporter.event(ev.CallReceived)).slot
        exporter.rules.accept(slot, encode_value(None))
        await exporter.send()
        await exporter.stream.aclose()
        await wait_all_tasks_blocked()
        source = opening.value
        assert isinstance(source, RemoteStream)
        with pytest.raises(trio.BrokenResourceError) as caught:
            await source.receive_some()
        assert isinstance(caught.value.__cause__, CallOutcomeUnknown)
        await source.aclose()
        source.close_soon()
        with pytest.raises(CallOutcomeUnknown):
            source.check()


async def test_close_soon_ends_the_driver_without_waiting() -> None:
    lab = Lab()
    async with channel_to(lab) as channel:
        sink = await stream(channel, "sink")
        sink.close_soon()
        assert lab.log == ["sink started"]
        await wait_all_tasks_blocked()
        assert lab.log == ["sink started", "sink ended"]
        sink.close_soon()


async def test_a_stream_has_the_methods_and_errors_of_anyio() -> None:
    async with channel_to(Lab()) as channel:
        echo = await stream(channel, "connect")
        await echo.send(b"abcdef")
        assert await echo.receive(2) == b"ab"
        assert await echo.receive() == b"cdef"
        assert echo.extra(anyio.abc.SocketAttribute.raw_socket, "none") == "none"
        async with echo:
            await echo.send(b"last")
            await echo.send_eof()
            assert [data async for data in echo] == [b"last"]
            with pytest.raises(anyio.EndOfStream):
                await echo.receive()
        for use in (echo.receive, echo.send_eof):
            with pytest.raises(anyio.ClosedResourceError):
                await use()


async def test_a_broken_stream_raises_anyios_error_with_the_reason() -> None:
    async with channel_to(Lab()) as channel:
        broken = await stream(channel, "sink")
        await broken.send(b"fail")
        with pytest.raises(anyio.BrokenResourceError) as caught:
            await broken.receive()
        assert isinstance(caught.value, trio.BrokenResourceError)
        assert isinstance(caught.value.__cause__, DriverError)
        await broken.aclose()
