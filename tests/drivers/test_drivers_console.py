"""Tests of `jumpstarter.drivers.console`, on pseudo-terminals, sockets and programs."""

from __future__ import annotations

import errno
import os
import re
import select
import signal
import socket
import sys
import threading
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trio
from test_console_log import recovered

from exporter_process import exporter
from helpers import PATIENCE, served, timed, until
from jumpstarter import connect, serve
from jumpstarter.client import BlockingStream
from jumpstarter.client.adapters import PexpectAdapter
from jumpstarter.drivers.console import (
    ConsoleClient,
    ConsoleMark,
    ConsoleOutput,
    ConsoleStatus,
    RecordedConsole,
)
from jumpstarter.drivers.serial import SerialPort
from jumpstarter.errors import (
    ArgumentError,
    ConfigurationError,
    DriverError,
    DriverInvalidArgument,
    DriverOSError,
    DriverTimeoutError,
)
from jumpstarter.testing import client_for_async
from ports import free_port


@contextmanager
def console_of(driver: RecordedConsole) -> Iterator[ConsoleClient]:
    """Serve a console, with a deadline for all blocking calls of the block."""
    with served(driver) as client:
        assert isinstance(client, ConsoleClient)
        yield client


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for a condition that another thread makes true."""
    give_up = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.001)


class Board:
    """A pseudo-terminal below a link: the board's end, which can be unplugged.

    Attributes:
        path: Of the link to the port.
        end: The descriptor of the board's end.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.end = -1

    def plug(self) -> None:
        """Make a new pseudo-terminal, as an emulator or a USB adapter would."""
        self.end, port = os.openpty()
        tty.setraw(port)
        self.path.symlink_to(os.ttyname(port))
        os.close(port)

    def say(self, text: bytes) -> None:
        while text:
            text = text[os.write(self.end, text) :]

    def hear(self, count: int) -> bytes:
        data = b""
        give_up = time.monotonic() + PATIENCE
        while len(data) < count:
            assert time.monotonic() < give_up
            if not select.select([self.end], [], [], 1)[0]:
                continue
            try:
                data += os.read(self.end, 1024)
            except OSError as exc:
                if exc.errno != errno.EIO:  # no program has the port open
                    raise
                time.sleep(0.001)
        return data

    def unplug(self) -> None:
        self.path.unlink()
        os.close(self.end)
        self.end = -1


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Board]:
    """Yield a board that is plugged in."""
    board = Board(tmp_path / "port")
    board.plug()
    yield board
    if board.end >= 0:
        os.close(board.end)


class Server:
    """A console server on a Unix socket or a TCP port."""

    def __init__(self, family: int, address: Any) -> None:
        self._listener = socket.socket(family, socket.SOCK_STREAM)
        self._listener.settimeout(PATIENCE)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(address)
        self._listener.listen()
        self._address = address

    def accept(self) -> socket.socket:
        connection, _ = self._listener.accept()
        connection.settimeout(PATIENCE)
        return connection

    def stop(self) -> None:
        self._listener.close()
        if isinstance(self._address, str):
            Path(self._address).unlink()


def heard(stream: BlockingStream, count: int) -> bytes:
    """Receive at least `count` bytes."""
    data = b""
    while len(data) < count:
        data += stream.receive()
    return data


# ------------------------------------------------------------------- the record and its clients


def test_a_client_that_comes_late_gets_what_was_said_before_it(board: Board) -> None:
    driver = RecordedConsole(source=f"pty:{board.path}")
    with console_of(driver) as console:
        board.say(b"U-Boot 2026\r\n\0\xff")
        wait_until(lambda: console.status().end == 15)
        with connect_again(driver, console) as late:
            assert late.tail(100) == b"U-Boot 2026\r\n\0\xff"
            assert late.tail(2) == b"\0\xff"
            assert late.tail(0) == b""
            with late.watch(since=7) as items:
                assert next(items) == ConsoleOutput(offset=7, data=b"2026\r\n\0\xff")
            with late.open(last=2) as stream:
                assert heard(stream, 2) == b"\0\xff"


