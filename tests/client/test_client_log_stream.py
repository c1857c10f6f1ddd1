"""Test that a client shows the exporter's log, whatever the exporter and the handlers do."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from exporter_process import exporter
from helpers import PATIENCE, timed, until
from jumpstarter import Limits, connect, connect_async, serve, serve_async
from jumpstarter._exporter import context, log_stream
from jumpstarter.client import DriverClient
from jumpstarter.client._log_stream import _fields, _log
from jumpstarter.driver import Driver, export
from jumpstarter.driver._export import Exported, exports_of
from jumpstarter.errors import DriverError, DriverMethodNotImplemented

Seen = list[logging.LogRecord]


class Board(Driver):
    """Logs."""

    @classmethod
    def client(cls) -> str:
        return "jumpstarter.client.DriverClient"

    @export
    def say(self, *texts: str) -> None:
        for text in texts:
            self.logger.info(text, extra={"board": 7})

    @export
    def chat(self, count: int) -> None:
        for number in range(count):
            self.logger.info("line %d", number)

    @export
    async def warn(self, text: str) -> None:
        logging.getLogger("lib").warning(text)


class Recorder(logging.Handler):
    """Keeps the records of the exporter; its `gate` can hold up the thread that logs."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Seen = []
        self.gate = threading.Event()
        self.gate.set()

    def emit(self, record: logging.LogRecord) -> None:
        assert self.gate.wait(PATIENCE)
        self.seen.append(record)

    def texts(self, name: str = "exporter:driver") -> list[str]:
        return [record.getMessage() for record in self.seen if record.name == name]


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    recorder = Recorder()
    loggers = [logging.getLogger(f"exporter:{source}") for source in ("driver", "system")]
    for logger in loggers:
        logger.addHandler(recorder)
        logger.setLevel("DEBUG")
    yield recorder
    for logger in loggers:
        logger.removeHandler(recorder)
        logger.setLevel("NOTSET")


# ------------------------------------------------------------------------- records


def test_what_a_call_has_logged_is_there_at_the_end_of_the_block(recorder: Recorder) -> None:
    with serve(Board()) as board:
        board.call("say", "before")
        with board.log_stream():
            board.call("say", "100%", "two")
            board.call("warn", "careful")
        board.call("say", "after")
    assert recorder.texts() == ["100%", "two"]
    assert recorder.texts("exporter:system") == ["careful"]
    first, *_, last = recorder.seen
    fields = vars(first)
    assert (first.levelname, fields["board"]) == ("INFO", 7)
    assert fields["exporter_logger"].startswith("driver.Board")
    assert abs(fields["exporter_created"] - first.created) < PATIENCE
    assert (last.levelname, vars(last)["exporter_logger"]) == ("WARNING", "lib")


@timed()
async def test_trio_code_has_the_same(recorder: Recorder) -> None:
    async with (
        serve_async(Board(), "tcp://127.0.0.1:0") as server,
        connect_async(server.address) as board,
        board.log_stream_async(),
    ):
        await board.call_async("say", "one", "two")
        await until(lambda: recorder.texts() == ["one", "two"])  # not only at the end


def test_each_client_has_a_stream_of_its_own(recorder: Recorder) -> None:
    with serve(Board()) as board, board.log_stream(), board.log_stream():
        board.call("say", "twice")
    assert recorder.texts() == ["twice", "twice"]


def test_client_can_listen_again(recorder: Recorder) -> None:
    with serve(Board()) as board:
        for number in range(10):
            with board.log_stream():
                board.call("say", str(number))
    assert recorder.texts() == [str(number) for number in range(10)]
    assert not any(isinstance(h, log_stream.LogFanout) for h in logging.getLogger().handlers)


def test_stream_has_a_connection_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "jumpstarter.exporter")
    with serve(Board()) as board, board.log_stream():
        assert caplog.text.count("has connected") == 2
        assert not board.channel.channel.connection.handlers


