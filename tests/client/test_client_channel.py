"""Tests of `jumpstarter.client._channel`: how calls end, wait for a slot and are cancelled.

Tests that depend on the driver's behaviour use a session, and tests that depend on the frames use
a scripted exporter. Both ends run in one Trio loop, over memory streams.
"""

from __future__ import annotations

import logging
import math
import signal
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing
from trio.testing import MockClock, lockstep_stream_pair, wait_all_tasks_blocked

from drivers_for_tests import Echo, Lab
from helpers import (
    Outcome,
    ScriptedExporter,
    ask,
    begin,
    cancelled_scope,
    channel_to,
    generator,
    in_time,
    scripted,
    stream,
)
from jumpstarter._limits import DEFAULT_LIMITS, Limits
from jumpstarter._protocol import events as ev
from jumpstarter._protocol import is_compiled
from jumpstarter._protocol.codec import encode_hello, encode_value
from jumpstarter._protocol.frames import FrameType, Hello
from jumpstarter._util.background import open_background
from jumpstarter._util.reentrancy import CallOrigin, call_origin
from jumpstarter.client._channel import Channel
from jumpstarter.client._outgoing_call import Request
from jumpstarter.client._slot_queue import SlotQueue
from jumpstarter.driver import export
from jumpstarter.errors import (
    CallCancelled,
    CallOutcomeUnknown,
    CallRefused,
    Code,
    DriverError,
    DriverInvalidArgument,
    DriverTimeoutError,
    HandshakeError,
)
from wire import frame

ONE_CALL = Limits(max_calls=1)
TINY = Limits(max_frame=1024, max_message=4096, max_pending=4096)
MEGABYTE = bytes(1024 * 1024)

T = FrameType


# --------------------------------------------------------------------------------- answers


async def test_a_call_gives_what_the_driver_returned() -> None:
    async with channel_to(Lab()) as channel:
        assert await channel.call(ask("echo_async", [1, "two", b"3", None])) == [
            1,
            "two",
            b"3",
            None,
        ]
        assert await channel.call_as(ask("echo_async", 7), lambda body: body) == b"\x07"


async def test_a_call_raises_what_the_driver_raised_and_says_where() -> None:
    async with channel_to(Lab()) as channel:
        with pytest.raises(DriverTimeoutError) as caught:
            await channel.call(ask("fail"))
    assert str(caught.value) == "method 'fail' of the driver: TimeoutError: the device is slow"


async def test_a_result_that_cannot_be_decoded_fails_its_call_and_no_other() -> None:
    async with scripted() as (channel, exporter), trio.open_nursery() as nursery:
        bad = await begin(nursery, channel.call, ask("read"))
        good = await begin(nursery, channel.call, ask("read"))
        exporter.rules.result((await exporter.event(ev.CallReceived)).slot, bytearray(8) + b"\xc1")
        await exporter.result((await exporter.event(ev.CallReceived)).slot, 1)
        await wait_all_tasks_blocked()
        bad.failed(
            DriverError, "method 'read' of the driver: its result: the 1 bytes cannot be decoded"
        )
        assert good.value == 1


def test_an_argument_that_cannot_be_encoded_is_refused_when_the_request_is_made() -> None:
    with pytest.raises(DriverInvalidArgument, match="method 'write' of the driver: an argument"):
        ask("write", object())


async def test_oversized_call_is_refused_without_waiting_for_a_slot() -> None:
    small = Limits(max_frame=1024, max_message=1024, max_calls=1)
    async with (
        scripted(exporter_limits=small) as (channel, exporter),
        trio.open_nursery() as nursery,
    ):
        await begin(nursery, channel.call, ask("first"))
        with pytest.raises(DriverInvalidArgument, match=r"'second' of the driver: .* accepts 1024"):
            await channel.call(ask("second", bytes(1024)))
        third = await begin(nursery, channel.call, ask("third"))
        await exporter.result((await exporter.event(ev.CallReceived)).slot)
        await exporter.result((await exporter.event(ev.CallReceived)).slot, 3)
        await wait_all_tasks_blocked()
        assert third.value == 3


# ---------------------------------------------------------- refused calls, unknown outcomes


