"""System calls that keep the interpreter's lock, and the wait that does not, on real sockets."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import pytest

from helpers import PATIENCE, wait_until
from jumpstarter import _nonblocking, _stepping

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture(params=[False, True], ids=["non-blocking", "blocking"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """Return connected sockets, in either mode: another process may change it."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(request.param)
        yield ours, theirs


def test_a_thread_is_named_as_by_threading() -> None:
    with ThreadPoolExecutor(1) as pool:
        names = pool.submit(lambda: (_nonblocking.get_ident(), threading.get_ident())).result()
    assert names[0] == names[1] != _nonblocking.get_ident() == threading.get_ident()


async def test_a_loop_is_known_by_its_hooks() -> None:
    assert _stepping.has_async_hooks()
    with ThreadPoolExecutor(1) as pool:
        assert not pool.submit(_stepping.has_async_hooks).result()


def test_a_read_returns_what_is_there(pair: Pair) -> None:
    ours, theirs = pair
    assert _nonblocking.read(ours.fileno(), 100) is None
    assert not _nonblocking.is_readable(ours.fileno())
    theirs.sendall(b"some bytes")
    assert _nonblocking.is_readable(ours.fileno())
    assert _nonblocking.read(ours.fileno(), 4) == b"some"
    assert _nonblocking.read(ours.fileno(), 65536) == b" bytes"
    theirs.close()
    assert _nonblocking.is_readable(ours.fileno())
    assert _nonblocking.read(ours.fileno(), 100) == b""


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_a_write_takes_what_fits(pair: Pair, kind: type) -> None:
    ours, theirs = pair
    assert _nonblocking.write(ours.fileno(), kind(b"some bytes")) == 10
    assert theirs.recv(100) == b"some bytes"
    sent = 0
    while written := _nonblocking.write(ours.fileno(), kind(bytes(100_000))):
        sent += written
    assert sent > 0
    received = 0
    while received < sent:
        received += len(theirs.recv(100_000))
    assert received == sent


def test_errors_of_the_system_are_raised(pair: Pair) -> None:
    ours, theirs = pair
    theirs.close()
    with pytest.raises(BrokenPipeError):
        _nonblocking.write(ours.fileno(), b"x")
    for use in (
        lambda: _nonblocking.read(-1, 10),
        lambda: _nonblocking.write(-1, b"x"),
        lambda: _nonblocking.watch(-1, -1, True),
    ):
        with pytest.raises(OSError, match="Bad file descriptor"):
            use()
    with pytest.raises(TypeError):
        _nonblocking.write(ours.fileno(), "text")  # type: ignore[arg-type]
    with pytest.raises(BufferError):
        _nonblocking.write(ours.fileno(), memoryview(bytes(10))[::2])


def test_any_thread_may_use_them(pair: Pair) -> None:
    ours, theirs = pair
    found: list[bytes | None] = []
    theirs.sendall(b"x")
    thread = threading.Thread(target=lambda: found.append(_nonblocking.read(ours.fileno(), 10)))
    thread.start()
    thread.join()
    assert found == [b"x"]


@contextmanager
def computing() -> Iterator[list[int]]:
    """Run a thread that computes without a pause. Yields a list with the number of its steps."""
    steps, over = [0], threading.Event()

    def compute() -> None:
        while not over.is_set():
            steps[0] += 1

    thread = threading.Thread(target=compute)
    thread.start()
    try:
        yield steps
    finally:
        over.set()
        thread.join()


def test_a_wait_says_whether_something_is_there(pair: Pair) -> None:
    ours, theirs = pair
    assert not _nonblocking.wait_readable(ours.fileno(), 0)
    assert not _nonblocking.wait_readable(ours.fileno(), 1)
    theirs.sendall(b"x")
    assert _nonblocking.wait_readable(ours.fileno(), 0)
    assert _nonblocking.wait_readable(ours.fileno(), 1000)
    theirs.close()
    assert ours.recv(10) == b"x"
    assert _nonblocking.wait_readable(ours.fileno(), 1000)  # the end


@contextmanager
def interrupted() -> Iterator[list[int]]:
    """Send this thread a signal every millisecond. Yields a list of those that were handled."""
    arrived: list[int] = []
    over = threading.Event()
    main = threading.main_thread().ident
    assert main is not None

    def interrupt() -> None:
        while not over.wait(0.001):
            signal.pthread_kill(main, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, lambda signum, _: arrived.append(signum))
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        yield arrived
    finally:
        over.set()
        thread.join()
        signal.signal(signal.SIGUSR1, before)