@contextmanager
def connect_again(_driver: RecordedConsole, console: ConsoleClient) -> Iterator[ConsoleClient]:
    """Yield another connection to the exporter of a client."""
    address = console.channel.channel.name
    with connect(address, client=ConsoleClient) as other, other.timeout(PATIENCE):
        yield other


def test_what_the_device_said_before_the_port_was_opened_is_recorded(board: Board) -> None:
    board.say(b"early")
    for source in (f"pty:{board.path}", str(board.path)):  # the latter by pyserial
        with console_of(RecordedConsole(source=source)) as console:
            assert console.wait_for("early", since=0).start == 0
        board.say(b"early")


def test_the_port_is_open_when_serving_has_begun(board: Board) -> None:
    with console_of(RecordedConsole(source=f"pty:{board.path}")) as console:
        status = console.status()
        assert isinstance(status, ConsoleStatus)
        assert status.present
        assert (status.reason, status.writer, status.watchers) == ("", "", 0)


def test_a_mark_separates_one_boot_from_the_next(board: Board) -> None:
    with console_of(RecordedConsole(source=f"pty:{board.path}")) as console:
        board.say(b"boot 1: login: ")
        first = console.wait_for("login: ", since=0)
        assert first.before == b"boot 1: "
        mark = console.mark()
        assert isinstance(mark, ConsoleMark)
        board.say(b"boot 2: login: ")
        wait_until(lambda: console.status().end == 30)  # it came before the call
        second = console.wait_for(b"login: ", since=mark, timeout=0)
        assert (second.start, second.end) == (23, 30)
        assert console.wait_for(re.compile(rb"boot (\d)"), since=first).groups == (b"2",)
        board.say(b"root\r\n# ")
        assert console.wait_for("# ", since=second).before == b"root\r\n"


def test_a_text_that_does_not_come_is_an_error_with_the_last_bytes(board: Board) -> None:
    with console_of(RecordedConsole(source=f"pty:{board.path}", buffer_size=10)) as console:
        board.say(b"Kernel panic - not syncing")
        wait_until(lambda: console.status().end == 26)
        text = r"'login: ' did not come within 0.01 s; 16 bytes were overwritten .*ot syncing'"
        with pytest.raises(DriverTimeoutError, match=text):
            console.wait_for("login: ", since=0, timeout=0.01)
        with pytest.raises(DriverTimeoutError, match="within 0 s"):
            console.wait_for("login: ", since=0, timeout=0)
        with pytest.raises(DriverTimeoutError, match="surrounding timeout"), console.timeout(0.01):
            console.wait_for("login: ", since=0, timeout=PATIENCE)


def test_a_position_that_is_not_in_the_record_is_refused(board: Board) -> None:
    with console_of(RecordedConsole(source=f"pty:{board.path}")) as console:
        with pytest.raises(DriverInvalidArgument, match="offset 1 is not in the record"):
            next(console.watch(since=1))
        with pytest.raises(DriverInvalidArgument, match="only one of them"):
            next(console.watch(since=0, last=1))
        mark = ConsoleMark(record="another", offset=0, events=0, time=console.mark().time)
        with pytest.raises(DriverInvalidArgument, match="the mark is of another record"):
            next(console.watch(since=mark))
        with pytest.raises(ArgumentError, match="a mark, a match or an offset"):
            console.watch(since="now")  # type: ignore[arg-type]
        with pytest.raises(ArgumentError, match="one character at least"):
            console.wait_for("", since=0)
        with pytest.raises(ArgumentError, match="of bytes"):
            console.wait_for(re.compile("text"), since=0)  # type: ignore[arg-type]
        with pytest.raises(ArgumentError, match="a str, or bytes"):
            console.write(1)  # type: ignore[arg-type]


