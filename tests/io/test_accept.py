"""Test that connections are accepted despite failures of some of them, or of the machine."""

from __future__ import annotations

import errno
import logging
import os
import socket
import struct
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from jumpstarter._io.accept import accept_forever

DEADLINE = 60  # seconds; each test takes milliseconds


class FakeListener(trio.abc.Listener[trio.abc.Stream]):
    """A listener that returns or raises the given results in order, and then waits without end.

    Attributes:
        tries: The times of the calls of `accept`.
    """

    def __init__(self, *outcomes: BaseException | trio.abc.Stream) -> None:
        self._outcomes = list(outcomes)
        self.tries: list[float] = []

    async def accept(self) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        self.tries.append(trio.current_time())
        if not self._outcomes:
            await trio.sleep_forever()
        outcome = self._outcomes.pop(0)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


def stream() -> trio.abc.Stream:
    return trio.testing.memory_stream_pair()[0]


def error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


async def accepted(listener: FakeListener) -> list[trio.abc.Stream]:
    """Run the loop until the listener has no results left."""
    taken: list[trio.abc.Stream] = []

    async def take(stream: trio.abc.Stream) -> None:
        await trio.lowlevel.checkpoint()
        taken.append(stream)

    with trio.fail_after(1000):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept_forever, listener, take, nursery)
            while listener._outcomes:  # noqa: ASYNC110 - the loop under test sets no event
                await trio.sleep(1)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    return taken


GONE = ("ECONNABORTED", "ECONNRESET", "EPERM", "EPROTO", "ETIMEDOUT", "EHOSTUNREACH", "ENETDOWN")
WANT = ("EMFILE", "ENFILE", "ENOBUFS", "ENOMEM")


@pytest.mark.parametrize("name", GONE)
async def test_closed_connections_are_skipped_without_a_log_line(
    name: str, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    streams = [stream(), stream()]
    listener = FakeListener(streams[0], *[error(getattr(errno, name))] * 3, streams[1])
    began = autojump_clock.current_time()
    assert await accepted(listener) == streams
    assert listener.tries[:5] == [began] * 5, "it does not wait for anything"
    assert not caplog.messages


@pytest.mark.parametrize("name", [*WANT, "EINVAL"])
async def test_lack_of_descriptors_or_memory_is_waited_out_and_logged_once(
    name: str, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    streams = [stream(), stream()]
    number = getattr(errno, name)
    listener = FakeListener(streams[0], *[error(number)] * 10, streams[1])
    began = autojump_clock.current_time()
    assert await accepted(listener) == streams
    assert listener.tries[11] - began == pytest.approx(1.0), "ten pauses of 100 ms"
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "cannot accept connections" in record.getMessage()
    assert os.strerror(number) in record.getMessage()
    assert record.exc_info is None, "a line, and no traceback"


async def test_lasting_lack_of_descriptors_is_logged_once_a_minute_with_a_count(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    began = autojump_clock.current_time()
    listener = FakeListener(*[error(errno.EMFILE)] * 1250)
    await accepted(listener)
    assert listener.tries[-1] - began == pytest.approx(125)
    first, *others = caplog.messages
    assert "left out" not in first
    assert [others[1], others[3]] == [first, first]
    for message in (others[0], others[2]):
        assert 595 <= int(message.removesuffix(" lines were omitted here")) <= 605


async def test_memory_error_is_waited_out(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    last, began = stream(), autojump_clock.current_time()
    listener = FakeListener(MemoryError(), last)
    assert await accepted(listener) == [last]
    assert listener.tries[1] - began == pytest.approx(0.1)
    assert "cannot accept connections: MemoryError" in caplog.text


@pytest.mark.parametrize(
    "make", [lambda: trio.ClosedResourceError("closed"), lambda: AssertionError("a bug")]
)
async def test_other_errors_of_accept_are_raised(
    make: Callable[[], Exception],
) -> None:
    exc = make()

    async def never(_: trio.abc.Stream) -> None:
        raise AssertionError

    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            with pytest.raises(type(exc)):
                await accept_forever(FakeListener(exc), never, nursery)


async def test_connection_is_served_while_accept_waits_for_the_next() -> None:
    served = trio.Event()

    async def serve(_: trio.abc.Stream) -> None:
        served.set()
        await trio.sleep_forever()

    listener = FakeListener(stream())
    handler: Callable[[trio.abc.Stream], Awaitable[None]] = serve
    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept_forever, listener, handler, nursery)
            await served.wait()
            await trio.testing.wait_all_tasks_blocked()
            assert len(listener.tries) == 2
            nursery.cancel_scope.cancel()


# --- peers that hang up before they are accepted ---


def hang_up(sock: socket.socket, how: str) -> None:
    match how:
        case "closes":
            pass
        case "resets":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        case "speaks and closes":
            sock.sendall(b"GET / HTTP/1.1")
    sock.close()


@pytest.mark.parametrize(
    ("how", "taken"),
    [("closes", 0), ("resets", 0), ("speaks and closes", 3)],
)
async def test_peer_that_hung_up_silently_gets_no_session(how: str, taken: int) -> None:
    handled = []

    async def handle(stream: trio.abc.Stream) -> None:
        async with stream:
            handled.append(await stream.receive_some(1))

    with trio.fail_after(DEADLINE):
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        address = listener.socket.getsockname()
        for _ in range(3):
            hang_up(socket.create_connection(address, timeout=DEADLINE), how)
        async with listener, trio.open_nursery() as nursery:
            nursery.start_soon(accept_forever, listener, handle, nursery)
            with socket.create_connection(address, timeout=DEADLINE) as good:
                good.sendall(b"!")
                while b"!" not in handled:  # noqa: ASYNC110 - the loop under test sets no event
                    await trio.sleep(0.001)
            nursery.cancel_scope.cancel()
    assert handled == [b"G"] * taken + [b"!"]


async def test_silent_peer_is_accepted_and_none_of_its_bytes_are_consumed() -> None:
    with trio.fail_after(DEADLINE):
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        heard: list[bytes | bytearray] = []
        done = trio.Event()

        async def handle(stream: trio.abc.Stream) -> None:
            async with stream:
                heard.append(await stream.receive_some())
            done.set()

        async with listener, trio.open_nursery() as nursery:
            nursery.start_soon(accept_forever, listener, handle, nursery)
            client = await trio.testing.open_stream_to_socket_listener(listener)
            async with client:
                await trio.testing.wait_all_tasks_blocked(0.01)
                await client.send_all(b"after a while")
                await done.wait()
            nursery.cancel_scope.cancel()
    assert heard == [b"after a while"]
