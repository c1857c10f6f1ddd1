"""Tests of `_exporter.session`: calls end by deadline, by cancellation, and with the session.

In each case the driver's code has ended before the client learns of it. The tests use virtual
clocks for `async` drivers only, since these clocks do not wait for threads.
"""

from __future__ import annotations

import gc
import math
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from trio.testing import MockClock, wait_all_tasks_blocked

from drivers_for_tests import Echo
from helpers import PATIENCE, ScriptedClient, answered, ask, channel_to, until
from jumpstarter._exporter.executor import DriverExecutor
from jumpstarter._exporter.incoming_call import IncomingCall
from jumpstarter._framing import HEADER_SIZE
from jumpstarter._limits import Limits
from jumpstarter._protocol import events as ev
from jumpstarter._protocol.codec import call_prefix, encode_call, encode_cancel
from jumpstarter._protocol.frames import FrameType, Kind
from jumpstarter.client._generators import RemoteGenerator
from jumpstarter.client._raw_streams import open_stream
from jumpstarter.driver import export, exportstream
from jumpstarter.errors import (
    CallCancelled,
    CallRefused,
    Code,
    DriverError,
    DriverInvalidArgument,
    DriverTimeoutError,
)
from transports import lockstep_pair
from wire import frame

# The kinds of the methods that hold until they are cancelled.
HOLDING = {
    "method": Kind.UNARY,
    "method_async": Kind.UNARY,
    "generator": Kind.GENERATOR,
    "generator_async": Kind.GENERATOR,
    "stream": Kind.STREAM,
    "stream_entering": Kind.STREAM,
}
each_holding = pytest.mark.parametrize("method", HOLDING)


