"""Tests of `_exporter.log_stream`: what is queued of a record, and what a full queue does."""

from __future__ import annotations

import enum
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any
from uuid import UUID

import pytest
import trio
import trio.testing

from helpers import PATIENCE, timed
from jumpstarter._exporter import log_stream
from jumpstarter._exporter.log_stream import LogFanout, LogQueue, Row
from jumpstarter._protocol.codec import encode_value

driver_logger = logging.getLogger("driver.Board.c0ffee")
other_logger = logging.getLogger("lib")
OWNER = object()


@pytest.fixture(autouse=True)
def levels(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")


@pytest.fixture
def fanout() -> Iterator[LogFanout]:
    fanout = LogFanout(send_tracebacks=False)
    yield fanout
    assert fanout not in logging.getLogger().handlers


async def batches_of(queue: LogQueue) -> list[tuple[int, list[Row]]]:
    """End a queue, and return the batches that are left."""
    queue.end()
    return [batch async for batch in queue.batches()]


async def rows_of(queue: LogQueue) -> list[Row]:
    return [row for _, rows in await batches_of(queue) for row in rows]


def opened(fanout: LogFanout, stack: ExitStack, owner: object = OWNER) -> LogQueue:
    queue = stack.enter_context(fanout.queue(owner))
    assert queue is not None
    return queue


# ------------------------------------------------------------------------- records


async def test_row_has_the_time_level_source_logger_text_and_fields(fanout: LogFanout) -> None:
    uuid = UUID(int=1)
    with ExitStack() as stack:
        queue = opened(fanout, stack)
        driver_logger.info("on: %d", 3, extra={"board": 7, "uuid": uuid, "volts": 3.3, "x": None})
        other_logger.error("100%")
        logging.getLogger("drivers").debug("no driver of ours")
        first, second, third = await rows_of(queue)
    assert first[0] > 1.7e9
    assert first[1:] == (
        logging.INFO,
        "driver",
        "driver.Board.c0ffee",
        "on: 3",
        {"board": 7, "uuid": str(uuid), "volts": 3.3, "x": None},
    )
    assert second[1:] == (logging.ERROR, "system", "lib", "100%", {})
    assert third[2] == "system"


async def test_text_is_made_when_the_record_is(fanout: LogFanout) -> None:
    argument = ["before"]
    with ExitStack() as stack:
        queue = opened(fanout, stack)
        driver_logger.info("%s", argument)
        argument[0] = "after"
        (row,) = await rows_of(queue)
    assert row[4] == "['before']"


@pytest.mark.parametrize("send_tracebacks", [False, True])
async def test_exception_is_its_last_line_unless_tracebacks_are_sent(
    *, send_tracebacks: bool
) -> None:
    with ExitStack() as stack:
        queue = opened(LogFanout(send_tracebacks=send_tracebacks), stack)
        try:
            raise ValueError("no voltage")
        except ValueError:
            driver_logger.exception("failed")
        (row,) = await rows_of(queue)
    first, *_, last = row[4].splitlines()
    assert (first, last) == ("failed", "ValueError: no voltage")
    assert ("Traceback" in row[4]) is send_tracebacks


class Volts(enum.IntEnum):
    THREE = 3


class Real(float):
    """A float as numpy has it."""


async def test_everything_that_is_logged_can_be_sent(fanout: LogFanout) -> None:
    odd: dict[str, Any] = {
        "large": 1 << 70,
        "enum": Volts.THREE,
        "real": Real(1.5),
        "nan": float("nan"),
        "bytes": b"\xff",
        "text": "\udcff",
        "long": 5000 * "x",
        "thing": object(),
        **{f"field{number}": number for number in range(100)},
    }
    with ExitStack() as stack:
        queue = opened(fanout, stack)
        driver_logger.info("\udcff%s", 100_000 * "x", extra=odd)
        logging.getLogger("driver.\udcff").warning("ä", extra={"a\udcff": 1})
        rows = await rows_of(queue)
    assert len(encode_value(rows, b"")) < 30_000
    fields = rows[0][5]
    assert (fields["large"], fields["enum"], fields["real"]) == (str(1 << 70), 3, 1.5)
    assert len(fields) == 32
    assert rows[0][4].endswith("[cut: 100001 characters in all]")
    assert rows[1][3:] == ("driver.\\udcff", "ä", {"a\\udcff": 1})


async def test_records_of_a_client_in_this_process_are_not_sent(fanout: LogFanout) -> None:
    with ExitStack() as stack:
        queue = opened(fanout, stack)
        logging.getLogger("exporter:driver").info("received")
        logging.getLogger("exporter:system").info("received")
        driver_logger.info("mine")
        rows = await rows_of(queue)
    assert [row[4] for row in rows] == ["mine"]


async def test_record_that_cannot_be_formatted_is_reported_as_logging_does(
    fanout: LogFanout, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed: list[logging.LogRecord] = []
    monkeypatch.setattr(fanout, "handleError", failed.append)
    with ExitStack() as stack:
        queue = opened(fanout, stack)
        record = logging.LogRecord("driver.x", 20, "x.py", 1, "%d", ("text",), None)
        assert not fanout.handle(record)
        driver_logger.info("next")
        rows = await rows_of(queue)
    assert failed == [record]
    assert [row[4] for row in rows] == ["next"]


async def test_forked_child_queues_nothing(
    fanout: LogFanout, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExitStack() as stack:
        queue = opened(fanout, stack)
        with monkeypatch.context() as child:
            child.setattr(os, "getpid", lambda: 1)
            driver_logger.info("in the child")
        assert await rows_of(queue) == []


# ------------------------------------------------------------------------- queues


async def test_handler_is_there_while_a_client_listens(fanout: LogFanout) -> None:
    root = logging.getLogger()
    with ExitStack() as outer:
        opened(fanout, outer)
        with ExitStack() as inner:
            opened(fanout, inner)
            assert root.handlers.count(fanout) == 1
        assert root.handlers.count(fanout) == 1
    assert fanout not in root.handlers


async def test_each_client_gets_each_record(fanout: LogFanout) -> None:
    with ExitStack() as stack:
        queues = [opened(fanout, stack, owner) for owner in (1, 2, 3)]
        driver_logger.info("for all")
        assert [[row[4] for row in await rows_of(queue)] for queue in queues] == 3 * [["for all"]]


async def test_connection_has_few_queues(fanout: LogFanout) -> None:
    with ExitStack() as stack:
        for _ in range(log_stream.MAX_QUEUES):
            opened(fanout, stack)
        with fanout.queue(OWNER) as queue:
            assert queue is None
        opened(fanout, stack, "another connection")


async def test_all_connections_have_few_queues_together(
    fanout: LogFanout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_stream, "MAX_ALL_QUEUES", 3)
    with ExitStack() as stack:
        for number in range(3):
            opened(fanout, stack, number)
        with fanout.queue(OWNER) as queue:
            assert queue is None


async def test_queue_is_ended_by_its_own_connection_only(fanout: LogFanout) -> None:
    with ExitStack() as stack:
        queue = opened(fanout, stack)
        fanout.end("another connection", queue.number)
        fanout.end(OWNER, queue.number + 1)
        driver_logger.info("still there")
        fanout.end(OWNER, queue.number)
        driver_logger.info("too late")
        rows = [row async for _, rows in queue.batches() for row in rows]
    assert [row[4] for row in rows] == ["still there"]


async def test_full_queue_drops_and_counts_where_records_are_missing(
    fanout: LogFanout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_stream, "MAX_ROWS", 3)
    monkeypatch.setattr(log_stream, "_BATCH_ROWS", 2)
    with ExitStack() as stack:
        queue = opened(fanout, stack)
        for number in range(10):
            driver_logger.info(str(number))
        batches = queue.batches()
        first = await anext(batches)
        driver_logger.info("after")
        queue.end()
        rest = [batch async for batch in batches]
        await batches.aclose()
    seen = [(lost, [row[4] for row in rows]) for lost, rows in [first, *rest]]
    assert seen == [(0, ["0", "1"]), (0, ["2"]), (7, ["after"])]


async def test_queue_is_limited_in_characters_too(
    fanout: LogFanout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_stream, "MAX_SIZE", 1000)
    with ExitStack() as stack:
        queue = opened(fanout, stack)
        for _ in range(10):
            driver_logger.info(300 * "x")
        batches = await batches_of(queue)
        assert [(lost, len(rows)) for lost, rows in batches] == [(0, 2), (8, 0)]
        assert queue._size == 0


async def test_batch_is_small_enough_to_share_the_connection(fanout: LogFanout) -> None:
    with ExitStack() as stack:
        queue = opened(fanout, stack)
        for _ in range(100):
            driver_logger.info(1000 * "x")
        batches = await batches_of(queue)
    assert sum(len(rows) for _, rows in batches) == 100
    assert max(len(encode_value(batch, b"")) for batch in batches) < 32 * 1024


# ------------------------------------------------------------------------- waiting


async def test_record_of_a_thread_wakes_the_task(fanout: LogFanout) -> None:
    with ExitStack() as stack:
        queue = opened(fanout, stack)
        batches = queue.batches()
        for number in range(3):  # with pauses, in which the task waits
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.to_thread.run_sync, driver_logger.info, str(number))
                with trio.fail_after(PATIENCE):
                    assert [row[4] for row in (await anext(batches))[1]] == [str(number)]
        await batches.aclose()


@timed()
async def test_records_of_many_threads_arrive_once_and_in_order(fanout: LogFanout) -> None:
    count, names = 500, ["a", "b", "c", "d"]

    def log(name: str) -> None:
        for number in range(count):
            driver_logger.info("%s %d", name, number)

    seen: list[str] = []
    with ExitStack() as stack:
        queue = opened(fanout, stack)
        threads = [threading.Thread(target=log, args=(name,)) for name in names]
        for thread in threads:
            thread.start()
        batches = queue.batches()
        while len(seen) < count * len(names):
            lost, rows = await anext(batches)
            assert lost == 0
            seen += [row[4] for row in rows]
        await batches.aclose()
        for thread in threads:
            thread.join()
    for name in names:
        assert [text for text in seen if text[0] == name] == [f"{name} {n}" for n in range(count)]


async def test_end_does_not_wait_for_the_pause_between_batches(
    fanout: LogFanout, autojump_clock: trio.testing.MockClock
) -> None:
    del autojump_clock
    with ExitStack() as stack:
        queue = opened(fanout, stack)
        driver_logger.info("first")
        batches = queue.batches()
        await anext(batches)
        began = trio.current_time()
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def rest() -> None:
                assert [batch async for batch in batches] == []

            await trio.lowlevel.checkpoint()
            queue.end()
        assert trio.current_time() == began