async def the_client_closes(channel: Channel, _: ScriptedExporter) -> None:
    await channel.aclose()


async def the_exporter_says_goaway(_: Channel, exporter: ScriptedExporter) -> None:
    await exporter.goaway("down for repair")


async def the_exporter_hangs_up(_: Channel, exporter: ScriptedExporter) -> None:
    await exporter.stream.aclose()


async def the_exporter_breaks_the_rules(_: Channel, exporter: ScriptedExporter) -> None:
    await exporter.stream.send_all(frame(T.RESULT, 9))


End = Callable[[Channel, ScriptedExporter], Awaitable[None]]
ENDS: dict[End, str] = {
    the_client_closes: "the client was closed",
    the_exporter_says_goaway: r"the exporter takes no more calls \('down for repair'\)",
    the_exporter_hangs_up: "the exporter closed the connection",
    the_exporter_breaks_the_rules: r"RESULT on slot 9 \(never used\)",
}
whatever_the_end = pytest.mark.parametrize(
    ("end", "reason"), ENDS.items(), ids=[end.__name__ for end in ENDS]
)


@whatever_the_end
async def test_call_that_cannot_be_sent_is_refused_with_the_reason(end: End, reason: str) -> None:
    refusal = f"method 'on' of the driver: not sent: {reason}"
    async with scripted(exporter_limits=Limits(max_calls=8)) as (channel, exporter):
        await end(channel, exporter)
        await wait_all_tasks_blocked()
        with pytest.raises(CallRefused, match=refusal):
            await channel.call(ask("on"))
        with pytest.raises(CallRefused, match=refusal):
            await anext(generator(channel, "on"))
        with pytest.raises(CallRefused, match=refusal):
            await stream(channel, "on")


@whatever_the_end
async def test_waiting_calls_are_refused_when_the_connection_ends(
    end: End, reason: str, autojump_clock: MockClock
) -> None:
    async with (
        scripted(limits=Limits(cancel_grace=0), exporter_limits=Limits(max_calls=2)) as pair,
        trio.open_nursery() as nursery,
    ):
        channel, exporter = pair
        sent = [await begin(nursery, channel.call, ask("on")) for _ in range(2)]
        waiting = [await begin(nursery, channel.call, ask("off")) for _ in range(3)]
        slots = [(await exporter.event(ev.CallReceived)).slot for _ in sent]
        await end(channel, exporter)
        await wait_all_tasks_blocked()
        for outcome in waiting:
            outcome.failed(CallRefused, f"method 'off' of the driver: not sent: {reason}")
        if end is the_exporter_says_goaway:  # GOAWAY lets the calls that were sent finish
            for slot, outcome in zip(slots, sent, strict=True):
                assert not outcome.ended
                await exporter.result(slot, "done")
                await wait_all_tasks_blocked()
                assert outcome.value == "done"
        else:
            for outcome in sent:
                outcome.failed(CallOutcomeUnknown, "method 'on' of the driver: sent, but not")
    assert autojump_clock.current_time() == 0


async def test_a_call_that_was_sent_has_an_unknown_outcome_when_the_connection_ends() -> None:
    async with scripted() as (channel, exporter), trio.open_nursery() as nursery:
        outcome = await begin(nursery, channel.call, ask("power_cycle"))
        await exporter.event(ev.CallReceived)
        await exporter.stream.aclose()
        await wait_all_tasks_blocked()
        assert isinstance(outcome.error, CallOutcomeUnknown)
        assert str(outcome.error) == (
            "method 'power_cycle' of the driver: sent, but not answered: "
            "the exporter closed the connection"
        )


@pytest.mark.parametrize("code", [Code.REFUSED, Code.RESOURCE_EXHAUSTED])
async def test_refusal_by_the_exporter_raises_call_refused(code: Code) -> None:
    async with scripted() as (channel, exporter), trio.open_nursery() as nursery:
        outcome = await begin(nursery, channel.call, ask("on"))
        await exporter.error((await exporter.event(ev.CallReceived)).slot, code, "too much")
        await wait_all_tasks_blocked()
        outcome.failed(CallRefused, "method 'on' of the driver: too much")


# ----------------------------------------------------------------------- order of the slots


