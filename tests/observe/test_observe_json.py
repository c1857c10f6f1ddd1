"""Test the log in JSON: its keys, its escapes, and the calls that it names."""

from __future__ import annotations

import gc
import json
import logging
import re
import weakref
from collections.abc import AsyncGenerator, Generator, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest
import trio

from drivers_for_tests import Plain
from helpers import timed, until
from jumpstarter import connect_async, serve_async
from jumpstarter._exporter.current_call import is_call_wanted
from jumpstarter._util.log_records import FACTS
from jumpstarter.driver import caller, export
from jumpstarter.errors import DriverError
from jumpstarter.observe import JsonFormatter

logger: Final = logging.getLogger("driver.ForTheLog")


class Lines(logging.Handler):
    """Keep the lines that a formatter makes.

    Attributes:
        lines: The lines.
    """

    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))

    @property
    def objects(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines]


@pytest.fixture
def log() -> Iterator[Lines]:
    """Keep in JSON all that is logged, at every level."""
    handler, root = Lines(JsonFormatter()), logging.getLogger()
    before, other = root.level, logging.getLogger("jumpstarter.exporter")
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    other.setLevel(logging.DEBUG)
    logger.setLevel(logging.DEBUG)
    try:
        yield handler
    finally:
        root.removeHandler(handler)
        root.setLevel(before)
        other.setLevel(logging.NOTSET)
        logger.setLevel(logging.NOTSET)


class Talking(Plain):
    """A driver that logs in each kind of method."""

    @export
    def plain(self) -> int:
        self.logger.info("in a thread")
        return caller().connection

    @export
    async def waits(self) -> None:
        await trio.lowlevel.checkpoint()
        self.logger.info("in a task")

    @export
    def items(self) -> Generator[int, None, None]:
        self.logger.info("first")
        yield 1
        self.logger.info("second")

    @export
    async def items_async(self) -> AsyncGenerator[int, None]:
        yield 1
        self.logger.info("after an item")

    @export
    def fail(self, text: str) -> None:
        raise ValueError(text)

    @export
    async def sleep(self) -> None:
        self.logger.info("asleep")
        await trio.sleep_forever()


def test_record_has_the_documented_keys_in_order(log: Lines) -> None:
    before = datetime.now().astimezone()
    try:
        raise ValueError("no voltage")
    except ValueError:
        logger.exception("it is %s", "off", extra={"board": 7})
    (line,) = log.lines
    found = json.loads(line)
    keys = ["time", "level", "logger", "message", "exception", "traceback", "extra"]
    assert list(found) == keys
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", found["time"])
    made = datetime.fromisoformat(found["time"])
    assert before - timedelta(milliseconds=1) <= made <= datetime.now().astimezone()
    assert (found["level"], found["logger"]) == ("ERROR", "driver.ForTheLog")
    assert (found["message"], found["exception"]) == ("it is off", "ValueError: no voltage")
    assert found["traceback"].startswith("Traceback (most recent call last):\n")
    assert found["extra"] == {"board": 7}


@pytest.mark.parametrize(
    "text",
    ["a\nb", "\x1b[2J", "\x00", "\x7f", "\x9b31m", "\u2028", "\u202e", 'quo"te\\', "é漢", "\r"],
)
def test_line_is_printable_ascii_and_gives_back_the_text(log: Lines, text: str) -> None:
    logger.info("%s", text, extra={f"x{text}": text})
    (line,) = log.lines
    assert re.fullmatch(r"[ -~]+", line)
    (found,) = log.objects
    assert (found["message"], found["extra"]) == (text, {f"x{text}": text})


def test_what_no_text_can_be_is_escaped_and_what_is_long_is_cut(log: Lines) -> None:
    logger.info("\udcff%s", "x" * 1_000_000, extra={"number": 1 << 80, "thing": Path("/a")})
    (found,) = log.objects
    assert found["message"].startswith("\\udcffxxx")
    assert found["message"].endswith("... [cut: 1000001 characters in all]")
    assert len(found["message"]) < 70_000
    assert found["extra"] == {"number": str(1 << 80), "thing": "/a"}