def test_any_number_of_clients_watch_and_each_gets_everything(board: Board) -> None:
    driver = RecordedConsole(source=f"pty:{board.path}")
    with console_of(driver) as console:
        streams = [console.open_stream() for _ in range(8)]
        assert console.status().watchers == 8
        board.say(b"to all of you")
        assert [heard(stream, 13) for stream in streams] == [b"to all of you"] * 8
        for stream in streams:
            stream.close()
        assert console.status().watchers == 0


def test_a_slow_watcher_holds_up_nobody_and_learns_what_it_has_missed(tmp_path: Path) -> None:
    path, chunk = str(tmp_path / "socket"), 16_384
    server = Server(socket.AF_UNIX, path)
    driver = RecordedConsole(source=f"unix:{path}", buffer_size=4 * chunk)
    with console_of(driver) as console, server.accept() as device:
        device.sendall(b"first")
        console.wait_for("first", since=0)
        with console.watch(since=0) as slow, console.watch(since=5) as fast, console.open() as raw:
            event, first = next(slow), next(slow)
            assert event.event is not None
            assert first == ConsoleOutput(offset=0, data=b"first")
            said = bytearray(b"first")
            for number in range(256):  # 4 MiB: far more than the buffers and windows take
                data = number.to_bytes(2, "big") * (chunk // 2)
                device.sendall(data)
                said += data
                while (got := next(fast)).end < len(said):
                    assert not got.missed
                    assert got.data == said[got.offset : got.end]
            device.sendall(b"the end")
            said += b"the end"
            end, missed = 5, 0
            while end < len(said):
                item = next(slow)
                assert item.offset == end + item.missed
                assert item.data == said[item.offset : item.end]
                end, missed = item.end, missed + item.missed
            assert missed > 0
            text = b""
            while not text.endswith(b"the end"):
                text += raw.receive()
            markers = re.findall(rb"\r\n\[jumpstarter: (\d+) bytes missed\]\r\n", text)
            plain = re.sub(rb"\r\n\[jumpstarter: \d+ bytes missed\]\r\n", b"", text)
            assert markers
            assert len(plain) + sum(map(int, markers)) == len(said) - 5
    server.stop()


# ------------------------------------------------------------------------------- one writer


def test_a_second_writer_is_refused_with_the_name_of_the_first(board: Board) -> None:
    driver = RecordedConsole(source=f"pty:{board.path}")
    with console_of(driver) as console, connect_again(driver, console) as other:
        with console.open() as stream, other.open() as watcher:
            stream.send(b"mine")
            assert board.hear(4) == b"mine"
            assert f"uid {os.geteuid()}" in console.status().writer
            text = rf"another client writes to this console \(uid {os.geteuid()}, pid {os.getpid()}"
            with pytest.raises(DriverOSError, match=text) as caught:
                other.write(b"not now")
            assert caught.value.errno == errno.EBUSY
            board.say(b"both of you")
            assert heard(watcher, 11) == heard(stream, 11) == b"both of you"
        other.write("now")  # text is sent as UTF-8
        assert board.hear(3) == b"now"


def test_a_stream_that_sends_while_another_one_writes_fails(board: Board) -> None:
    with console_of(RecordedConsole(source=f"pty:{board.path}")) as console, console.open() as one:
        one.send(b"1")
        board.hear(1)
        two = console.open_stream()
        two.send(b"2")
        with pytest.raises(DriverOSError, match="another client writes"):
            heard(two, 1)
        with pytest.raises(DriverOSError, match="another client writes"):
            two.close()
        one.send(b"3")
        assert board.hear(1) == b"3"


def test_a_writer_may_wait_for_the_other_one(board: Board) -> None:
    driver = RecordedConsole(source=f"pty:{board.path}")
    with console_of(driver) as console:
        with console.open() as stream:
            stream.send(b"1")
            board.hear(1)
            waiting = threading.Thread(target=console.write, args=[b"2"], kwargs={"wait": True})
            waiting.start()
            wait_until(lambda: len(driver._recorder.writer._waiting) == 1)
            stream.send(b"1")
            assert board.hear(1) == b"1"
        assert board.hear(1) == b"2"
        waiting.join(PATIENCE)
        assert not waiting.is_alive()


def test_a_writer_that_is_lost_leaves_its_place(board: Board) -> None:
    driver = RecordedConsole(source=f"pty:{board.path}")
    with console_of(driver) as console:
        with connect_again(driver, console) as other:
            stream = other.open_stream()
            stream.send(b"1")  # and it is not closed
            board.hear(1)
        wait_until(lambda: not console.status().writer)
        console.write(b"2")
        assert board.hear(1) == b"2"


# ------------------------------------------------------------- a device that comes and goes


@pytest.mark.parametrize("kind", ["pty", "serial"])
def test_nothing_is_lost_when_the_port_is_unplugged_and_plugged_in_again(
    board: Board, kind: str
) -> None:
    source = f"pty:{board.path}" if kind == "pty" else str(board.path)
    said = b""
    with console_of(RecordedConsole(source=source)) as console, console.watch(since=0) as items:
        for number in range(4):
            board.say(text := b"power cycle %d\r\n" % number)
            said += text
            console.wait_for(text, since=0)
            board.unplug()
            wait_until(lambda: not console.status().present)
            board.plug()
            board.say(b"boot")  # before the exporter has seen the port
            said += b"boot"
            console.wait_for("boot", since=len(said) - 4)
        assert console.tail(1000) == said
        times = []
        changes: list[ConsoleOutput] = []
        while not changes or changes[-1].end < len(said):
            item = next(items)
            assert not item.missed
            changes.append(item)
            if item.event is not None:
                times.append(item.event.time)
        assert b"".join(item.data for item in changes) == said
        assert times == sorted(times)
        events = [item.event.present for item in changes if item.event is not None]
        assert events == [True, *[False, True] * 4]


@pytest.mark.parametrize("kind", ["unix", "tcp"])
def test_a_server_that_exists_only_while_the_device_is_on_is_waited_for(
    tmp_path: Path, kind: str
) -> None:
    place: Any = str(tmp_path / "socket") if kind == "unix" else ("127.0.0.1", free_port())
    family = socket.AF_UNIX if kind == "unix" else socket.AF_INET
    source = f"unix:{place}" if kind == "unix" else f"tcp://127.0.0.1:{place[1]}"
    with console_of(RecordedConsole(source=source)) as console:
        status = console.status()
        assert not status.present
        assert "no server listens there" in status.reason
        stream = console.open_stream()
        for number in range(3):
            server = Server(family, place)
            with server.accept() as device:
                device.sendall(b"boot %d" % number)
                assert heard(stream, 6) == b"boot %d" % number
                stream.send(b"answer")
                assert device.recv(6, socket.MSG_WAITALL) == b"answer"
            server.stop()
            wait_until(lambda: not console.status().present)
        stream.close()
        assert console.tail() == b"boot 0boot 1boot 2"


def test_a_write_to_an_absent_device_is_an_error_or_waits(tmp_path: Path) -> None:
    board = Board(tmp_path / "port")
    with console_of(RecordedConsole(source=f"pty:{board.path}")) as console:
        text = r"the device is not there since .* UTC \(No such file or directory\); switch it on"
        with pytest.raises(DriverOSError, match=text) as caught:
            console.write(b"now")
        assert caught.value.errno == errno.ENXIO
        patient = console.open(wait=True)
        with patient as stream:
            stream.send(b"then")
            board.plug()
            assert board.hear(4) == b"then"
    board.unplug()


def test_a_device_that_goes_while_it_is_written_to_fails_the_write(board: Board) -> None:
    with console_of(RecordedConsole(source=f"pty:{board.path}")) as console:
        outcome: list[DriverError] = []

        def write() -> None:
            try:
                console.write(bytes(1_000_000))  # more than a pseudo-terminal takes
            except DriverError as exc:
                outcome.append(exc)

        writing = threading.Thread(target=write)
        writing.start()
        board.hear(1)
        board.unplug()
        writing.join(PATIENCE)
        assert isinstance(outcome[0], DriverOSError)
        assert outcome[0].errno == errno.EIO
        assert "may have some" in str(outcome[0])


def test_a_port_in_use_is_named_and_waited_for(board: Board) -> None:
    with served(SerialPort(url=str(board.path))) as port:
        stream = port.open_stream()
        with console_of(RecordedConsole(source=f"pty:{board.path}")) as console:
            assert "the port is in use by another driver of this exporter" in (
                console.status().reason
            )
            stream.close()
            wait_until(lambda: console.status().present)
            with pytest.raises(DriverOSError, match="in use by another driver"):
                port.open_stream()


def test_a_file_that_is_no_terminal_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with console_of(RecordedConsole(source=f"pty:{tmp_path}/file")) as console:
        assert console.status().reason == "it is not a pseudo-terminal"


def test_a_server_that_does_not_answer_is_given_up_and_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("jumpstarter.drivers._sources._CONNECT_TIMEOUT", 0.01)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        waiting = []
        for _ in range(3):  # until its queue is full, and further packets are dropped
            waiting.append(client := socket.socket())
            client.setblocking(False)
            with suppress(BlockingIOError):
                client.connect(full.getsockname())
        source = f"tcp://127.0.0.1:{full.getsockname()[1]}"
        with console_of(RecordedConsole(source=source)) as console:
            assert console.status().reason == "no connection within 0.01 s"
        for client in waiting:
            client.close()


def test_an_unexpected_failure_is_logged_once_and_the_recording_goes_on(
    board: Board, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = RecordedConsole(source=f"pty:{board.path}")
    opener, tries = driver._recorder._opener, []
    real = opener.open

    def fail() -> Any:
        tries.append(1)
        if len(tries) < 4:
            raise RuntimeError("a bug")
        return real()

    monkeypatch.setattr(opener, "open", fail)
    with console_of(driver) as console:
        wait_until(lambda: console.status().present)
    assert caplog.text.count("unexpected RuntimeError") == 1
    assert "Traceback" in caplog.text


# ----------------------------------------------------------------------------------- programs


def test_the_output_of_a_program_is_recorded_and_it_is_started_again() -> None:
    code = "import sys; print('hello', flush=True); print(input(), file=sys.stderr, flush=True)"
    command = [sys.executable, "-c", code]
    with console_of(RecordedConsole(command=command)) as console:
        first = console.wait_for("hello\n", since=0)
        console.write(b"typed\n")
        second = console.wait_for("typed\n", since=first)
        console.wait_for("hello\n", since=second)
        assert console.status().source == f"the command {sys.executable!r}"


def test_a_program_ends_with_the_recording(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    command = ["sh", "-c", f"echo $$ > {pid}.new; mv {pid}.new {pid}; echo ready; cat"]
    with console_of(RecordedConsole(command=command)) as console:
        console.wait_for("ready", since=0)
        number = int(pid.read_text())
        os.kill(number, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(number, 0)


# ---------------------------------------------------------------------------------- the file


def test_the_file_has_everything_with_times(board: Board, tmp_path: Path) -> None:
    log = tmp_path / "console.log"
    driver = RecordedConsole(source=f"pty:{board.path}", log_path=str(log))
    with console_of(driver) as console:
        board.say(b"U-Boot\nlog")
        console.wait_for("log", since=0)
        board.unplug()
        wait_until(lambda: not console.status().present)
        board.plug()
        board.say(b"in: ")
        console.wait_for("in: ", since=0)
        assert console.status().log == str(log)
        assert console.status().log_lost == 0
    assert recovered(log.read_bytes()) == b"U-Boot\nlogin: \n"  # a note ends the last line
    signs = [line.split(" ", 2)[1:] for line in log.read_text().splitlines()]
    assert [sign for sign, _ in signs] == ["#", "|", "|", "#", "#", ":", "#"]
    assert signs[0][1] == f"pty:{board.path} is there"
    assert signs[3][1].startswith(f"pty:{board.path} has gone: ")
    assert signs[6][1] == "the recording ends"


def test_a_disk_that_hangs_does_not_hold_up_the_end(
    board: Board,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("jumpstarter.drivers._recorder._FLUSH", 0.05)
    log = tmp_path / "fifo"
    os.mkfifo(log)  # opening it for writing blocks, as a file of a dead server does
    try:
        with console_of(RecordedConsole(source=f"pty:{board.path}", log_path=str(log))) as console:
            board.say(b"said")
            console.wait_for("said", since=0)
        assert "the disk did not take it" in caplog.text
    finally:
        reader = os.open(log, os.O_RDONLY | os.O_NONBLOCK)  # frees the thread
        os.close(reader)


# ------------------------------------------------------------------- adapters and Trio code


def test_a_pexpect_session_finds_what_came_before_it(board: Board) -> None:
    with console_of(RecordedConsole(source=f"pty:{board.path}")) as console:
        mark = console.mark()
        board.say(b"board login: ")
        console.wait_for("login: ", since=mark)
        with console.pexpect(since=mark, timeout=PATIENCE) as session:
            session.expect("login: ")
            assert session.before == b"board "
            session.sendline("root")
            assert board.hear(5) == b"root\n"
        with PexpectAdapter(client=console, method="connect", timeout=PATIENCE) as session:
            board.say(b"# ")  # the session begins at the end, as with a serial port
            session.expect("# ")
            assert session.before == b""


def test_a_local_port_leads_to_the_console(board: Board) -> None:
    with (
        console_of(RecordedConsole(source=f"pty:{board.path}")) as console,
        console.portforward() as address,
        socket.create_connection(address) as program,
    ):
        program.settimeout(PATIENCE)
        program.sendall(b"typed")
        assert board.hear(5) == b"typed"
        board.say(b"answer")
        assert program.recv(6, socket.MSG_WAITALL) == b"answer"


@timed()
async def test_the_same_in_trio(board: Board) -> None:
    driver = RecordedConsole(source=f"pty:{board.path}")
    async with client_for_async(driver, client=ConsoleClient) as console:
        mark = await console.mark_async()
        board.say(b"login: ")
        match = await console.wait_for_async("login: ", since=mark)
        assert (await console.wait_for_async("log", since=0, timeout=0)).start == 0
        await console.write_async(b"root")
        assert await trio.to_thread.run_sync(board.hear, 4) == b"root"
        async with console.open_async(last=7) as stream:
            assert await stream.receive_some() == b"login: "
        async with console.watch_async(since=match) as items:
            board.say(b"# ")
            assert (await anext(items)).data == b"# "
        assert await console.tail_async(2) == b"# "
        assert (await console.status_async()).end == 9
        with pytest.raises(DriverTimeoutError, match="did not come within"):
            await console.wait_for_async("more", since=mark, timeout=0.01)


@timed()
async def test_a_driver_opens_the_console_itself(board: Board) -> None:
    driver = RecordedConsole(source=f"pty:{board.path}")
    async with client_for_async(driver), driver.connect() as stream:
        board.say(b"0123456789")
        data = b""
        while len(data) < 10:
            data += await stream.receive_some(3)
            assert len(data) % 3 in {0, 1, 2}
        assert data == b"0123456789"
        await stream.wait_send_all_might_not_block()
        await stream.send_all(bytearray(b"typed"))
        assert driver._recorder.writer.holder == "the driver itself"
        assert await trio.to_thread.run_sync(board.hear, 5) == b"typed"
    await until(lambda: not driver._recorder.is_running)


# ------------------------------------------------------------------- the exporter and its end


def test_a_console_can_be_served_again_and_keeps_its_record(board: Board) -> None:
    driver = RecordedConsole(source=f"pty:{board.path}")
    with console_of(driver) as console:
        board.say(b"first")
        console.wait_for("first", since=0)
        mark = console.mark()
    with console_of(driver) as console:
        board.say(b"second")
        assert console.wait_for("second", since=mark).start == 5
        assert console.tail() == b"firstsecond"
    assert not driver._recorder.is_running
    driver.close()  # a second time, and without an exporter


def test_a_parent_may_reset_the_console_while_it_records(board: Board) -> None:
    driver = RecordedConsole(source=f"pty:{board.path}")
    with console_of(driver) as console:
        board.say(b"before")
        console.wait_for("before", since=0)
        assert console.portal is not None
        console.portal.call_in_trio(driver._recorder.start)
        board.say(b"after")
        console.wait_for("beforeafter", since=0)


def test_a_console_in_an_exporter_of_its_own_outlives_its_clients(
    tmp_path: Path, board: Board
) -> None:
    (tmp_path / "lab.py").write_text(
        "from jumpstarter.drivers.composite import Composite\n"
        "from jumpstarter.drivers.console import RecordedConsole\n"
        f"console = RecordedConsole(source='pty:{board.path}', log_path='{tmp_path}/log')\n"
        "tree = Composite(children={'console': console})\n"
    )
    with exporter(tmp_path, driver="lab:tree", cwd=tmp_path) as server:
        board.say(b"before any client")
        with connect(server.address) as lab, lab.timeout(PATIENCE):
            mark = lab.console.wait_for("any client", since=0)
            lab.console.write(b"1")
            assert board.hear(1) == b"1"
        board.say(b", and between two")
        with connect(server.address) as lab, lab.timeout(PATIENCE):
            assert lab.console.wait_for("two", since=mark.end).before == b", and between "
        server.send(signal.SIGTERM)
        assert server.wait() == 0
    text = (tmp_path / "log").read_bytes()
    assert b"before any client, and between two" in recovered(text)


# ---------------------------------------------------------------------------- configuration


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, "source of RecordedConsole or command, one of the two"),
        ({"source": "/dev/x", "command": ["x"]}, "one of the two"),
        ({"source": 1}, "source of RecordedConsole must be a path or an address"),
        ({"source": "pty:"}, "pty: with a path after it"),
        ({"source": "unix:"}, "the path must be absolute"),
        ({"source": "tcp://host"}, "expected host:port"),
        ({"source": "tcp://host:0"}, "with a port from 1 up"),
        ({"source": "tls://host:1"}, "without TLS"),
        ({"command": "ssh board"}, "command of RecordedConsole must be a list of texts"),
        ({"source": "/dev/x", "baudrate": 0}, "baudrate of RecordedConsole"),
        ({"source": "/dev/x", "buffer_size": 0}, "buffer_size of RecordedConsole"),
        ({"source": "/dev/x", "log_size": -1}, "log_size of RecordedConsole"),
        ({"source": "/dev/x", "log_keep": -1}, "log_keep of RecordedConsole"),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        RecordedConsole(**fields)


def test_a_path_object_is_accepted(tmp_path: Path) -> None:
    path: Any = tmp_path / "port"
    assert RecordedConsole(source=path).source == str(path)


@pytest.mark.parametrize("scheme", ["unix", "pty"])
def test_a_relative_path_begins_at_the_current_directory(
    scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    driver = RecordedConsole(source=f"{scheme}:run/console")
    monkeypatch.chdir("/")
    with console_of(driver) as console:
        assert console.status().source == f"{scheme}:{tmp_path}/run/console"


def test_a_missing_extra_ends_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "serial", None)
    with pytest.raises(ImportError, match="serial"), serve(RecordedConsole(source="/dev/x")):
        pass