async def test_calls_on_one_slot_run_in_the_order_they_were_made() -> None:
    lab = Lab()
    names = [f"call {number}" for number in range(10)]
    async with (
        channel_to(lab, exporter_limits=ONE_CALL) as channel,
        trio.open_nursery() as nursery,
    ):
        outcomes = [await begin(nursery, channel.call, ask("wait", name)) for name in names]
        assert lab.log == ["call 0 started"]
        lab.let_go.set()
        await wait_all_tasks_blocked()
        assert [outcome.value for outcome in outcomes] == names
    assert lab.log == [f"{name} {what}" for name in names for what in ("started", "ended")]


async def test_repeated_calls_do_not_overtake_a_waiting_call() -> None:
    lab = Lab()
    lab.let_go.set()

    async def call_often(channel: Channel, name: str) -> None:
        for _ in range(20):
            await channel.call(ask("wait", name))

    async with (
        channel_to(lab, exporter_limits=ONE_CALL) as channel,
        trio.open_nursery() as nursery,
    ):
        for name in "abc":
            nursery.start_soon(call_often, channel, name)
    assert set(lab.log[:6]) == {f"{name} {what}" for name in "abc" for what in ("started", "ended")}
    assert lab.log == lab.log[:6] * 20


async def test_three_thousand_calls_share_sixteen_slots() -> None:
    running: set[int] = set()
    answers: list[int] = []
    all_busy = trio.Event()
    most = 0

    class Counter(Echo):
        @export
        async def count_me(self, number: int) -> int:
            nonlocal most
            running.add(number)
            most = max(most, len(running))
            if most == 16:
                all_busy.set()
            await all_busy.wait()
            running.remove(number)
            return number

    async def call(channel: Channel, number: int) -> None:
        answers.append(await channel.call(ask("count_me", number)))

    async with (
        channel_to(Counter(), exporter_limits=Limits(max_calls=16)) as channel,
        trio.open_nursery() as nursery,
    ):
        for number in range(3000):
            nursery.start_soon(call, channel, number)
    assert sorted(answers) == list(range(3000))
    assert most == 16


async def test_call_cancelled_while_waiting_for_a_slot_sends_nothing() -> None:
    async with (
        scripted(exporter_limits=ONE_CALL) as (channel, exporter),
        trio.open_nursery() as nursery,
    ):
        first, second, third = [
            await begin(nursery, channel.call, ask(name)) for name in ("first", "second", "third")
        ]
        await second.cancel()
        assert isinstance(second.error, trio.Cancelled)
        for outcome, name in ((first, "first"), (third, "third")):
            event = await exporter.event(ev.CallReceived)
            assert event.head.method == name
            await exporter.result(event.slot, name)
            await wait_all_tasks_blocked()
            assert outcome.value == name
        await channel.aclose()
        assert [sent.type for sent in await exporter.all_frames()] == [T.HELLO, T.CALL, T.CALL]


async def test_call_cancelled_as_a_slot_gets_free_passes_it_on() -> None:
    async with (
        channel_to(Lab(), exporter_limits=ONE_CALL) as channel,
        trio.open_nursery() as nursery,
    ):
        for _ in range(20):  # repeat, as the loop chooses which task runs first
            await begin(nursery, channel.call, ask("echo_async"))
            first = await begin(nursery, channel.call, ask("wait"))
            second = await begin(nursery, channel.call, ask("echo_async"))
            third = await begin(nursery, channel.call, ask("echo_async", "third"))
            first.scope.cancel()
            second.scope.cancel()
            await wait_all_tasks_blocked()
            assert isinstance(first.error, trio.Cancelled)
            assert third.value == "third"


async def test_call_cancelled_with_a_promised_slot_passes_it_on() -> None:
    async with (
        scripted(exporter_limits=ONE_CALL) as (channel, exporter),
        trio.open_nursery() as nursery,
    ):
        await begin(nursery, channel.call, ask("first"))
        second = await begin(nursery, channel.call, ask("second"))
        await begin(nursery, channel.call, ask("third"))
        event = await exporter.event(ev.CallReceived)

        class CancelsAsItWakes(trio.abc.Instrument):
            """Cancels the second caller between its wake-up and its next step."""

            def task_scheduled(self, task: trio.lowlevel.Task) -> None:
                if task is second.task:
                    second.scope.cancel()

        trio.lowlevel.add_instrument(CancelsAsItWakes())
        await exporter.result(event.slot)
        event = await exporter.event(ev.CallReceived)
        assert event.head.method == "third"
        assert isinstance(second.error, trio.Cancelled)
        await exporter.result(event.slot)