def test_a_wait_is_not_ended_by_a_signal(pair: Pair) -> None:
    ours, _ = pair
    until = time.monotonic() + PATIENCE
    with interrupted() as arrived:
        while len(arrived) < 3:
            started = _nonblocking.monotonic()
            assert not _nonblocking.wait_readable(ours.fileno(), 20)
            assert _nonblocking.monotonic() - started > 0.015
            assert time.monotonic() < until


def become_crowded(readable: socket.socket, until: float) -> None:
    """Wait for a socket until another thread was late to let that return."""
    while not _nonblocking.is_crowded():
        assert _nonblocking.wait_readable(readable.fileno(), 1000)
        assert time.monotonic() < until


def become_calm(until: float) -> None:
    """Wait until this process has forgotten a thread that computed."""
    while _nonblocking.is_crowded():
        assert time.monotonic() < until


def test_a_process_with_a_thread_that_computes_is_crowded(pair: Pair) -> None:
    ours, theirs = pair
    until = time.monotonic() + PATIENCE
    theirs.sendall(b"x")
    with computing():
        become_crowded(ours, until)
        assert _nonblocking.wait_readable(ours.fileno(), 1000)  # begins with a look
        ours.recv(10)
        assert not _nonblocking.wait_readable(ours.fileno(), 1)  # a look in vain
    become_calm(until)


def test_looks_in_vain_end_the_looks(pair: Pair) -> None:
    """With `serve`, the thread that answers is in the same process, and needs the interpreter."""
    ours, theirs = pair
    until = time.monotonic() + PATIENCE
    theirs.sendall(b"x")
    with computing():
        become_crowded(ours, until)
    ours.recv(10)
    waits = 0
    while _nonblocking.is_crowded():  # a busy machine, too, can make the process crowded again
        assert not _nonblocking.wait_readable(ours.fileno(), 0)
        waits += 1
    assert waits < 100


def test_a_wait_for_no_answer_neither_looks_nor_notes_that_it_was_late(pair: Pair) -> None:
    """As the wait of an exporter's thread for its next call."""
    ours, theirs = pair
    until = time.monotonic() + PATIENCE
    become_calm(until)  # after an earlier test
    theirs.sendall(b"x")
    with computing():
        for _ in range(20):
            assert _nonblocking.wait_readable(ours.fileno(), 1000, False)
            assert not _nonblocking.is_crowded()


def test_no_thread_looks_while_another_one_waits(pair: Pair) -> None:
    """Threads that call keep the interpreter from each other, and looks would add to that."""
    ours, theirs = pair
    theirs.sendall(b"x")
    other, end = socket.socketpair()
    with other, end, computing():
        waiting = threading.Thread(target=_nonblocking.wait_readable, args=(other.fileno(), 60_000))
        waiting.start()
        until = time.monotonic() + PATIENCE
        calm = 0
        while calm < 20:  # the other thread may not wait yet
            assert _nonblocking.wait_readable(ours.fileno(), 1000)
            calm = 0 if _nonblocking.is_crowded() else calm + 1
            assert time.monotonic() < until
        end.sendall(b"x")
        waiting.join(PATIENCE)
        assert not waiting.is_alive()


def test_no_thread_notes_that_it_was_late_soon_after_it_has_passed_a_baton(pair: Pair) -> None:
    """Threads that call on one connection wait for batons while one of them reads."""
    ours, theirs = pair
    until = time.monotonic() + PATIENCE
    become_calm(until)  # after an earlier test
    theirs.sendall(b"x")
    late = 0
    with computing():
        while late < 10:
            assert time.monotonic() < until
            passed = time.monotonic()
            _nonblocking.pass_batons([_nonblocking.Baton()])
            began = time.monotonic()
            assert _nonblocking.wait_readable(ours.fileno(), 1000)
            if time.monotonic() - passed > 0.01:  # the wait may have begun too late
                become_calm(until)
                continue
            late += time.monotonic() - began > 0.002
            assert not _nonblocking.is_crowded()


