"""Tests of `_exporter.led_connection`: a thread reads a connection, then gives it back."""

from __future__ import annotations

import contextlib
import logging
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import trio
import trio.testing

from helpers import PATIENCE, ask, generator, stream, until, wait_until
from jumpstarter._exporter import worker
from jumpstarter._exporter.call_log import WatchedSession
from jumpstarter._exporter.incoming_call import IncomingCall
from jumpstarter._io.transport import Buffer
from jumpstarter._limits import Limits
from jumpstarter._protocol.frames import FrameType
from jumpstarter.client._outgoing_call import OutgoingCall
from jumpstarter.errors import (
    CallOutcomeUnknown,
    Code,
    DriverError,
    DriverInvalidArgument,
    DriverTimeoutError,
)
from led_bench import Led, led
from transports import PairMaker, memory_pair, tcp_pair, unix_pair


@pytest.fixture
def lasting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a thread wait for its next call, and the loop for a method, even in a slow test."""
    monkeypatch.setattr(worker, "_STAYS", 1_000_000)


# ------------------------------------------------------------------------------- led calls


@pytest.mark.usefixtures("lasting")
@pytest.mark.parametrize("make_pair", [unix_pair, tcp_pair])
async def test_one_plain_call_after_another_is_answered_by_one_thread(make_pair: PairMaker) -> None:
    async with led(make_pair=make_pair) as it:
        for number in range(20):
            assert await it.call("plain", number) == number
            assert it.is_led
        assert len(set(it.driver.threads)) == 1
        assert not it.connection.handlers


@pytest.mark.usefixtures("lasting")
async def test_plain_calls_beside_open_streams_are_answered_by_one_thread() -> None:
    async with led() as it, await stream(it.channel, "connect") as raw:
        items = generator(it.channel, "count_async", 100)
        assert await anext(items) == 0
        await it.call("plain")  # after the credit of the first item
        it.driver.threads.clear()
        for number in range(20):
            assert await it.call("plain", number) == number
            assert it.is_led
        assert len(set(it.driver.threads)) == 1
        await raw.send_all(b"bytes")
        assert await raw.receive_some() == b"bytes"
        assert [item async for item in items] == list(range(1, 100))


async def test_bytes_that_threads_read_keep_their_order() -> None:
    """Send pieces on a stream beside plain calls, whose threads read some of the pieces."""
    sent = bytes(range(256)) * 64
    got = b""
    async with led() as it, await stream(it.channel, "connect") as raw:

        async def send() -> None:
            for start in range(0, len(sent), 16):
                await raw.send_all(sent[start : start + 16])

        async def call() -> None:
            for number in range(300):
                assert await it.call("plain", number) == number

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            nursery.start_soon(call)
            nursery.start_soon(call)
            while len(got) < len(sent):
                got += await raw.receive_some()
    assert got == sent


async def test_a_thread_that_nobody_calls_gives_the_connection_back() -> None:
    async with led() as it:
        assert await it.call("plain", 1) == 1
        await until(lambda: not it.is_led)
        assert await it.call("echo_async", 2) == 2
        assert await it.call("plain", 3) == 3


@pytest.mark.usefixtures("lasting")
async def test_whatever_is_no_plain_call_goes_back_to_the_loop() -> None:
    async with led() as it:
        for _ in range(3):
            assert await it.call("plain", 1) == 1
            assert await it.call("echo_async", 2) == 2
            assert await it.call("plain", 1) == 1
            assert [item async for item in generator(it.channel, "count", 3)] == [0, 1, 2]
            assert await it.call("plain", 1) == 1
            async with await stream(it.channel, "connect") as raw:
                await raw.send_all(b"bytes")
                assert await raw.receive_some() == b"bytes"
                assert await it.call("plain", 4) == 4  # while the stream is open


async def test_many_plain_calls_at_once_have_a_thread_each() -> None:
    async with led() as it, trio.open_nursery() as nursery:
        assert await it.call("plain") is None
        for _ in range(8):
            nursery.start_soon(it.call, "slow")
        await until(lambda: it.session._dispatcher.executor.limiter.borrowed_tokens >= 8)
        it.driver.let_go.set()
    assert it.driver.log == ["slow ended"] * 8


@pytest.mark.usefixtures("lasting")
@pytest.mark.parametrize(
    ("method", "error", "text"),
    [
        ("fail", ValueError, "no"),
        ("exit", DriverError, "SystemExit"),
        ("unsendable", DriverError, "its result cannot be sent"),
        ("no_such_method", DriverError, "no such method"),
    ],
)
async def test_a_led_call_fails_as_any_other(
    method: str, error: type[Exception], text: str
) -> None:
    async with led() as it:
        for _ in range(2):
            assert await it.call("plain", 1) == 1
            with pytest.raises(error, match=text):
                await it.call(method)
        with pytest.raises(DriverInvalidArgument, match="its arguments do not fit"):
            await it.call("plain", 1, 2)
        assert await it.call("plain", 2) == 2


@pytest.mark.usefixtures("lasting")
async def test_a_method_that_hides_that_it_is_async_is_awaited() -> None:
    async with led() as it:
        for _ in range(2):
            assert await it.call("plain", 1) == 1
            assert await it.call("hidden") == "later"


@pytest.mark.usefixtures("lasting")
async def test_each_led_call_has_a_context_to_itself() -> None:
    async with led() as it:
        for text in ("one", "two"):
            assert await it.call("say", text) == ["nothing", text]


@pytest.mark.usefixtures("lasting")
@pytest.mark.parametrize("size", [0, 16 * 1024, 64 * 1024, 1024 * 1024])
async def test_an_answer_of_any_size_arrives(size: int) -> None:
    async with led() as it:
        for _ in range(3):
            assert await it.call("sized", size) == bytes(size)
            assert await it.call("plain", bytes(size)) == bytes(size)


class _AskingHandler(logging.Handler):
    """Asks, for each record of a plain call, if the thread that logs holds the lock."""

    def __init__(self, it: Led) -> None:
        super().__init__()
        self.it = it
        self.answers: list[tuple[bool, bool]] = []  # whether a thread logs, whether it has the lock

    def emit(self, record: logging.LogRecord) -> None:
        if "'plain' of driver" in record.getMessage():
            in_thread = threading.get_ident() in self.it.driver.threads
            self.answers.append((in_thread, self.it.connection.ownership.held_here()))


@pytest.mark.usefixtures("lasting")
async def test_log_handlers_run_before_each_answer_and_without_the_lock(
    caplog: pytest.LogCaptureFixture,
) -> None:
    logger = logging.getLogger("jumpstarter.exporter")
    caplog.set_level(logging.DEBUG, logger.name)  # before the session begins, which looks at it
    async with led(make_session=WatchedSession) as it:
        handler = _AskingHandler(it)
        logger.addHandler(handler)
        try:
            for number in range(5):
                assert await it.call("plain", number) == number
                assert len(handler.answers) == number + 1
        finally:
            logger.removeHandler(handler)
    assert handler.answers == [(True, False)] * 5


class _InterruptingHandler(logging.Handler):
    """Interrupts a call of `plain` once its record says how it has ended."""

    def __init__(self, it: Led, interrupt: Callable[[IncomingCall], object]) -> None:
        super().__init__()
        self.it = it
        self.interrupt = interrupt
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if "'plain' of driver" in record.getMessage():
            self.texts.append(record.getMessage())
            [call] = self.it.session.running
            self.interrupt(call)
            assert not self.it.session.may_answer(call)


@pytest.mark.usefixtures("lasting")
@pytest.mark.parametrize("cause", ["cancel", "deadline"])
async def test_the_log_says_what_the_client_is_told_though_the_call_is_interrupted(
    caplog: pytest.LogCaptureFixture, cause: str
) -> None:
    """Interrupt a call between the record of its end and its answer, which the loop then sends."""
    logger = logging.getLogger("jumpstarter.exporter")
    caplog.set_level(logging.DEBUG, logger.name)
    async with led(make_session=WatchedSession) as it:
        ours = OutgoingCall(it.channel, ask("plain", "a result"))
        token = trio.lowlevel.current_trio_token()

        def cancel(call: IncomingCall) -> None:
            token.run_sync_soon(it.channel.ask_to_end, ours, Code.CANCELLED)
            wait_until(lambda: call.cancelled)

        def be_late(call: IncomingCall) -> None:
            call.deadline = -math.inf

        handler = _InterruptingHandler(it, cancel if cause == "cancel" else be_late)
        logger.addHandler(handler)
        try:
            await it.channel.open(ours)
            await ours.join()
        finally:
            logger.removeHandler(handler)
        [text] = handler.texts
        assert ": returned after" in text
        assert not ours.has_failed
        assert it.channel.decode(ours.value) == "a result"
        assert await it.call("check_cancelled") == "not cancelled"
        await until(lambda: not it.session.running)


async def test_an_answer_that_the_client_does_not_take_is_refused() -> None:
    async with led(limits=Limits(max_message=64 * 1024)) as it:
        with pytest.raises(DriverError, match="the message has"):
            await it.call("sized", 100_000)
        assert await it.call("plain", 1) == 1


async def test_what_is_no_socket_is_led_by_nobody() -> None:
    async with led(make_pair=memory_pair) as it:
        assert await it.call("plain", 1) == 1
        assert not it.is_led


@pytest.mark.usefixtures("lasting")
async def test_trios_from_thread_works_in_each_led_call() -> None:
    async with led() as it:
        for _ in range(3):
            assert "_guard" in await it.call("task_name")
            assert await it.call("check_cancelled") == "not cancelled"


async def test_a_scope_that_a_led_call_leaves_open_ends_with_its_task(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with led() as it:
        limiter = it.session._dispatcher.executor.limiter
        for number in range(2):
            assert await it.call("leave_open", number) == number
            assert await it.call("plain", number) == number
            await until(lambda: not limiter.borrowed_tokens)  # the thread has returned
            assert await it.call("echo_async", number) == number
        assert it.connection.ended is None
    assert not caplog.records


# -------------------------------------------------------------------------- slow methods


async def test_a_method_that_takes_its_time_keeps_no_other_call_waiting() -> None:
    async with led() as it, trio.open_nursery() as nursery:
        for _ in range(2):
            it.driver.let_go.clear()
            results: list[Any] = []
            nursery.start_soon(_collect, it, results, "slow", "a result")
            await until(lambda: not it.is_led)
            assert await it.call("echo_async", 1) == 1
            assert await it.call("plain", 2) == 2
            assert results == []
            it.driver.let_go.set()
            await until(lambda: bool(results))  # noqa: B023 - awaited within the iteration
            assert results == ["a result"]


async def _collect(it: Led, results: list[Any], method: str, *args: Any) -> None:
    results.append(await it.call(method, *args))


@pytest.mark.parametrize("after", [0, 3])
async def test_a_led_call_can_be_cancelled(after: int) -> None:
    async with led() as it:
        for number in range(after):
            await it.call("plain", number)
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(it.call, "polling")
                await until(it.driver.begun.is_set)
                scope.cancel()
        assert it.driver.log == ["polling ended"]
        assert await it.call("check_cancelled") == "not cancelled"


@pytest.mark.usefixtures("lasting")
@pytest.mark.parametrize("after", [0, 3])
async def test_a_cancelled_call_that_returns_anyway_cancels_no_later_one(after: int) -> None:
    async with led() as it, trio.open_nursery() as nursery:
        for number in range(after):
            await it.call("plain", number)
        scope = trio.CancelScope()

        async def cancelled() -> None:
            with scope:
                await it.call("slow")

        nursery.start_soon(cancelled)
        await until(it.driver.begun.is_set)
        scope.cancel()
        await until(lambda: any(call.cancelled for call in it.session.running))
        it.driver.let_go.set()
        for _ in range(3):
            assert await it.call("check_cancelled") == "not cancelled"


@pytest.mark.parametrize("after", [0, 3])
@pytest.mark.parametrize("timeout_ms", [0, 60_000])
async def test_a_led_call_ends_at_its_deadline(after: int, timeout_ms: int) -> None:
    async with led() as it:
        for number in range(after):
            earlier = ask("plain", number)
            if timeout_ms:
                earlier.set_timeout(timeout_ms)
            assert await it.channel.call(earlier) == number
        while not it.driver.log:  # on a busy machine, the deadline can pass before it begins
            request = ask("polling")
            request.set_timeout(20)
            with pytest.raises(DriverTimeoutError, match="its deadline passed"):
                await it.channel.call(request)
        assert it.driver.log == ["polling ended"]


@pytest.mark.usefixtures("lasting")
async def test_the_deadline_of_one_led_call_is_not_the_next_ones() -> None:
    async with led() as it:
        while not it.is_led:  # on a busy machine, the deadline can pass before the answer
            request = ask("plain", 1)
            request.set_timeout(20)
            with contextlib.suppress(DriverTimeoutError):
                assert await it.channel.call(request) == 1
        await trio.sleep(0.025)
        assert it.is_led
        for _ in range(3):
            assert await it.call("check_cancelled") == "not cancelled"


async def test_the_end_of_a_connection_is_told_to_a_led_call() -> None:
    async with led() as it, trio.open_nursery() as nursery:
        nursery.start_soon(_in_vain, it, "polling")
        await until(it.driver.begun.is_set)
        it.channel.connection.end(ConnectionError("pulled"))
        await until(lambda: it.driver.log == ["polling ended"])
    assert it.connection.finished.is_set()


async def _in_vain(it: Led, method: str) -> None:
    with pytest.raises(CallOutcomeUnknown):
        await it.call(method)


@pytest.mark.usefixtures("lasting")
async def test_the_end_of_a_session_is_told_to_a_led_call() -> None:
    async with led() as it, trio.open_nursery() as nursery:
        await it.call("plain")
        nursery.start_soon(_in_vain, it, "polling")
        await until(it.driver.begun.is_set)
        it.connection.end(ConnectionError("pulled"))
        await until(lambda: it.driver.log == ["polling ended"])


@pytest.mark.usefixtures("lasting")
async def test_a_thread_begins_no_call_once_its_session_has_ended() -> None:
    async with led() as it:
        assert await it.call("plain", 1) == 1
        assert it.is_led
        it.connection.end(ConnectionError("pulled"))
        call = OutgoingCall(it.channel, ask("plain", "too late"))
        with it.channel.connection.lock:
            assert it.channel.start(call, math.inf)
            it.channel.connection.writer.flush_now()
        wait_until(lambda: not it.is_led)  # until the thread has looked at the call
        await call.join()
        assert isinstance(call.failure, CallOutcomeUnknown)
        assert len(it.driver.threads) == 1
        assert not it.session.running


@pytest.mark.usefixtures("lasting")
async def test_a_client_that_leaves_while_a_thread_waits_is_noticed() -> None:
    async with led() as it:
        await it.call("plain")
        assert it.is_led
        await it.channel.aclose()
        await it.connection.finished.wait()
        assert "closed the connection" in str(it.connection.ended)


# --------------------------------------------------------------------------------- draining


@pytest.mark.usefixtures("lasting")
async def test_an_exporter_drains_while_a_thread_waits_for_calls() -> None:
    async with led() as it:
        await it.call("plain")
        assert it.is_led
        await it.session.drain(PATIENCE, "shutting down")
        await it.connection.finished.wait()


@pytest.mark.usefixtures("lasting")
async def test_an_exporter_drains_a_led_call_to_its_end() -> None:
    async with led() as it, trio.open_nursery() as nursery:
        await it.call("plain")
        results: list[Any] = []
        nursery.start_soon(_collect, it, results, "slow", "in time")
        await until(it.driver.begun.is_set)
        nursery.start_soon(it.session.drain, PATIENCE, "shutting down")
        await until(lambda: it.channel.connection.goaway is not None)
        it.driver.let_go.set()
    assert results == ["in time"]


@pytest.mark.usefixtures("lasting")
async def test_what_a_thread_has_half_written_leaves_before_anything_else() -> None:
    async with led() as it:
        await it.call("plain")
        assert it.is_led
        socket, token = it.connection.reader._socket, trio.lowlevel.current_trio_token()
        assert socket is not None
        write = socket.try_write

        def go_away() -> None:  # as a drain does, before the thread returns
            with it.connection.lock:
                it.session._rules.goaway(Code.OK, 0, "shutting down")
                it.connection.writer.flush()

        def half(buffers: Sequence[Buffer]) -> list[Buffer]:
            socket.try_write = write  # type: ignore[method-assign]
            frame = b"".join(buffers)
            assert write([frame[:5]]) == []
            token.run_sync_soon(go_away)
            return [memoryview(frame)[5:]]

        socket.try_write = half  # type: ignore[method-assign]
        assert await it.call("plain", "whole") == "whole"
        await until(lambda: it.channel.connection.goaway is not None)


# ------------------------------------------------------------------ threads for other clients


@pytest.mark.usefixtures("lasting")
async def test_a_thread_stays_only_while_others_are_free() -> None:
    async with led(threads=1) as it:
        for number in range(3):
            assert await it.call("plain", number) == number
            await until(lambda: not it.is_led)


@pytest.mark.usefixtures("lasting")
async def test_a_thread_that_others_need_does_not_wait_for_calls() -> None:
    async with led(threads=4) as it:
        limiter = it.session._dispatcher.executor.limiter
        assert await it.call("plain", 1) == 1
        assert it.is_led
        for borrower in range(2):
            limiter.acquire_on_behalf_of_nowait(borrower)
        assert await it.call("plain", 2) == 2
        await until(lambda: not it.is_led)
        for borrower in range(2):
            limiter.release_on_behalf_of(borrower)


# ------------------------------------------------------------- hostile clients, and failures


@pytest.mark.usefixtures("lasting")
async def test_what_comes_behind_a_plain_call_is_acted_on() -> None:
    async with led() as it:
        await it.call("plain")
        async with trio.open_nursery() as nursery:
            for number in range(5):  # sent together
                nursery.start_soon(it.call, "plain", number)
                nursery.start_soon(it.call, "echo_async", number)
        assert await it.call("plain", 1) == 1


@pytest.mark.usefixtures("lasting")
async def test_a_breach_that_a_thread_has_read_ends_the_connection_with_a_word() -> None:
    async with led() as it:
        await it.call("plain")
        assert it.is_led
        it.channel.connection.rules.send_queue.add_frame(FrameType.RESULT, 1, b"\xc0")
        it.channel.connection.writer.flush_now()
        await it.channel.connection.finished.wait()
        assert "only the other side may send" in str(it.channel.ended)
        await it.connection.finished.wait()


@contextmanager
def _failing(monkeypatch: pytest.MonkeyPatch, it: Led, name: str, exc: Exception) -> Iterator[None]:
    """Make the exporter's socket fail, while the client's works."""

    def fail(*_: object) -> Any:
        raise exc

    with monkeypatch.context() as patch:
        patch.setattr(it.connection.reader._socket, name, fail)
        yield


async def _answered_then(it: Led, condition: Callable[[], bool]) -> None:
    with pytest.raises(CallOutcomeUnknown):
        await it.call("slow")
    await until(condition)


@pytest.mark.usefixtures("lasting")
async def test_a_thread_that_cannot_write_leaves_the_end_to_the_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with led() as it, trio.open_nursery() as nursery:
        nursery.start_soon(_answered_then, it, it.connection.finished.is_set)
        await until(it.driver.begun.is_set)
        with _failing(monkeypatch, it, "try_write", BrokenPipeError("pulled")):
            it.driver.let_go.set()
            await it.connection.finished.wait()
    assert "pulled" in str(it.connection.ended)


@pytest.mark.usefixtures("lasting")
async def test_a_fault_of_ours_in_a_thread_ends_this_connection_and_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with led() as it:
        await it.call("plain")
        assert it.is_led
        with _failing(monkeypatch, it, "try_read", ZeroDivisionError("our own")):
            with pytest.raises(CallOutcomeUnknown):
                await it.call("plain")
            await it.connection.finished.wait()
    assert "internal error on the connection" in caplog.text
    assert "our own" in caplog.text


@pytest.mark.usefixtures("lasting")
async def test_a_fault_of_ours_as_a_thread_answers_ends_this_connection_and_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("our own")

    async with led() as it:
        await it.call("plain")
        with monkeypatch.context() as patch:
            patch.setattr(it.session, "answered", fail)
            with pytest.raises(CallOutcomeUnknown):
                await it.call("plain")
            await it.connection.finished.wait()
    assert "internal error on the connection" in caplog.text
    assert "our own" in caplog.text


async def test_threads_lead_and_give_back_under_a_mix_of_calls() -> None:
    """Make plain calls one after another, concurrently, cancelled and late, on one connection."""
    async with led() as it:
        it.driver.let_go.set()

        async def some(count: int, method: str) -> None:
            for number in range(count):
                assert await it.call(method, number) == number

        async def impatient() -> None:
            for _ in range(20):
                with trio.move_on_after(0.002):
                    await it.call("polling")

        for _ in range(5):
            await some(20, "plain")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(some, 20, "plain")
                nursery.start_soon(some, 20, "echo_async")
                nursery.start_soon(some, 5, "slow")
            await impatient()
        assert it.driver.log.count("slow ended") == 25
        assert await it.call("check_cancelled") == "not cancelled"
        await until(lambda: not it.is_led)
        assert not it.connection.handlers
        assert not it.session.running
