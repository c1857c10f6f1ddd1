"""Logging to stderr never blocks the program, nor keeps it from ending."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import IO, Any

import pytest

from jumpstarter._util import fork, stderr_log
from processes import PATIENCE, running

# Logs some lines of about a kilobyte each, reports this on stdout, and ends after reading stdin.
SCRIPT = """
import logging, sys
from jumpstarter._util.stderr_log import logging_to_stderr
count = int(sys.argv[1])
with logging_to_stderr("INFO", "%(levelname)s %(message)s"):
    for number in range(count):
        logging.getLogger("test").info("line %d %s", number, "x" * 1000)
    print("logged", flush=True)
    sys.stdin.readline()
    logging.getLogger("test").info("the last line")
print("done", flush=True)
"""


def start(
    script: str, *arguments: str, stderr: int | IO[bytes] = subprocess.PIPE
) -> AbstractContextManager[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", script, *arguments]
    pipe = subprocess.PIPE
    return running(command, text=False, stdin=pipe, stdout=pipe, stderr=stderr)


def test_all_lines_arrive_in_order_if_stderr_is_read() -> None:
    with start(SCRIPT, "500") as process:
        out, err = process.communicate(b"\n", timeout=PATIENCE)
    lines = err.decode().splitlines()
    assert [line.split()[2] for line in lines[:500]] == [str(number) for number in range(500)]
    assert lines[500:] == ["INFO the last line"]
    assert (out, process.returncode) == (b"logged\ndone\n", 0)


def test_an_unread_stderr_blocks_nothing_and_lost_lines_are_reported() -> None:
    """Log 10 MB into a pipe of 64 KiB."""
    with start(SCRIPT, "10000") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"logged\n"
        received = lost = 0
        while received + lost < 10_000:
            if received == 1000:  # the pipe has space again, and another line will follow
                assert process.stdin is not None
                process.stdin.write(b"\n")
                process.stdin.flush()
            line = process.stderr.readline().decode()
            if "were lost" in line:
                lost += int(line.removeprefix("(").split()[0])
            else:
                received += 1
        rest = process.stderr.read().decode()
        assert process.wait(PATIENCE) == 0
    assert (received + lost, lost > 0) == (10_000, True)
    assert rest == "INFO the last line\n"


def test_a_program_ends_even_if_stderr_is_never_read() -> None:
    reader, writer = os.pipe()
    try:
        with start(SCRIPT, "5000", stderr=writer) as process:
            out, _ = process.communicate(b"\n", timeout=PATIENCE)
            assert (out, process.returncode) == (b"logged\ndone\n", 0)
    finally:
        os.close(reader)
        os.close(writer)


def broken_pipe() -> int:
    reader, writer = os.pipe()
    os.close(reader)
    return writer


@pytest.mark.parametrize(
    "make",
    [lambda: os.open("/dev/full", os.O_WRONLY), broken_pipe],
    ids=["full", "nobody there"],
)
def test_a_failing_stderr_does_not_affect_the_program(make: Callable[[], int]) -> None:
    descriptor = make()
    try:
        with start(SCRIPT, "5000", stderr=descriptor) as process:
            out, _ = process.communicate(b"\n", timeout=PATIENCE)
            assert (out, process.returncode) == (b"logged\ndone\n", 0)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("size", [1_000, 10_000], ids=["whole", "torn"])
def test_the_next_written_line_reports_the_lost_ones(size: int) -> None:
    """A full pipe that is not blocking fails immediately, until the test reads it.

    It accepts short lines completely or not at all, and a part of a long line, whose rest follows.
    """
    wait = "    while not logging.getLogger().handlers[-1]._lines.empty(): pass\n"
    script = SCRIPT.replace("* 1000", f"* {size}").replace(
        '    print("logged"', f'{wait}    print("logged"'
    )
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    try:
        with start(script, "500", stderr=writer) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"logged\n"
            begins = os.read(reader, 1 << 20)
            process.communicate(b"\n", timeout=PATIENCE)
            ends = os.read(reader, 1 << 20).decode()
    finally:
        os.close(reader)
        os.close(writer)
    assert begins.startswith(b"INFO line 0 ")
    assert begins.endswith(b"\n") is (size == 1_000)
    whole = begins.count(b"\n")
    *torn, report, last = ends.splitlines()
    assert torn == [""] * (size != 1_000)
    assert int(report.removeprefix("(").split()[0]) == 500 - whole
    assert last == "INFO the last line"


def test_nothing_is_logged_to_a_closed_stderr() -> None:
    """Another file soon has its number, and must not receive any of the lines."""
    script = f"""
