"""Tests of `_exporter.error_reporter`: it sends a failure once, logs it once, then releases it."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import re
import weakref
from typing import Any

import pytest
import trio
import trio.testing

from drivers_for_tests import Echo
from helpers import answered, ask, channel_to
from jumpstarter._exporter.error_reporter import (
    CallRejected,
    ErrorReporter,
    blame_arguments,
    reject,
    without_cancelled,
)
from jumpstarter._exporter.executor import NoThreadError
from jumpstarter._limits import Limits
from jumpstarter._util.log_limit import RateLimitedLogger
from jumpstarter.driver import export
from jumpstarter.errors import ArgumentError, CallRefused, Code, DriverError, DriverInvalidArgument


async def cancelled() -> trio.Cancelled:
    """Return a real Cancelled, which only Trio can create."""
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled as exc:
            caught = exc
            raise
    return caught


def failures(*, send_tracebacks: bool = False) -> ErrorReporter:
    return ErrorReporter(RateLimitedLogger(), send_tracebacks=send_tracebacks)


async def test_a_cancellation_alone_is_not_reported() -> None:
    alone = await cancelled()
    assert failures().report(alone, "it") is None
    assert failures().report(BaseExceptionGroup("", [alone]), "it") is None
    beside = BaseExceptionGroup("", [alone, KeyError("relay")])
    report = failures().report(beside, "it")
    assert report is not None
    assert report[1].type == "KeyError"
    assert isinstance(without_cancelled(beside), BaseExceptionGroup)


async def test_a_rejected_call_is_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(CallRejected) as caught:
        reject(Code.UNIMPLEMENTED, "no such method")
    report = failures().report(caught.value, "it")
    assert report is not None
    assert (report[0], report[1].type, report[1].message) == (
        Code.UNIMPLEMENTED,
        "",
        "no such method",
    )
    assert caplog.messages == []


async def test_want_of_a_thread_is_logged_and_refuses_the_call(
    caplog: pytest.LogCaptureFixture,
) -> None:
    report = failures().report(NoThreadError("no threads left"), "'on' of the relay")
    assert report is not None
    assert report[0] is Code.RESOURCE_EXHAUSTED
    assert caplog.messages == ["'on' of the relay was refused: no threads left"]


@pytest.mark.parametrize("sent", [False, True])
async def test_a_traceback_is_logged_and_sent_only_on_request(
    sent: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    try:
        raise ValueError("coil burned")
    except ValueError as exc:
        report = failures(send_tracebacks=sent).report(exc, "'on' of the relay")
    assert report is not None
    assert (report[1].traceback is not None) is sent
    (message,) = caplog.messages
    assert message.startswith("'on' of the relay raised ValueError: Traceback")
    assert message.endswith("ValueError: coil burned")


@pytest.mark.parametrize("exc", [PermissionError(13, "in use"), ArgumentError("no such line")])
@pytest.mark.parametrize("level", [logging.INFO, logging.DEBUG])
async def test_an_expected_refusal_is_one_line_of_the_log_and_has_a_traceback_at_debug(
    exc: Exception, level: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(level)
    try:
        raise exc
    except Exception as raised:  # noqa: BLE001 - the exception raised above
        report = failures(send_tracebacks=True).report(raised, "'on' of the relay")
    assert report is not None
    assert report[1].traceback is not None
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    start = f"'on' of the relay raised {type(exc).__name__}: "
    if level == logging.INFO:
        assert record.message == f"{start}{str(exc)!r}"
    else:
        assert record.message.startswith(f"{start}Traceback")
        assert record.message.endswith(f"Error: {exc}")


def test_a_typeerror_of_the_driver_differs_from_arguments_that_do_not_fit() -> None:
    def switch(on: bool) -> None:
        del on

    own = TypeError("of the driver")
    assert blame_arguments(own, switch, [True], {}) is own
    assert blame_arguments(own, print, [1, 2], {"sep": ""}) is own
    rejected = blame_arguments(own, switch, [], {})
    assert isinstance(rejected, CallRejected)
    assert rejected.code is Code.INVALID_ARGUMENT
    assert re.search(r"do not fit: .*'on'.*; it takes \(on: 'bool'\)", str(rejected))


# --- how long objects are held ---


class Image:
    """A large argument; a weak reference shows when it is gone."""


class Holder(Echo):
    """A driver that fails with objects that it keeps weak references to."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[weakref.ref[Image]] = []
        self.begun = trio.Event()

    def _new(self) -> Image:
        image = Image()
        self.seen.append(weakref.ref(image))
        return image

    @export
    async def fail(self) -> None:
        raise KeyError(self._new())

    @export
    def fail_in_a_thread(self) -> None:
        image = self._new()
        raise ValueError(str(image))

    @export
    async def give_what_cannot_be_sent(self) -> Any:
        return self._new()

    @export
    async def hold(self, values: list[int]) -> int:
        self.begun.set()
        await trio.sleep(math.inf)
        return len(values)


@pytest.mark.parametrize("method", ["fail", "fail_in_a_thread", "give_what_cannot_be_sent"])
async def test_a_call_that_has_failed_keeps_nothing_alive(method: str) -> None:
    """A failed call frees its arguments without the garbage collector: one may be a disk image."""
    driver = Holder()
    async with channel_to(driver) as channel:
        gc.collect()
        gc.disable()
        try:
            for _ in range(3):
                with pytest.raises(DriverError):
                    await channel.call(ask(method))
            assert len(driver.seen) == 3
            assert [each() for each in driver.seen] == [None] * 3
        finally:
            gc.enable()


async def test_arguments_under_way_have_so_many_values_in_sum_and_no_more() -> None:
    limits = Limits(max_items=10_000)
    async with channel_to(Holder(), exporter_limits=limits) as channel:
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(channel.call, ask("hold", [1] * 9_000))
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(CallRefused, match="over 20000 values in the arguments of calls"):
                await channel.call(ask("hold", [1] * 9_000))
            assert await channel.call(ask("echo", [1] * 1_000)) == [1] * 1_000
            nursery.cancel_scope.cancel()
        assert await channel.call(ask("echo", [1] * 9_000)) == [1] * 9_000


async def test_arguments_that_are_refused_do_not_count() -> None:
    limits = Limits(max_items=10_000)
    async with channel_to(Holder(), exporter_limits=limits) as channel:
        for _ in range(5):
            with pytest.raises(DriverInvalidArgument):
                await channel.call(ask("hold", [1] * 9_000, "one too many"))
        assert await channel.call(ask("echo", [1] * 9_000)) == [1] * 9_000


async def test_large_arguments_are_decoded_one_at_a_time_with_others_in_between() -> None:
    """Decoding one blocks the loop, and decoding all together would block it for seconds."""
    driver = Echo()
    async with answered(driver) as client:
        await client.greet()
        large = [client.queue("echo_async", [1] * 100_000) for _ in range(10)]
        small = client.queue("echo_async", "off")
        await client.send()
        ended: list[int] = []
        while len(ended) < len(large) + 1:
            event: Any = await client.next_event()
            ended.append(event.slot)
        assert ended.index(small) < 3


async def test_a_driver_that_meets_the_loop_of_another_library_gets_a_note() -> None:
    with pytest.raises(RuntimeError) as caught:
        asyncio.get_running_loop()
    report = failures().report(caught.value, "it", lambda: "the advice")
    assert report is not None
    assert report[1].notes == ["the advice"]
    other = failures().report(RuntimeError("no line"), "it", lambda: "the advice")
    assert other is not None
    assert other[1].notes == []