async def test_a_drivers_own_call_does_not_wait_for_a_slot() -> None:
    async with (
        scripted(exporter_limits=ONE_CALL) as (channel, exporter),
        trio.open_nursery() as nursery,
    ):
        await begin(nursery, channel.call, ask("on"))
        token = call_origin.set(CallOrigin.CALLED)
        with pytest.raises(CallRefused, match="not sent: no slot is free, and a driver's own call"):
            await channel.call(ask("off"))
        call_origin.reset(token)
        await exporter.result((await exporter.event(ev.CallReceived)).slot)


# --------------------------------------------------------------------------- cancellation


async def test_call_cancelled_before_sending_sends_nothing() -> None:
    async with scripted() as (channel, exporter):
        with cancelled_scope() as scope:
            await channel.call(ask("on"))
        assert scope.cancelled_caught
        with cancelled_scope():
            await anext(generator(channel, "items"))
        with cancelled_scope():
            await stream(channel, "connect")
        await channel.aclose()
        assert [sent.type for sent in await exporter.all_frames()] == [T.HELLO]


async def test_cancelled_call_returns_after_the_drivers_finally(autojump_clock: MockClock) -> None:
    lab = Lab()
    async with channel_to(lab) as channel:
        with trio.move_on_after(2) as scope:
            await channel.call(ask("wait", "wait", 0.5))
        assert scope.cancelled_caught
        assert lab.log == ["wait started", "wait ended"]
        assert autojump_clock.current_time() == pytest.approx(2.5)


async def test_result_after_a_swallowed_cancellation_is_dropped() -> None:
    async with (
        channel_to(Lab(), exporter_limits=ONE_CALL) as channel,
        trio.open_nursery() as nursery,
    ):
        outcome = await begin(nursery, channel.call, ask("swallow"))
        await outcome.cancel()
        assert isinstance(outcome.error, trio.Cancelled)
        assert outcome.value is None
        assert await channel.call(ask("echo_async", "usable")) == "usable"


async def test_driver_that_ignores_cancellation_is_awaited_for_the_grace(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "jumpstarter.client")
    lab = Lab()
    text = "method 'stubborn' of the driver: cancelled, but its driver had not ended after 1 s"
    async with (
        channel_to(lab, exporter_limits=ONE_CALL) as channel,
        trio.open_nursery() as nursery,
    ):
        outcome = await begin(nursery, channel.call, ask("stubborn", 5))
        await outcome.cancel()
        assert not outcome.ended
        await trio.sleep(DEFAULT_LIMITS.cancel_grace)
        await wait_all_tasks_blocked()
        assert isinstance(outcome.error, trio.Cancelled)
        where = "if it goes on, the exporter's log names the line where it is"
        assert outcome.error.__notes__ == [f"{text}; {where}"]
        assert caplog.messages == [f"{text}; its slot stays busy until it has; {where}"]

        # The only slot becomes free only once the driver's code has ended.
        assert await channel.call(ask("echo_async", "usable")) == "usable"
        assert lab.log == ["stubborn started", "stubborn ended"]
        assert autojump_clock.current_time() == pytest.approx(5)
        assert caplog.messages[1:] == [
            "method 'stubborn' of the driver has ended on the exporter at last"
        ]


async def test_lost_connection_does_not_log_the_end_of_an_abandoned_call(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "jumpstarter.client"):
        async with scripted() as (channel, exporter):
            with trio.move_on_after(2):
                await channel.call(ask("on"))
            await exporter.stream.aclose()
            await wait_all_tasks_blocked()
    assert autojump_clock.current_time() == pytest.approx(3)
    (message,) = caplog.messages
    assert "its slot stays busy until it has; if it goes on, the exporter's log " in message