import os, sys
assert sys.stderr is None
reader, writer = os.pipe()  # one of them is number 2
sys.argv = ["-c", "10"]
exec(compile({SCRIPT!r}, "script", "exec"))
os.set_blocking(reader, False)
try:
    print(os.read(reader, 100))
except BlockingIOError:
    print("nothing")
"""
    shell = ["/bin/sh", "-c", 'exec "$0" -c "$1" 2>&-', sys.executable, script]
    done = subprocess.run(shell, input=b"\n", stdout=subprocess.PIPE, timeout=PATIENCE, check=True)
    assert done.stdout == b"logged\ndone\nnothing\n"


def test_a_line_that_cannot_be_formatted_is_reported_with_its_place() -> None:
    script = """
import logging
from jumpstarter._util.stderr_log import logging_to_stderr
with logging_to_stderr("INFO", "%(message)s"):
    logging.getLogger("test").info("%d", "no number")
    logging.getLogger("test").info("\\ud800 is no character")
    try:
        1 / 0
    except ZeroDivisionError:
        logging.getLogger("test").exception("it failed")
"""
    with start(script) as process:
        _, err = process.communicate(timeout=PATIENCE)
    lines = err.decode().splitlines()
    assert lines[0] == "(a line of the log at <string>:5 does not fit its arguments)"
    assert lines[1] == "\\ud800 is no character"
    assert lines[2:4] == ["it failed", "    | Traceback (most recent call last):"]
    assert lines[-1] == "    | ZeroDivisionError: division by zero"


def test_a_signal_handler_may_log_while_a_line_is_logged() -> None:
    script = """
import logging, signal
from jumpstarter._util.stderr_log import logging_to_stderr
logger = logging.getLogger("test")
caught = 0
def handle(*_):
    global caught
    caught += 1
    logger.info("in the handler")
with logging_to_stderr("INFO", "%(message)s"):
    signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    while caught < 300:
        logger.info("in the program")
    signal.setitimer(signal.ITIMER_REAL, 0)
print(caught)
"""
    with start(script) as process:
        out, err = process.communicate(timeout=PATIENCE)
    assert int(out) >= 300
    assert process.returncode == 0
    assert b"in the handler" in err


def test_logging_is_restored_after_the_block() -> None:
    script = """
import logging
from jumpstarter._util.stderr_log import logging_to_stderr
root = logging.getLogger()
before = root.level, root.handlers[:]
with logging_to_stderr("DEBUG", "%(message)s"):
    assert root.level == logging.DEBUG
assert (root.level, root.handlers) == before
"""
    with start(script) as process:
        _, err = process.communicate(timeout=PATIENCE)
    assert (err, process.returncode) == (b"", 0)


def can_fork() -> bool:
    """Return whether another thread could fork now."""

    def look() -> bool:
        lock: Any = fork.no_fork()
        is_free: bool = lock.acquire(blocking=False)
        if is_free:
            lock.release()
        return is_free

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(look).result()


def test_no_child_is_forked_while_a_descriptor_is_made_or_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It would keep a copy: the object does not know the number yet, or any more."""
    really_duplicate, really_close = fcntl.fcntl, os.close
    seen: list[bool] = []

    def duplicate(number: int, operation: int, lowest: int) -> int:
        seen.append(can_fork())
        return really_duplicate(number, operation, lowest)

    def close(number: int) -> None:
        seen.append(can_fork())
        really_close(number)

    monkeypatch.setattr(fcntl, "fcntl", duplicate)
    monkeypatch.setattr(os, "close", close)
    descriptor = stderr_log.Descriptor.copy_of(2)
    descriptor.close()
    monkeypatch.undo()
    assert seen == [False, False]
    assert can_fork()
    assert descriptor.fileno() == -1