class Holding(Echo):
    """A driver that holds in each place where its code runs, and logs when it has let go."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = trio.Event()
        self.log: list[str] = []

    async def hold(self) -> None:
        self.begun.set()
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.lowlevel.checkpoint()
            self.log.append("let go")

    @export
    def method(self) -> None:
        trio.from_thread.run(self.hold)

    @export
    async def method_async(self) -> None:
        await self.hold()

    @export
    def generator(self) -> Generator[int, None, None]:
        yield 1
        trio.from_thread.run(self.hold)

    @export
    async def generator_async(self) -> AsyncGenerator[int, None]:
        yield 1
        await self.hold()

    @export
    async def flood(self) -> AsyncGenerator[bytes, None]:
        self.begun.set()
        try:
            while True:
                yield bytes(10_000)
        finally:
            self.log.append("let go")

    @exportstream
    @asynccontextmanager
    async def stream(self) -> AsyncIterator[trio.abc.Stream]:
        ours, _theirs = trio.testing.memory_stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.hold)
            yield ours

    @exportstream
    @asynccontextmanager
    async def stream_entering(self) -> AsyncIterator[None]:
        await self.hold()
        yield


class Stubborn(Echo):
    """A driver that ignores a cancellation, or reacts to it late."""

    @export
    async def swallow(self) -> str:
        with trio.CancelScope() as scope:
            try:
                await trio.sleep_forever()
            except trio.Cancelled:
                scope.cancel()
        return "done all the same"

    @export
    async def linger(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(3)

    @export
    async def fail_in_cleanup(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("the relay did not switch off")

    @export
    async def count_forever(self) -> AsyncGenerator[int, None]:
        number = 0
        while True:
            yield number
            number += 1
            await trio.sleep(1)


# --- deadlines ---


async def test_a_method_is_ended_at_its_deadline(autojump_clock: MockClock) -> None:
    driver = Holding()
    async with answered(driver) as client:
        await client.greet()
        with pytest.raises(DriverTimeoutError) as caught:
            await client.answer(await client.call("method_async", timeout_ms=5000))
        assert autojump_clock.current_time() == 5
        assert driver.log == ["let go"]
        assert await client.answer(await client.call("echo_async", 1)) == 1
    assert caught.value.code is Code.DEADLINE_EXCEEDED
    assert caught.value.message == ("its deadline passed, 5 s after the exporter had received it")


async def test_a_method_in_a_thread_is_ended_at_its_deadline() -> None:
    driver = Holding()
    async with answered(driver) as client:
        await client.greet()
        with pytest.raises(DriverTimeoutError, match=r"0\.05 s after"):
            await client.answer(await client.call("method", timeout_ms=50))
        assert driver.log == ["let go"]


async def test_a_deadline_is_answered_when_the_driver_has_ended(autojump_clock: MockClock) -> None:
    async with answered(Stubborn()) as client:
        await client.greet()
        with pytest.raises(DriverTimeoutError):
            await client.answer(await client.call("linger", timeout_ms=5000))
        assert autojump_clock.current_time() == 5 + 3


async def test_a_method_that_returns_after_its_deadline_has_its_result_sent(
    autojump_clock: MockClock,
) -> None:
    async with answered(Stubborn()) as client:
        await client.greet()
        slot = await client.call("swallow", timeout_ms=5000)
        assert await client.answer(slot) == "done all the same"
        assert autojump_clock.current_time() == 5


async def test_a_call_that_ends_before_its_deadline_hears_no_more_of_it(
    autojump_clock: MockClock,
) -> None:
    async with answered(Echo(), patience=60) as client:
        await client.greet()
        assert await client.answer(await client.call("echo_async", 1, timeout_ms=1000)) == 1
        slot = await client.call("count_async", 3, kind=Kind.GENERATOR, timeout_ms=1000)
        await client.answer(slot)
        await trio.sleep(10)
        assert await client.answer(await client.call("echo_async", 1)) == 1
        assert autojump_clock.current_time() == 10


@pytest.mark.parametrize("method", ["generator_async", "flood", "stream", "stream_entering"])
async def test_what_a_silent_client_has_opened_is_ended_a_second_after_its_deadline(
    method: str, autojump_clock: MockClock
) -> None:
    driver = Holding()
    kind = HOLDING.get(method, Kind.GENERATOR)
    async with answered(driver) as client:
        await client.greet()
        slot = await client.call(method, kind=kind, timeout_ms=5000)
        await trio.sleep(5.5)
        assert driver.log == []
        with pytest.raises(DriverTimeoutError, match="its deadline passed, 5 s after") as caught:
            await client.answer(slot)  # although the PING has no answer
        assert caught.value.code is Code.DEADLINE_EXCEEDED
        assert autojump_clock.current_time() == pytest.approx(6, abs=0.01)
        assert driver.log == ["let go"]


async def test_a_generator_outlives_its_deadline_while_its_client_is_alive(
    autojump_clock: MockClock,
) -> None:
    async with (
        channel_to(Stubborn()) as channel,
        RemoteGenerator(channel, ask("count_forever", kind=Kind.GENERATOR)) as numbers,
    ):
        with trio.move_on_after(1.5):
            assert await anext(numbers) == 0
        assert [await anext(numbers) for _ in range(6)] == list(range(1, 7))
        assert autojump_clock.current_time() == pytest.approx(6, abs=0.01)


async def test_a_stream_outlives_its_deadline_while_its_client_is_alive(
    autojump_clock: MockClock,
) -> None:
    async with channel_to(Echo()) as channel:
        with trio.move_on_after(2):
            stream = await open_stream(channel, ask("connect", kind=Kind.STREAM))
        async with stream:
            await trio.sleep(6)
            await stream.send_all(b"still here")
            assert await stream.receive_some() == b"still here"
            assert autojump_clock.current_time() == pytest.approx(6, abs=0.01)


# --- cancellation ---


async def assert_cancelled(client: ScriptedClient, slot: int) -> None:
    """Check that a call ends as a cancelled one, and that the connection survives."""
    with pytest.raises(CallCancelled, match=r"^the call was cancelled$") as caught:
        await client.answer(slot)
    assert caught.value.code is Code.CANCELLED
    assert caught.value.remote_type == ""
    assert await client.answer(await client.call("echo", "next")) == "next"


@each_holding
async def test_a_call_is_cancelled_while_it_runs(method: str) -> None:
    driver = Holding()
    async with answered(driver) as client:
        await client.greet()
        slot = await client.call(method, kind=HOLDING[method])
        await driver.begun.wait()
        await client.cancel(slot)
        await assert_cancelled(client, slot)
        assert driver.log == ["let go"]


@each_holding
async def test_a_call_cancelled_before_its_start_never_starts(method: str) -> None:
    driver = Holding()
    async with answered(driver) as client:
        await client.greet()
        slot = client.queue(method, kind=HOLDING[method])
        client.rules.cancel(slot)
        await client.send()  # both frames together
        await assert_cancelled(client, slot)
        assert not driver.begun.is_set()
        assert driver.log == []
        assert client.items[slot] == []


async def test_a_call_cancelled_while_it_waits_for_a_thread_never_starts() -> None:
    driver = Holding()
    async with answered(driver, executor=DriverExecutor(1)) as client:
        await client.greet()
        holding = await client.call("method")
        await driver.begun.wait()
        waiting = await client.call("echo", "never")
        await wait_all_tasks_blocked()
        await client.cancel(waiting)
        with pytest.raises(CallCancelled):
            await client.answer(waiting)
        await client.cancel(holding)
        await assert_cancelled(client, holding)


async def test_a_thread_that_does_not_ask_ends_as_it_would_have() -> None:
    class Blocking(Echo):
        begun = threading.Event()
        release = threading.Event()

        @export
        def block(self) -> str:
            self.begun.set()
            assert self.release.wait(PATIENCE)
            return "done all the same"

    driver = Blocking()
    async with answered(driver) as client:
        await client.greet()
        slot = await client.call("block")
        await trio.to_thread.run_sync(driver.begun.wait)
        await client.cancel(slot)
        assert await client.answer(await client.call("echo_async", "meanwhile")) == "meanwhile"
        driver.release.set()
        assert await client.answer(slot) == "done all the same"


async def test_a_generator_is_cancelled_while_it_waits_for_credit() -> None:
    driver = Holding()
    async with answered(driver) as client:
        await client.greet()
        slot = await client.call("flood", kind=Kind.GENERATOR)
        await driver.begun.wait()
        await wait_all_tasks_blocked()
        assert driver.log == []
        await client.cancel(slot)
        await assert_cancelled(client, slot)
        assert driver.log == ["let go"]


async def test_a_large_result_that_nobody_wants_is_cut_short() -> None:
    async with answered(Echo()) as client:
        await client.greet()
        slot = await client.call("echo_async", bytes(10_000_000))
        await client.cancel(slot)
        with pytest.raises(CallCancelled):
            await client.answer(slot)
        assert await client.answer(await client.call("echo", "next")) == "next"


async def test_a_large_item_that_nobody_wants_is_cut_short() -> None:
    class Large(Echo):
        @export
        async def large(self) -> AsyncGenerator[bytes, None]:
            yield bytes(10_000_000)

    async with answered(Large()) as client:
        await client.greet()
        slot = await client.call("large", kind=Kind.GENERATOR)
        await client.read()  # the beginning of the item
        await client.cancel(slot)
        await assert_cancelled(client, slot)
        assert client.items[slot] == []


async def test_a_cancelled_call_is_answered_when_the_driver_has_ended(
    autojump_clock: MockClock,
) -> None:
    async with answered(Stubborn()) as client:
        await client.greet()
        slot = await client.call("linger")
        await wait_all_tasks_blocked()
        await client.cancel(slot)
        with pytest.raises(CallCancelled):
            await client.answer(slot)
        assert autojump_clock.current_time() == 3


async def test_a_driver_may_swallow_its_cancellation() -> None:
    async with answered(Stubborn()) as client:
        await client.greet()
        slot = await client.call("swallow")
        await wait_all_tasks_blocked()
        await client.cancel(slot)
        assert await client.answer(slot) == "done all the same"


async def test_a_failure_of_the_cleanup_is_told_in_place_of_the_cancellation() -> None:
    async with answered(Stubborn()) as client:
        await client.greet()
        slot = await client.call("fail_in_cleanup")
        await wait_all_tasks_blocked()
        await client.cancel(slot)
        with pytest.raises(DriverInvalidArgument, match="the relay did not switch off"):
            await client.answer(slot)


async def test_a_call_is_cancelled_once_however_often_it_is_asked_for() -> None:
    driver = Holding()
    async with answered(driver) as client:
        await client.greet()
        slot = await client.call("method_async")
        await driver.begun.wait()
        for _ in range(3):
            await client.cancel(slot)
        await assert_cancelled(client, slot)
        assert driver.log == ["let go"]


async def test_a_cancellation_that_comes_after_the_answer_is_nobodys() -> None:
    async with answered(Echo()) as client:
        await client.greet()
        slot = await client.call("echo_async", 1)
        assert await client.answer(slot) == 1
        late = frame(FrameType.CANCEL, slot, encode_cancel(Code.CANCELLED))
        await client.stream.send_all(late)
        assert await client.answer(await client.call("echo_async", 2)) == 2


async def test_a_closed_stream_ends_well_once_the_device_has_taken_what_was_sent() -> None:
    taken: list[bytes] = []

    class Slow(Echo):
        @exportstream
        @asynccontextmanager
        async def console(self) -> AsyncIterator[trio.abc.Stream]:
            ours, theirs = trio.testing.memory_stream_pair()
            ours.send_stream.send_all_hook = wait_all_tasks_blocked
            yield ours
            taken.append(bytes(await theirs.receive_some()))

    async with answered(Slow()) as client:
        await client.greet()
        slot = await client.call("console", kind=Kind.STREAM)
        await client.event(ev.AcceptReceived)
        client.rules.data(slot, b"reb")
        client.rules.data(slot, b"oot\n", end=True)
        await client.cancel(slot, Code.CLOSE)
        assert await client.answer(slot) is None
    assert taken == [b"reboot\n"]


# --- admission ---

EXPECTED = "secret"


@pytest.mark.parametrize(
    "token", ["", "secre", "secret ", "Secret", "geheim", "s\0ecret", "ß" * 900], ids=ascii
)
async def test_a_client_without_the_token_learns_that_it_is_not_admitted_and_no_more(
    token: str,
) -> None:
    async with answered(Echo(), token=token, expected_token=EXPECTED) as client:
        await client.send()
        event = await client.event(ev.GoawayReceived)
        assert event.goaway.code == Code.UNAUTHENTICATED
        assert event.goaway.text == "not admitted"
        assert await client.stream.receive_some() == b""


@pytest.mark.parametrize(("token", "expected"), [("secret", "secret"), ("ß", "ß"), ("any", "")])
async def test_a_client_with_the_token_is_admitted_and_everybody_where_there_is_none(
    token: str, expected: str
) -> None:
    async with answered(Echo(), token=token, expected_token=expected) as client:
        await client.greet()
        assert await client.answer(await client.call("echo", 1)) == 1


async def test_calls_that_come_with_a_hello_that_is_not_admitted_are_not_acted_on() -> None:
    driver = Holding()
    call = encode_call(call_prefix(1, Kind.UNARY, "method_async"), ())[HEADER_SIZE:]
    async with answered(driver, expected_token=EXPECTED) as client:
        hello = b"".join(map(bytes, client.rules.next_batch().buffers))
        await client.stream.send_all(hello + frame(FrameType.CALL, 1, bytes(call)))
        await client.event(ev.GoawayReceived)
        assert await client.stream.receive_some() == b""
    assert not driver.begun.is_set()


# --- orderly end of a session ---


async def test_a_drain_lets_what_was_accepted_finish_and_refuses_what_comes_after(
    autojump_clock: MockClock,
) -> None:
    class Busy(Echo):
        @export
        async def work(self, seconds: float) -> str:
            await trio.sleep(seconds)
            return "finished"

    async with answered(Busy()) as client, trio.open_nursery() as nursery:
        await client.greet()
        first = await client.call("work", 2)
        await wait_all_tasks_blocked()
        nursery.start_soon(client.session.drain, 5, "maintenance")
        await wait_all_tasks_blocked()
        crossing = await client.call("echo_async", 1)  # the client has not read the GOAWAY yet
        goaway = await client.event(ev.GoawayReceived)
        await client.send()
        with pytest.raises(CallRefused, match="shutting down and takes no new calls") as caught:
            await client.answer(crossing)
        assert await client.answer(first) == "finished"
        assert await client.stream.receive_some() == b""
    assert caught.value.code is Code.REFUSED
    assert (goaway.goaway.code, goaway.goaway.grace_ms) == (Code.OK, 5000)
    assert goaway.goaway.text == "maintenance"
    assert autojump_clock.current_time() == 2


@pytest.mark.parametrize("method", ["method_async", "generator_async", "stream", "stream_entering"])
async def test_a_drain_cancels_what_has_not_finished_in_its_grace(
    method: str, autojump_clock: MockClock
) -> None:
    driver = Holding()
    async with answered(driver) as client, trio.open_nursery() as nursery:
        await client.greet()
        slot = await client.call(method, kind=HOLDING[method])
        await driver.begun.wait()
        nursery.start_soon(client.session.drain, 5, "maintenance")
        while not isinstance(await client.next_event(), ev.GoawayReceived):
            pass  # the ITEM or ACCEPT before the GOAWAY
        await client.send()
        with pytest.raises(CallCancelled):
            await client.answer(slot)
        assert await client.stream.receive_some() == b""
        assert driver.log == ["let go"]
    assert autojump_clock.current_time() == 5


async def test_a_drain_cancels_a_thread_and_waits_for_it() -> None:
    driver = Holding()
    async with answered(driver) as client:
        await client.greet()
        await client.call("method")
        await driver.begun.wait()
        await client.session.drain(0, "maintenance")
        assert driver.log == ["let go"]


async def test_a_drain_of_a_client_that_never_answers_ends_after_its_grace(
    autojump_clock: MockClock,
) -> None:
    async with answered(Echo()) as client:
        await client.greet()
        await client.session.drain(5, "maintenance")
        assert autojump_clock.current_time() == 5


@pytest.mark.parametrize("grace", [math.inf, 1e12])
async def test_a_drain_without_calls_ends_at_once_however_long_its_grace(grace: float) -> None:
    async with answered(Echo()) as client, trio.open_nursery() as nursery:
        await client.greet()
        nursery.start_soon(client.session.drain, grace, "maintenance")
        await client.event(ev.GoawayReceived)
        await client.send()
        assert await client.stream.receive_some() == b""


async def test_a_drain_before_the_clients_hello_just_hangs_up() -> None:
    async with answered(Echo()) as client:
        await wait_all_tasks_blocked()
        await client.session.drain(5, "maintenance")
        assert await client.stream.receive_some() == b""


# --- lost connections ---


async def begin_everything(client: ScriptedClient, driver: Holding) -> None:
    """Start two calls of each kind, which all hold."""
    await client.greet()
    for method, kind in [*HOLDING.items(), ("flood", Kind.GENERATOR)] * 2:
        driver.begun = trio.Event()
        await client.call(method, kind=kind)
        await driver.begun.wait()


async def hang_up(client: ScriptedClient) -> None:
    await client.stream.aclose()


async def break_the_rules(client: ScriptedClient) -> None:
    await client.stream.send_all(frame(FrameType.HELLO, 5, b"what?"))


async def send_no_frame_at_all(client: ScriptedClient) -> None:
    await client.stream.send_all(b"\xff" * 100)


async def stop_in_the_middle_of_a_frame(client: ScriptedClient) -> None:
    await client.stream.send_all(frame(FrameType.PING, 0, b"8 bytes!")[:11])
    await client.stream.aclose()


@pytest.mark.parametrize(
    "lose", [hang_up, break_the_rules, send_no_frame_at_all, stop_in_the_middle_of_a_frame]
)
async def test_a_session_returns_when_all_code_of_the_driver_has_ended(
    lose: Callable[[ScriptedClient], object],
) -> None:
    driver = Holding()
    executor = DriverExecutor()
    async with answered(driver, executor=executor) as client:
        await begin_everything(client, driver)
        assert driver.log == []
        await lose(client)  # type: ignore[misc]
    # `answered` has waited for the session, and for nothing else.
    assert driver.log == ["let go"] * 2 * (len(HOLDING) + 1)
    assert executor.limiter.borrowed_tokens == 0


async def test_a_session_that_is_cancelled_joins_its_calls_first() -> None:
    driver = Holding()
    executor = DriverExecutor()
    with trio.CancelScope() as scope:
        async with answered(driver, executor=executor) as client:
            await begin_everything(client, driver)
            scope.cancel()
            await trio.lowlevel.checkpoint()
    assert driver.log == ["let go"] * 2 * (len(HOLDING) + 1)
    assert executor.limiter.borrowed_tokens == 0


async def test_a_session_waits_for_a_slow_cleanup_when_its_connection_is_lost(
    autojump_clock: MockClock,
) -> None:
    async with answered(Stubborn()) as client:
        await client.greet()
        await client.call("linger")
        await wait_all_tasks_blocked()
    assert autojump_clock.current_time() == 3


async def test_many_calls_at_once_have_one_answer_each() -> None:
    async with answered(Echo(), executor=DriverExecutor(8)) as client:
        await client.greet()
        asked: dict[int, int] = {}
        for number in range(200):
            asked[client.queue(("echo", "echo_async", "nope")[number % 3], number)] = number
        await client.send()
        answers: dict[int, str] = {}
        while len(answers) < len(asked):
            event = await client.next_event()
            assert isinstance(event, ev.ResultReceived | ev.ErrorReceived)
            answers[event.slot] = type(event).__name__
    for slot, number in asked.items():
        assert answers[slot] == ("ErrorReceived" if number % 3 == 2 else "ResultReceived")


async def test_an_error_cuts_a_generators_items_short_but_loses_none() -> None:
    class Failing(Echo):
        @export
        def large(self) -> Generator[bytes, None, None]:
            yield bytes(100_000)
            raise OSError("unplugged")

    async with answered(Failing()) as client:
        await client.greet()
        slot = await client.call("large", kind=Kind.GENERATOR)
        with pytest.raises(DriverError, match="unplugged"):
            await client.answer(slot)
        assert client.items[slot] == [bytes(100_000)]


# --- clients that do not read ---

ANSWER: int = 30_000  # bytes: three exceed `max_unsent`


class Answering(Echo):
    """A driver that records which of its calls have begun."""

    def __init__(self) -> None:
        super().__init__()
        self.begun: list[int] = []

    @export
    async def answer_async(self, number: int) -> bytes:
        self.begun.append(number)
        return bytes(ANSWER)

    @export
    def answer(self, number: int) -> bytes:
        self.begun.append(number)
        return bytes(ANSWER)


async def answers(client: ScriptedClient, slots: list[int]) -> list[str]:
    """Wait until all these calls end, and return how each of them ended, in order."""
    ended: dict[int, str] = {}
    while ended.keys() != set(slots):
        event = await client.next_event()
        assert isinstance(event, ev.ResultReceived | ev.ErrorReceived)
        assert event.slot not in ended
        ended[event.slot] = "answered"
        if isinstance(event, ev.ErrorReceived):
            ended[event.slot] = Code(int.from_bytes(event.body[:2], "little")).name
    return list(ended.values())


@pytest.mark.parametrize("method", ["answer_async", "answer"])
async def test_what_a_client_asks_for_and_does_not_read_is_not_begun(method: str) -> None:
    """A few answers wait, and threads may run a few more calls; the rest begin later."""
    driver, executor = Answering(), DriverExecutor(4)
    limits = Limits(max_unsent=2 * ANSWER)
    async with answered(
        driver, executor=executor, exporter_limits=limits, make_pair=lockstep_pair
    ) as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.greet)
        slots = [client.queue(method, number) for number in range(50)]
        await client.send()
        await until(lambda: bool(driver.begun))  # the loop is idle while a thread starts
        await wait_all_tasks_blocked(0.05)
        assert len(driver.begun) < 12
        assert await answers(client, slots) == ["answered"] * 50
    assert sorted(driver.begun) == list(range(50))


async def test_small_answers_need_not_wait_for_a_large_one_that_is_being_read() -> None:
    """Only answers that have not begun to leave take room, not all the bytes left to send."""
    limits = Limits(max_unsent=2 * ANSWER)
    driver = Answering()
    async with answered(driver, exporter_limits=limits, make_pair=lockstep_pair) as client:
        await client.greet()
        large = await client.call("echo_async", bytes(1_000_000))
        await wait_all_tasks_blocked()
        for number in range(3):
            small = await client.call("answer_async", number)
            assert await answers(client, [small]) == ["answered"]
            assert client.rules.unfinished  # the large one still comes
        assert await answers(client, [large]) == ["answered"]


async def test_a_call_that_waits_for_room_can_be_cancelled() -> None:
    driver = Answering()
    limits = Limits(max_unsent=ANSWER)
    async with answered(driver, exporter_limits=limits, make_pair=lockstep_pair) as client:
        await client.greet()
        slots = [client.queue("answer_async", number) for number in range(10)]
        await client.send()
        await wait_all_tasks_blocked(0.01)
        waiting = [slot for number, slot in enumerate(slots) if number not in driver.begun]
        for slot in waiting:
            client.rules.cancel(slot)
        await client.send()
        await wait_all_tasks_blocked(0.01)  # reading the answers makes room for these calls
        ended = await answers(client, slots)
    assert ended.count("CANCELLED") == len(waiting) == len(slots) - len(driver.begun)
    assert 0 < len(waiting) < len(slots)


async def test_a_generator_whose_client_does_not_read_stops_though_it_has_credit() -> None:
    produced = 0

    class Endless(Echo):
        @export
        async def endless(self) -> AsyncGenerator[bytes, None]:
            nonlocal produced
            while True:
                produced += 1
                yield bytes(1000)

    generous = Limits(stream_window=2**30, max_window=2**30, max_total_window=2**30)
    limits = Limits(max_unsent=2 * ANSWER)
    async with answered(
        Endless(), exporter_limits=limits, limits=generous, make_pair=lockstep_pair
    ) as client:
        await client.greet()
        client.queue("endless", kind=Kind.GENERATOR)
        await client.send()
        await wait_all_tasks_blocked(0.01)
        assert 2 * ANSWER < produced * 1000 < 10 * ANSWER


async def test_an_image_that_a_driver_works_on_is_held_once() -> None:
    """The session does not keep the encoded image beside it for as long as the call lasts."""

    class Flasher(Echo):
        @export
        async def flash(self, image: bytes) -> int:
            gc.collect()
            (call,) = (each for each in gc.get_objects() if isinstance(each, IncomingCall))
            assert call.take_body() == b""
            return len(image)

    gc.collect()  # failed calls of other tests, which their tracebacks still hold
    async with channel_to(Flasher()) as channel:
        assert await channel.call(ask("flash", bytes(100_000))) == 100_000