async def test_a_large_call_cancelled_as_it_is_sent_leaves_a_usable_connection() -> None:
    async with (
        scripted(exporter_limits=ONE_CALL, make_pair=lockstep_stream_pair) as (channel, exporter),
        trio.open_nursery() as nursery,
    ):
        large = await begin(nursery, channel.call, ask("write", MEGABYTE))
        await exporter.read()
        await wait_all_tasks_blocked()
        await large.cancel()
        assert not large.ended
        while not exporter.rules.send_queue:  # until the exporter's rules have handled CANCEL
            await exporter.read()
        await exporter.send()
        await wait_all_tasks_blocked()
        assert isinstance(large.error, trio.Cancelled)

        small = await begin(nursery, channel.call, ask("on"))
        await exporter.result((await exporter.event(ev.CallReceived)).slot, "usable")
        await wait_all_tasks_blocked()
        assert small.value == "usable"
        nursery.start_soon(channel.aclose)
        hello, *call, cancel, last = [sent.type for sent in await exporter.all_frames()]
        assert (hello, set(call), cancel, last) == (T.HELLO, {T.CALL}, T.CANCEL, T.CALL)
        assert len(call) < 16, "some of its frames, not all"


async def test_unsent_large_call_is_taken_back() -> None:
    async with (
        scripted(exporter_limits=Limits(max_calls=2), make_pair=lockstep_stream_pair) as pair,
        trio.open_nursery() as nursery,
    ):
        channel, exporter = pair
        first = await begin(nursery, channel.call, ask("first", MEGABYTE))
        second = await begin(nursery, channel.call, ask("second", MEGABYTE))
        third = await begin(nursery, channel.call, ask("third"))
        await second.cancel()
        assert isinstance(second.error, trio.Cancelled)
        for _ in range(2):
            event = await exporter.event(ev.CallReceived)
            await exporter.result(event.slot, event.head.method)
        await wait_all_tasks_blocked()
        assert (first.value, third.value) == ("first", "third")
        nursery.start_soon(channel.aclose)
        frames = await exporter.all_frames()
        assert {sent.type for sent in frames} == {T.HELLO, T.CALL}


def test_ctrl_c_is_raised_after_the_drivers_finally() -> None:
    lab = Lab()

    @trio.lowlevel.enable_ki_protection  # so that Ctrl-C interrupts the main task, which waits
    async def press_ctrl_c() -> None:
        await wait_all_tasks_blocked()
        signal.raise_signal(signal.SIGINT)

    async def main() -> None:
        async with channel_to(lab) as channel, trio.open_nursery() as nursery:
            nursery.start_soon(press_ctrl_c)
            with pytest.raises(KeyboardInterrupt):
                await channel.call(ask("wait", "wait", 0.1))
            assert lab.log == ["wait started", "wait ended"]
            assert await channel.call(ask("echo_async", "usable")) == "usable"

    trio.run(main)


@pytest.mark.parametrize("busy", [False, True])
def test_nothing_is_sent_after_a_ctrl_c_that_is_still_pending(*, busy: bool) -> None:
    @trio.lowlevel.enable_ki_protection
    async def press_ctrl_c_and_call(channel: Channel) -> None:
        signal.raise_signal(signal.SIGINT)
        await channel.call(ask("echo_async", "never sent"))

    async def main() -> None:
        async with scripted() as (channel, exporter), trio.open_nursery() as nursery:
            if busy:
                await begin(nursery, channel.call, ask("wait"))
            with pytest.raises(KeyboardInterrupt):
                await press_ctrl_c_and_call(channel)
            await wait_all_tasks_blocked()
            assert len(channel.connection.handlers) == busy
            nursery.start_soon(channel.aclose)
            frames = await exporter.all_frames()
            assert [sent.type for sent in frames].count(T.CALL) == busy

    trio.run(main)


# ------------------------------------------------------------------------------- deadlines


@pytest.mark.parametrize("method", ["wait", "swallow", "stubborn"])
async def test_the_callers_own_scope_ends_a_call_at_its_deadline(
    method: str, autojump_clock: MockClock
) -> None:
    async with channel_to(Lab()) as channel:
        args = (0.5,) if method == "stubborn" else ()
        with pytest.raises(trio.TooSlowError):
            with trio.fail_after(2):
                await channel.call(ask(method, *args))
        assert autojump_clock.current_time() == pytest.approx(2.5 if args else 2)