def of_drivers(log: Lines) -> list[dict[str, Any]]:
    return [each for each in log.objects if each["logger"] == "driver.Talking"]


def of_calls(log: Lines) -> list[dict[str, Any]]:
    return [each for each in log.objects if "duration" in each]


@timed()
async def test_records_name_the_call_whose_code_logs_them(log: Lines, tmp_path: Path) -> None:
    tree = Plain(children={"dut": Plain(children={"power": Talking()})})
    async with (
        serve_async(tree, f"unix:{tmp_path}/s") as server,
        connect_async(server.address, name="the tester") as client,
    ):
        power = client.children["dut"].children["power"]
        number = await power.call_async("plain")
        await power.call_async("waits")
        async for _ in power.streamingcall_async("items"):
            pass
        async for _ in power.streamingcall_async("items_async"):
            pass
    said = of_drivers(log)
    assert [(each["method"], each["message"]) for each in said] == [
        ("plain", "in a thread"),
        ("waits", "in a task"),
        ("items", "first"),
        ("items", "second"),
        ("items_async", "after an item"),
    ]
    assert {each["driver"] for each in said} == {"dut.power"}
    assert {each["connection"] for each in said} == {number}
    assert all(each["client"].endswith("says 'the tester'") for each in said)
    ended = [each for each in of_calls(log) if each.get("driver")]
    assert [each["method"] for each in ended] == ["plain", "waits", "items", "items_async"]
    assert [each["call"] for each in ended] == sorted({each["call"] for each in said})
    assert all(each["outcome"] == "returned" and each["duration"] >= 0 for each in ended)
    (came,) = [each for each in log.objects if "has connected" in each["message"]]
    assert came["connection"] == number
    assert "call" not in came


@timed()
async def test_outcome_and_exception_of_calls_that_fail(log: Lines, tmp_path: Path) -> None:
    async with (
        serve_async(Talking(), f"unix:{tmp_path}/s") as server,
        connect_async(server.address) as client,
    ):
        with pytest.raises(DriverError):
            await client.call_async("fail", "no\nvoltage")
        with pytest.raises(DriverError):
            await client.call_async("missing\x1b[2J")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.call_async, "sleep")
            await until(lambda: any(each["message"] == "asleep" for each in of_drivers(log)))
            nursery.cancel_scope.cancel()
    reported = [each for each in log.objects if "exception" in each]
    assert [each["exception"] for each in reported] == ["ValueError: no\nvoltage"]
    assert (reported[0]["driver"], reported[0]["method"]) == (".", "fail")
    assert reported[0]["outcome"] == "raised"
    ended = [each for each in of_calls(log) if each.get("driver")]
    assert [(each["method"], each["outcome"]) for each in ended] == [
        ("fail", "raised"),
        ("missing\x1b[2J", "refused"),
        ("sleep", "cancelled"),
    ]
    assert reported[0]["call"] == ended[0]["call"]


@timed()
async def test_facts_of_a_call_do_not_go_to_clients_as_fields(log: Lines, tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []

    class Seeing(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(vars(record))

    handler, system = Seeing(), logging.getLogger("exporter:system")
    system.addHandler(handler)
    try:
        async with (
            serve_async(Talking(), f"unix:{tmp_path}/s") as server,
            connect_async(server.address) as client,
            client.log_stream_async(),
        ):
            await client.call_async("plain")
    finally:
        system.removeHandler(handler)
    ended = [each for each in seen if "returned after" in str(each["msg"])]
    assert ended
    assert all(FACTS not in each for each in ended)
    assert any(each["method"] == "plain" for each in of_calls(log))


def test_calls_are_watched_only_while_a_formatter_exists() -> None:
    formatter = JsonFormatter()
    assert is_call_wanted()
    is_alive = weakref.ref(formatter)
    del formatter
    gc.collect()
    assert is_alive() is None
