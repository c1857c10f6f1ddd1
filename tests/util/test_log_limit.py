"""A rate-limited logger writes some lines, counts the others, and never raises."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from trio.testing import MockClock

from jumpstarter._util.log_limit import RateLimitedLogger

LOGGER = logging.getLogger("test.journal")


@pytest.fixture(autouse=True)
def _level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, LOGGER.name)


def write(event_log: RateLimitedLogger, count: int) -> None:
    for number in range(count):
        event_log.log(LOGGER, logging.INFO, "line %d", number)


async def test_ten_lines_pass_immediately_and_then_one_per_second(
    mock_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    event_log = RateLimitedLogger()
    write(event_log, 1000)
    assert caplog.messages == [f"line {number}" for number in range(10)]
    for _ in range(3):
        mock_clock.jump(1)
        write(event_log, 100)
    assert caplog.messages[10:] == [
        "990 lines were omitted here",
        "line 0",
        "99 lines were omitted here",
        "line 0",
        "99 lines were omitted here",
        "line 0",
    ]


async def test_no_line_is_suppressed_after_a_quiet_time(
    mock_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    event_log = RateLimitedLogger()
    write(event_log, 10)
    mock_clock.jump(3600)
    write(event_log, 11)
    assert len(caplog.messages) == 20
    assert not any("left out" in message for message in caplog.messages)


async def test_a_line_below_the_level_costs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    event_log = RateLimitedLogger(burst=1, rate=0)
    for _ in range(100):
        event_log.log(LOGGER, logging.DEBUG, "nobody listens")
    event_log.log(LOGGER, logging.INFO, "at %s", "last")
    assert caplog.messages == ["at last"]


async def test_a_line_has_its_caller_and_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    error = KeyError("relay")
    RateLimitedLogger().log(LOGGER, logging.ERROR, "100% bad", exc=error)
    (record,) = caplog.records
    assert record.getMessage() == "100% bad"
    assert record.funcName == "test_a_line_has_its_caller_and_traceback"
    assert record.exc_info is not None
    assert record.exc_info[1] is error


async def test_an_expensive_line_is_built_only_if_allowed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    event_log = RateLimitedLogger(burst=2, rate=0)
    assert not event_log.allows(LOGGER, logging.DEBUG)
    made = 0
    for _ in range(5):
        if event_log.allows(LOGGER, logging.INFO):
            made += 1
            event_log.write(LOGGER, logging.INFO, "made %d", made)
    assert caplog.messages == ["made 1", "made 2"]
    assert {record.funcName for record in caplog.records} == {
        "test_an_expensive_line_is_built_only_if_allowed"
    }


async def test_lines_suppressed_at_the_end_are_reported_on_close(
    caplog: pytest.LogCaptureFixture,
) -> None:
    event_log = RateLimitedLogger(burst=1, rate=0)
    event_log.close(LOGGER, "nobody")
    write(event_log, 4)
    event_log.close(LOGGER, "client of uid 1")
    assert caplog.messages == ["line 0", "3 lines were omitted, on client of uid 1"]


async def test_a_line_must_pass_the_parent_logger_too(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A parent bounds the lines of any number of connections, each with a few lines."""
    parent = RateLimitedLogger(burst=5, rate=0)
    for _ in range(4):
        write(RateLimitedLogger(burst=2, rate=0, parent=parent), 3)
    assert caplog.messages == ["line 0", "line 1"] * 2 + ["line 0"]


class _Broken(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        raise OSError(f"No space left for {record.msg}")


@pytest.fixture
def broken() -> Iterator[None]:
    handler = _Broken()
    LOGGER.addHandler(handler)
    yield
    LOGGER.removeHandler(handler)


@pytest.mark.usefixtures("broken")
async def test_a_failing_log_handler_does_not_raise() -> None:
    with pytest.raises(OSError, match="No space left"):
        LOGGER.error("without a rate limit")
    RateLimitedLogger().log(LOGGER, logging.ERROR, "with one")