async def test_an_exporter_whose_clock_is_fast_does_not_end_it_instead(
    autojump_clock: MockClock,
) -> None:
    async with scripted() as (channel, exporter), trio.open_nursery() as nursery:

        async def call() -> None:
            with trio.fail_after(2):
                await channel.call(ask("on"))

        outcome = await begin(nursery, call)
        slot = (await exporter.event(ev.CallReceived)).slot
        await trio.sleep(1.9)
        await exporter.error(slot, Code.DEADLINE_EXCEEDED)
        await wait_all_tasks_blocked()
        assert not outcome.ended
        await trio.sleep(0.1)
        await wait_all_tasks_blocked()
        outcome.failed(trio.TooSlowError, "")
    assert autojump_clock.current_time() == pytest.approx(2)


async def test_deadline_that_is_extended_later_still_holds_on_the_exporter(
    autojump_clock: MockClock,
) -> None:
    async with channel_to(Lab()) as channel, trio.open_nursery() as nursery:
        outcome = Outcome()
        outcome.scope.deadline = 2
        nursery.start_soon(outcome.of, channel.call, ask("wait"))
        await wait_all_tasks_blocked()
        outcome.scope.deadline = math.inf
        await trio.sleep(4)
        outcome.failed(DriverTimeoutError, "method 'wait' of the driver: its deadline passed, 2 s")
    assert autojump_clock.current_time() == pytest.approx(4)


async def test_timeout_error_of_the_driver_is_raised_immediately(autojump_clock: MockClock) -> None:
    async with channel_to(Lab()) as channel:
        with trio.fail_after(2), pytest.raises(DriverTimeoutError, match="the device is slow"):
            await channel.call(ask("fail"))
        assert autojump_clock.current_time() == 0


@pytest.mark.parametrize(
    ("seconds", "milliseconds"),
    [(math.inf, 0), (2, 2000), (0.0001, 1), (1e9, 2**32 - 1)],
    ids=["none", "plain", "tiny", "huge"],
)
async def test_remaining_time_is_sent_with_the_call(
    seconds: float, milliseconds: int, mock_clock: MockClock
) -> None:
    async with scripted() as (channel, exporter), trio.open_nursery() as nursery:
        outcome = Outcome()
        outcome.scope.deadline = mock_clock.current_time() + seconds
        nursery.start_soon(outcome.of, channel.call, ask("on"))
        event = await exporter.event(ev.CallReceived)
        assert event.head.timeout_ms == milliseconds
        await exporter.result(event.slot)


async def test_a_deadline_that_has_just_passed_is_sent_as_one_millisecond(
    mock_clock: MockClock,
) -> None:
    async with scripted() as (channel, exporter), trio.open_nursery() as nursery:

        async def call_late() -> None:
            mock_clock.jump(5)  # before the loop notices that the deadline has passed
            await channel.call(ask("on"))

        outcome = Outcome()
        outcome.scope.deadline = mock_clock.current_time() + 1
        nursery.start_soon(outcome.of, call_late)
        event = await exporter.event(ev.CallReceived)
        assert event.head.timeout_ms == 1
        await exporter.error(event.slot, Code.DEADLINE_EXCEEDED)
        await wait_all_tasks_blocked()
        assert isinstance(outcome.error, trio.Cancelled)


async def test_time_spent_waiting_for_a_slot_is_subtracted(
    mock_clock: MockClock,
) -> None:
    async with (
        scripted(exporter_limits=ONE_CALL) as (channel, exporter),
        trio.open_nursery() as nursery,
    ):
        await begin(nursery, channel.call, ask("first"))
        outcome = Outcome()
        outcome.scope.deadline = mock_clock.current_time() + 5
        nursery.start_soon(outcome.of, channel.call, ask("second"))
        first = await exporter.event(ev.CallReceived)
        await wait_all_tasks_blocked()
        mock_clock.jump(2)
        await exporter.result(first.slot)
        second = await exporter.event(ev.CallReceived)
        assert second.head.timeout_ms == 3000
        await exporter.result(second.slot)


