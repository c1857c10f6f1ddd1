"""System calls that never block, on real sockets."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from jumpstarter import _nonblocking

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture(params=[False, True], ids=["non-blocking", "blocking"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """Return connected sockets, in either mode: another process may change it."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(request.param)
        yield ours, theirs


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