def test_stream_shares_the_connection_where_there_can_be_no_other(recorder: Recorder) -> None:
    with serve(Board(), limits=Limits(max_connections=1)) as board, board.log_stream():
        board.call("say", "on the only one")
        assert board.channel.channel.connection.handlers
    assert recorder.texts() == ["on the only one"]


def test_record_in_one_process_is_shown_once(recorder: Recorder) -> None:
    logging.getLogger("driver").addHandler(recorder)
    try:
        with serve(Board()) as board, board.log_stream():
            for _ in range(3):
                board.call("say", "once")
    finally:
        logging.getLogger("driver").removeHandler(recorder)
    names = sorted(record.name.partition(".")[0] for record in recorder.seen)
    assert names == 3 * ["driver"] + 3 * ["exporter:driver"]


def test_log_of_another_process_is_shown(tmp_path: Path, recorder: Recorder) -> None:
    driver = "test_client_log_stream:Board"
    prefix = ("env", f"PYTHONPATH={Path(__file__).parent}")
    with (
        exporter(tmp_path, driver=driver, prefix=prefix) as process,
        connect(process.address) as board,
        board.log_stream(),
    ):
        board.call("chat", 2000)
        board.call("warn", "careful")
    assert recorder.texts() == [f"line {number}" for number in range(2000)]
    assert recorder.texts("exporter:system") == ["careful"]


def test_loggers_of_this_process_choose_the_level(recorder: Recorder) -> None:
    logging.getLogger("exporter:driver").setLevel("WARNING")
    with serve(Board()) as board, board.log_stream():
        board.call("say", "quiet")
        board.call("warn", "loud")
    assert (recorder.texts(), recorder.texts("exporter:system")) == ([], ["loud"])


# ------------------------------------------------------------------------- slow handlers


def test_handler_that_blocks_delays_no_call(recorder: Recorder) -> None:
    with serve(Board()) as board, board.log_stream():
        recorder.gate.clear()
        board.call("say", "held")
        with board.timeout(PATIENCE):
            for _ in range(20):
                board.call("warn", "behind it")
        assert recorder.seen == []
        recorder.gate.set()
    assert recorder.texts("exporter:system") == 20 * ["behind it"]


def test_client_learns_how_many_records_were_lost(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_stream, "MAX_ROWS", 100)
    count = 20_000
    with serve(Board(), limits=Limits(stream_window=4096)) as board, board.log_stream():
        recorder.gate.clear()
        board.call("chat", count)  # it does not wait for the reader
        recorder.gate.set()
    lost = [vars(record)["exporter_lost"] for record in recorder.seen if record.args]
    warnings = recorder.texts("exporter:system")
    assert len(lost) == len(warnings) >= 1
    assert "records of the log of" in warnings[0]
    assert sum(lost) > 0
    assert sum(lost) + len(recorder.texts()) == count


# ------------------------------------------------------------------------- ends


def test_block_that_fails_raises_its_own_exception(recorder: Recorder) -> None:
    def fail(board: DriverClient) -> None:
        with board.log_stream():
            board.call("say", "before it failed")
            raise KeyError("mine")

    with serve(Board()) as board:
        with pytest.raises(KeyError, match="mine"):
            fail(board)
        board.call("say", "usable")
    assert recorder.texts() == ["before it failed"]


@timed()
async def test_block_can_be_cancelled(recorder: Recorder) -> None:
    async with (
        serve_async(Board(), "tcp://127.0.0.1:0") as server,
        connect_async(server.address) as board,
    ):
        with trio.CancelScope() as scope:
            async with board.log_stream_async():
                await board.call_async("say", "one")
                scope.cancel()
                await trio.sleep_forever()
        assert scope.cancelled_caught
        await board.call_async("say", "two")
    assert set(recorder.texts()) <= {"one"}