# ----------------------------------------------------- results that are too large to hold


async def test_a_result_that_would_not_fit_in_memory_fails_its_call_and_no_other() -> None:
    async with scripted(limits=TINY) as (channel, exporter), trio.open_nursery() as nursery:
        outcomes = [await begin(nursery, channel.call, ask("read")) for _ in range(2)]
        for _ in outcomes:
            event = await exporter.event(ev.CallReceived)
            exporter.rules.result(event.slot, encode_value(bytes(3072)))
        await exporter.send()  # interleaved, in frames of 1 KiB
        await wait_all_tasks_blocked()
        kept, dropped = sorted(outcomes, key=lambda outcome: outcome.error is not None)
        assert kept.value == bytes(3072)
        dropped.failed(
            DriverError, "method 'read' of the driver: it was discarded: over 4096 bytes"
        )
        assert channel.ended is None


# -------------------------------------------------------------------- lifecycle of a channel


async def test_closing_the_client_ends_calls_of_other_tasks(
    autojump_clock: MockClock,
) -> None:
    lab = Lab()
    async with channel_to(lab) as channel, trio.open_nursery() as nursery:
        items = generator(channel, "items", 0, 0.5)
        outcomes = [
            await begin(nursery, channel.call, ask("wait", "wait", 0.5)),
            await begin(nursery, items.__anext__),
            await begin(nursery, stream, channel, "nobody"),
        ]
        await channel.aclose()
        assert sorted(lab.log[3:]) == ["items ended", "nobody ended", "wait ended"]
        assert autojump_clock.current_time() == pytest.approx(0.5)
        await wait_all_tasks_blocked()
        for outcome in outcomes:
            assert isinstance(outcome.error, CallCancelled)


async def test_closing_the_client_waits_no_longer_than_the_grace(
    autojump_clock: MockClock,
) -> None:
    async with channel_to(Lab()) as channel, trio.open_nursery() as nursery:
        outcome = await begin(nursery, channel.call, ask("stubborn", 5))
        await channel.aclose()
        assert autojump_clock.current_time() == pytest.approx(DEFAULT_LIMITS.cancel_grace)
        await wait_all_tasks_blocked()
        outcome.failed(CallOutcomeUnknown, "sent, but not answered: the client was closed")


async def test_closing_the_client_refuses_an_unsent_call(
    autojump_clock: MockClock,
) -> None:
    async with (
        scripted(make_pair=lockstep_stream_pair) as (channel, _),
        trio.open_nursery() as nursery,
    ):
        begun = await begin(nursery, channel.call, ask("write", MEGABYTE))
        queued = await begin(nursery, channel.call, ask("write", MEGABYTE))
        await channel.aclose()
        await wait_all_tasks_blocked()
        assert isinstance(begun.error, CallOutcomeUnknown)
        queued.failed(CallRefused, "method 'write' of the driver: taken back before it was sent")
    assert autojump_clock.current_time() == pytest.approx(DEFAULT_LIMITS.cancel_grace)


async def test_the_client_is_closed_even_when_that_is_cancelled() -> None:
    lab = Lab()
    async with channel_to(lab) as channel, trio.open_nursery() as nursery:
        outcome = await begin(nursery, channel.call, ask("wait"))
        with cancelled_scope() as scope:
            await channel.aclose()
        assert not scope.cancelled_caught
        assert lab.log == ["wait started", "wait ended"]
        assert channel.closed
        assert channel.ended is not None
        await wait_all_tasks_blocked()
        assert isinstance(outcome.error, CallCancelled)
        await channel.aclose()