def test_a_look_gives_the_interpreter_to_no_other_thread(pair: Pair) -> None:
    ours, theirs = pair
    until = time.monotonic() + PATIENCE
    with computing() as steps:
        found = True
        before = after = 0
        while before == 0 or before != after:  # a switch may come just before or after the look
            assert time.monotonic() < until
            before = steps[0]
            found = _nonblocking.look(ours.fileno())
            after = steps[0]
    assert not found
    theirs.sendall(b"x")
    assert _nonblocking.look(ours.fileno())


def test_a_wait_for_a_baton_says_whether_it_was_passed() -> None:
    baton = _nonblocking.Baton()
    assert not baton.is_passed
    assert not baton.wait(0)
    assert not baton.wait(0.001)
    _nonblocking.pass_batons([baton])
    assert baton.wait(PATIENCE)
    assert not baton.wait(0)


@pytest.mark.parametrize("keeps_gil", [False, True])
@pytest.mark.parametrize("count", [0, 1, 31, 32, 33, 100])
def test_all_threads_whose_batons_are_passed_wake(count: int, keeps_gil: bool) -> None:
    batons = [_nonblocking.Baton() for _ in range(count)]
    woken: list[bool] = []
    threads = [
        threading.Thread(target=lambda baton=baton: woken.append(baton.wait(PATIENCE)))
        for baton in batons
    ]
    for thread in threads:
        thread.start()
    _nonblocking.pass_batons(batons, keeps_gil)
    for thread in threads:
        thread.join()
    assert woken == [True] * count


def test_only_batons_can_be_passed() -> None:
    with pytest.raises(TypeError):
        _nonblocking.pass_batons([_nonblocking.Baton(), None])  # type: ignore[list-item]


def test_a_signal_ends_the_wait_for_a_baton() -> None:
    started = time.monotonic()
    with interrupted() as arrived:
        while not arrived:
            assert not _nonblocking.Baton().wait(PATIENCE)
    assert time.monotonic() - started < PATIENCE


def test_a_forked_child_forgets_the_threads_that_wait_in_its_parent(pair: Pair) -> None:
    """They do not exist there; with them, none of its own waits would begin with a look."""
    ours, theirs = pair
    waiting = threading.Thread(
        target=_nonblocking.wait_readable, args=(ours.fileno(), int(PATIENCE * 1000))
    )
    waiting.start()
    try:
        wait_until(lambda: _nonblocking.count_waiting() == 1)
        pid = os.fork()
        if pid == 0:
            os._exit(_nonblocking.count_waiting())
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert _nonblocking.count_waiting() == 1
    finally:
        theirs.sendall(b"x")
        waiting.join()


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_buffers_are_written_one_after_the_other(pair: Pair, kind: type) -> None:
    ours, theirs = pair
    assert _nonblocking.write_many(ours.fileno(), [kind(b"some"), kind(b""), kind(b" bytes")]) == 10
    assert theirs.recv(100) == b"some bytes"
    assert _nonblocking.write_many(ours.fileno(), []) == 0
    sent = 0
    with suppress(BlockingIOError):
        while True:
            sent += _nonblocking.write_many(ours.fileno(), [kind(bytes(50_000)), kind(b"x")])
    assert sent > 0
    received = 0
    while received < sent:
        received += len(theirs.recv(100_000))
    assert received == sent
    with pytest.raises(TypeError):
        _nonblocking.write_many(ours.fileno(), [b"x", "text"])  # type: ignore[list-item]
    with pytest.raises(OSError, match="Bad file descriptor"):
        _nonblocking.write_many(-1, [b"x"])


WRITES_TO_A_CLOSED_PEER = """
import signal, socket
from jumpstarter import _nonblocking
from jumpstarter._io.transport import SocketTransport
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
ours, theirs = socket.socketpair()
theirs.close()
for write in (
    lambda: _nonblocking.write(ours.fileno(), b"x"),
    lambda: _nonblocking.write_many(ours.fileno(), [b"x", b"y"]),
):
    try:
        write()
    except BrokenPipeError:
        print("broken")
"""


@pytest.mark.skipif(not hasattr(socket, "MSG_NOSIGNAL"), reason="this system has no such flag")
def test_a_peer_that_has_closed_does_not_end_a_program_that_has_restored_sigpipe() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WRITES_TO_A_CLOSED_PEER],
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["broken"] * 2, "")