def test_exporter_that_dies_ends_the_stream_and_not_the_block(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        exporter(tmp_path, driver="drivers_for_tests:Echo") as process,
        connect(process.address) as client,
        client.log_stream(),
    ):
        process.send(signal.SIGKILL)
        with pytest.raises(DriverError):
            client.call("echo", 1)
        ended = time.monotonic() + PATIENCE
        while "the log stream of" not in caplog.text:
            assert time.monotonic() < ended
            time.sleep(0.01)
        with pytest.raises(DriverError):
            client.call("echo", 2)


@timed()
async def test_exporter_that_ends_says_so(caplog: pytest.LogCaptureFixture) -> None:
    async with (
        serve_async(Board(), "tcp://127.0.0.1:0") as server,
        connect_async(server.address) as board,
        board.log_stream_async(),
    ):
        await server.drain(PATIENCE)  # ends the stream after a second
        await until(lambda: "the log stream of" in caplog.text)


def test_handler_that_raises_ends_the_stream_with_a_warning(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: logging.LogRecord) -> bool:
        raise LookupError("a filter is broken")

    monkeypatch.setattr(recorder, "handle", fail)
    with serve(Board()) as board, board.log_stream():
        board.call("say", "one")
        board.call("say", "two")
    assert "has ended: a filter is broken" in caplog.text


# ------------------------------------------------------------------------- other exporters


def test_older_exporter_is_named_as_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def older(cls: type) -> Mapping[str, Exported]:
        return {name: each for name, each in exports_of(cls).items() if "log" not in name}

    monkeypatch.setattr(context, "exports_of", older)
    with serve(Board()) as board:
        refused = pytest.raises(DriverMethodNotImplemented, match=r"cannot send its log.*update it")
        with refused, board.log_stream():
            pytest.fail("there is no log")
        board.call("say", "usable")


def test_connection_with_many_streams_is_refused_another() -> None:
    @contextmanager
    def nested(depth: int) -> Iterator[None]:
        with board.log_stream():
            if depth == 1:
                yield
            else:
                with nested(depth - 1):
                    yield

    with serve(Board()) as board:
        board.channel.channel.reopen = None  # all streams share the connection
        refused = pytest.raises(DriverError, match="4 streams of the log")
        with nested(log_stream.MAX_QUEUES), refused, board.log_stream():
            pytest.fail("one too many")
        with board.log_stream():
            pass


@pytest.mark.parametrize(
    "row",
    [
        "text",
        [1.0, "INFO", "driver", "driver.x", "text", {}],
        [1.0, 20, 7, "driver.x", "text", {}],
        [1.0, 20, "driver", 7, "text", {}],
        [1.0, 20, "driver", "driver.x", b"text", {}],
        [1.0, 20, "driver", "driver.x", "text", []],
        [None, 20, "driver", "driver.x", "text", {}],
    ],
)
def test_record_of_another_shape_is_an_error(recorder: Recorder, row: Any) -> None:
    with pytest.raises(DriverError, match="it has sent a"):
        _log("an exporter", 0, [row])
    assert recorder.seen == []


def test_later_version_may_add_elements(recorder: Recorder) -> None:
    _log("an exporter", 0, [[1.0, 20, "hook", "hook.x", "text", {}, "more"]])
    assert recorder.texts("exporter:system") == ["text"]


def test_text_of_an_exporter_cannot_pass_for_another_line(recorder: Recorder) -> None:
    _log("an exporter", 0, [[1.0, 20, "driver", "driver\nx", "one\n\x1b[2Jtwo", {"a": "b\nc"}]])
    assert recorder.texts() == ["one\n    | \\x1b[2Jtwo"]
    fields = vars(recorder.seen[0])
    assert (fields["exporter_logger"], fields["a"]) == ("driver\n    | x", "b\n    | c")


def test_fields_of_an_exporter_cannot_break_a_record() -> None:
    odd = {
        "name": "x",
        "message": "x",
        "getMessage": "x",
        "__class__": "x",
        "no name": "x",
        "nested": [1],
        "good": 1.5,
    }
    assert dict(_fields(odd)) == {"good": 1.5}