async def test_cancelled_call_and_closing_client_wait_concurrently(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with channel_to(Lab()) as channel, trio.open_nursery() as nursery:
        outcome = await begin(nursery, channel.call, ask("stubborn", 5))
        outcome.scope.cancel()
        await channel.aclose()
        assert autojump_clock.current_time() == pytest.approx(DEFAULT_LIMITS.cancel_grace)
        await wait_all_tasks_blocked()
        assert isinstance(outcome.error, trio.Cancelled)
        assert len(caplog.messages) == 1


def test_a_channel_is_for_its_own_loop() -> None:
    async def elsewhere(channel: Channel) -> None:
        with pytest.raises(RuntimeError, match="call_async: this client belongs to another"):
            channel.check_loop("Client", "call_async")

    async def main() -> None:
        async with channel_to(Lab()) as channel:
            channel.check_loop("Client", "call_async")
            await trio.to_thread.run_sync(trio.run, elsewhere, channel)

    trio.run(main)


async def say_nothing(_: trio.abc.Stream) -> None:
    await trio.sleep_forever()


async def say_garbage(stream: trio.abc.Stream) -> None:
    await stream.send_all(b"SSH-2.0-OpenSSH_9.7\r\n")
    await trio.sleep_forever()


async def say_garbage_and_hang_up(stream: trio.abc.Stream) -> None:
    await stream.receive_some()
    await stream.send_all(b"SSH-2.0-OpenSSH_9.7\r\n")
    await stream.aclose()


async def hang_up(stream: trio.abc.Stream) -> None:
    await stream.receive_some()
    await stream.aclose()


async def speak_another_version(stream: trio.abc.Stream) -> None:
    hello = Hello.of(DEFAULT_LIMITS)
    payload = bytearray(encode_hello(hello))
    payload[4] = 9
    await stream.send_all(frame(T.HELLO, 0, bytes(payload)))
    await trio.sleep_forever()


async def refuse(stream: trio.abc.Stream) -> None:
    exporter = ScriptedExporter(stream)
    await exporter.event(ev.HelloReceived)
    exporter.rules.refuse(Code.UNAUTHENTICATED, "not admitted")
    await exporter.send()
    await trio.sleep_forever()


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (say_nothing, "the peer did not say HELLO within 5 s; is it a jumpstarter"),
        (say_garbage, "the peer does not speak jumpstarter's protocol: .*'SSH-2.0-OpenSSH"),
        (say_garbage_and_hang_up, "the peer does not speak jumpstarter's protocol: .*'SSH-2.0"),
        (hang_up, "the peer closed the connection"),
        (speak_another_version, "the peer: the peer speaks version 9.2 of the protocol, and this"),
        (refuse, "the peer refused the connection: 'not admitted'"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
async def test_peer_that_is_not_an_exporter_fails_the_handshake(
    answer: Callable[[trio.abc.Stream], Awaitable[None]], text: str, autojump_clock: MockClock
) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    async with in_time(60), open_background() as nursery:
        nursery.start_soon(answer, theirs)
        channel = Channel(ours, "the peer")
        with pytest.raises(HandshakeError, match=text):
            await channel.begin(nursery)
        with pytest.raises(CallRefused):
            await channel.call(ask("on"))
    assert autojump_clock.current_time() <= 7  # HELLO timeout plus the time to flush the GOAWAY


@pytest.mark.skipif(is_compiled(), reason="the steps of compiled code are not interrupted")
@pytest.mark.parametrize("step", ["register", "wait"])
def test_ctrl_c_around_the_wait_for_a_slot_loses_no_slot(
    step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    really_register, really_wait = SlotQueue.register, SlotQueue.wait

    def register(self: SlotQueue, request: Request) -> None:
        really_register(self, request)
        signal.raise_signal(signal.SIGINT)

    async def wait(self: SlotQueue) -> None:
        await really_wait(self)
        signal.raise_signal(signal.SIGINT)

    async def main() -> None:
        async with scripted(exporter_limits=ONE_CALL) as (channel, exporter):
            async with trio.open_nursery() as nursery:
                first = await begin(nursery, channel.call, ask("first"))

                async def answer() -> None:
                    await wait_all_tasks_blocked()
                    await exporter.result((await exporter.event(ev.CallReceived)).slot)

                nursery.start_soon(answer)
                replacement = register if step == "register" else wait
                monkeypatch.setattr(SlotQueue, step, replacement)
                with trio.move_on_after(0.5) as scope, pytest.raises(KeyboardInterrupt):
                    await channel.call(ask("second"))
                monkeypatch.undo()
                assert not scope.cancelled_caught
            assert first.error is None
            assert channel.connection.slot_waiters == 0
            assert channel._slots._promised == 0

    trio.run(main, clock=MockClock(autojump_threshold=0.1))
