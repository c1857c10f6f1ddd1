"""Test transports: writes of several buffers, and tries that never wait."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import ssl
import struct
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from typing import Any, Final, NoReturn

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from drivers_for_tests import Lab
from helpers import PATIENCE, ask, begin, channel_over, timed, until
from jumpstarter import _nonblocking
from jumpstarter._io.tls import TlsStream
from jumpstarter._io.tls_transport import TlsTransport
from jumpstarter._io.transport import (
    Buffer,
    Chunk,
    SocketTransport,
    StreamTransport,
    Transport,
    _after,
    transport_for,
)
from jumpstarter.errors import CallOutcomeUnknown, CallRefused
from transports import (
    Pair,
    PairMaker,
    lockstep_pair,
    memory_pair,
    over_every_transport,
    tcp_pair,
    tls_pair,
    unix_pair,
)

STALL = 30.0
over_sockets = pytest.mark.parametrize("make_pair", [unix_pair, tcp_pair], ids=["unix", "tcp"])


FULL: Final = 65 * 1024  # bytes of a full read


def small_buffers(pair: Pair) -> None:
    """Minimise the kernel's queue, so that few bytes fill it."""
    for stream in pair:
        assert isinstance(stream, trio.SocketStream)
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)


async def receive_exactly(stream: trio.abc.ReceiveStream, size: int) -> bytes:
    received = b""
    while len(received) < size:
        piece = await stream.receive_some()
        assert piece, f"the stream has ended after {len(received)} of {size} bytes"
        received += piece
    assert len(received) == size
    return received


# -------------------------------------------------------------------------- what all of them do


@over_every_transport
@timed()
async def test_writes_accept_any_buffer_type(make_pair: PairMaker) -> None:
    ours, theirs = await make_pair()
    transport = transport_for(ours)
    buffers: list[Buffer] = [b"bytes", bytearray(b"array"), memoryview(b"view"), b"", b"end"]
    async with theirs, trio.open_nursery() as nursery:
        nursery.start_soon(lambda: transport.write(buffers, STALL))
        assert await receive_exactly(theirs, 17) == b"bytesarrayviewend"
    await transport.aclose()


@over_every_transport
@timed()
async def test_read_returns_available_bytes_and_nothing_at_the_end(make_pair: PairMaker) -> None:
    ours, theirs = await make_pair()
    transport = transport_for(ours)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(theirs.send_all, b"hello")
        received = b""
        while len(received) < 5:
            piece = await transport.read()
            assert type(piece) is bytes
            received += piece
    assert received == b"hello"
    await theirs.aclose()
    assert await transport.read() == b""
    assert await transport.read() == b""
    await transport.aclose()


@over_every_transport
@timed()
async def test_large_write_arrives_complete_and_in_order(
    make_pair: PairMaker,
) -> None:
    ours, theirs = await make_pair()
    transport = transport_for(ours)
    pieces = [number.to_bytes(4, "little") * 100 for number in range(2000)]
    async with theirs, trio.open_nursery() as nursery:
        nursery.start_soon(transport.write, pieces, STALL)
        assert await receive_exactly(theirs, 800_000) == b"".join(pieces)
    await transport.aclose()


@over_every_transport
@timed()
async def test_write_to_a_closed_peer_raises(make_pair: PairMaker) -> None:
    ours, theirs = await make_pair()
    transport = transport_for(ours)
    await trio.aclose_forcefully(theirs)
    with pytest.raises(trio.BrokenResourceError):
        await write_for_ever(transport)
    await transport.aclose()


async def write_for_ever(transport: Transport) -> None:
    while True:
        await transport.write([bytes(1000)], STALL)


@over_every_transport
@timed()
async def test_aclose_wakes_a_waiting_reader(make_pair: PairMaker) -> None:
    ours, theirs = await make_pair()
    transport = transport_for(ours)

    async def read() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await transport.read()

    async with theirs, trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await wait_all_tasks_blocked()
        await transport.aclose()


@over_every_transport
@timed()
async def test_closing_closes_even_when_cancelled(make_pair: PairMaker) -> None:
    ours, theirs = await make_pair()
    with trio.CancelScope() as scope:
        scope.cancel()
        await transport_for(ours).aclose()
    async with theirs:
        assert await theirs.receive_some() == b""


# --------------------------------------------------------------------------------- sockets


@over_sockets
@timed()
async def test_try_write_writes_immediately(make_pair: PairMaker) -> None:
    ours, theirs = await make_pair()
    transport = transport_for(ours)
    assert transport.try_write([b"one", b"two"]) == []
    async with theirs:
        assert await receive_exactly(theirs, 6) == b"onetwo"
    await transport.aclose()


@over_sockets
@timed()
async def test_try_write_returns_the_rest_and_later_writes_continue_there(
    make_pair: PairMaker,
) -> None:
    pair = ours, theirs = await make_pair()
    small_buffers(pair)
    transport = transport_for(ours)
    pieces = [number.to_bytes(4, "little") * 250 for number in range(1000)]
    rest = transport.try_write(pieces)
    assert 0 < sum(map(len, rest)) < 1_000_000
    assert transport.try_write(rest)  # still full: no byte is lost or written twice
    async with theirs, trio.open_nursery() as nursery:
        nursery.start_soon(transport.write, rest, STALL)
        assert await receive_exactly(theirs, 1_000_000) == b"".join(pieces)
    await transport.aclose()


@over_sockets
@timed()
async def test_try_write_of_a_single_buffer_continues_after_the_written_part(
    make_pair: PairMaker,
) -> None:
    pair = ours, theirs = await make_pair()
    small_buffers(pair)
    transport = transport_for(ours)
    data = b"".join(number.to_bytes(4, "little") for number in range(250_000))
    rest = transport.try_write([data])
    assert 0 < len(rest[0]) < len(data)
    async with theirs, trio.open_nursery() as nursery:
        nursery.start_soon(transport.write, rest, STALL)
        assert await receive_exactly(theirs, len(data)) == data
    await transport.aclose()


@over_sockets
@timed()
async def test_try_read_returns_available_bytes_without_waiting(make_pair: PairMaker) -> None:
    ours, theirs = await make_pair()
    transport = transport_for(ours)
    assert isinstance(transport, SocketTransport)
    assert transport.try_read() is None
    await theirs.send_all(b"hello")
    await trio.lowlevel.wait_readable(transport.fileno())
    assert transport.try_read() == b"hello"
    assert transport.try_read() is None
    await theirs.aclose()
    await trio.lowlevel.wait_readable(transport.fileno())
    assert transport.try_read() == b""
    await transport.aclose()


def read_on(transport: Transport) -> Chunk | None:
    """Read again without waiting, as the connection's reader does after a full read."""
    assert isinstance(transport, SocketTransport)
    return transport.try_read_on() if transport.expects_more else None


@over_sockets
@timed()
async def test_full_read_is_followed_by_another_without_waiting(
    make_pair: PairMaker,
) -> None:
    ours, theirs = await make_pair()
    transport = transport_for(ours)
    assert isinstance(transport, SocketTransport)
    data = b"".join(number.to_bytes(4, "little") for number in range(100_000))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(theirs.send_all, data)
        received = bytearray()
        while len(received) < FULL:
            received += await transport.read()
            while (more := read_on(transport)) is not None:
                assert len(more) <= 256 * 1024
                received += more
        while len(received) < len(data):
            received += await transport.read()
    assert received == data
    assert read_on(transport) is None
    await theirs.aclose()
    assert await transport.read() == b""
    await transport.aclose()


@timed()
async def test_bytes_after_a_full_read_are_kept_until_the_next_read() -> None:
    ours, theirs = await unix_pair()
    transport = transport_for(ours)
    assert isinstance(transport, SocketTransport)
    async with theirs, trio.open_nursery() as nursery:
        nursery.start_soon(theirs.send_all, bytes(FULL) + b"rest")
        await wait_all_tasks_blocked()
        assert len(await transport.read()) == FULL
        more = read_on(transport)
        assert more == b"rest"
        assert read_on(transport) is None
        assert more == b"rest"
    await transport.aclose()


@over_sockets
@timed()
async def test_short_read_is_not_followed_by_another(make_pair: PairMaker) -> None:
    ours, theirs = await make_pair()
    transport = transport_for(ours)
    assert read_on(transport) is None
    async with theirs, trio.open_nursery() as nursery:
        nursery.start_soon(theirs.send_all, b"ab")
        assert (await transport.read())[:1] == b"a"
        assert read_on(transport) is None
    await transport.aclose()


@timed()
async def test_end_is_found_after_a_full_read() -> None:
    ours, theirs = await unix_pair()
    transport = transport_for(ours)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(theirs.send_all, bytes(FULL))
        await transport.read()
    await theirs.aclose()
    assert read_on(transport) == b""
    await transport.aclose()


@over_sockets
@timed()
async def test_stopped_read_can_be_resumed(make_pair: PairMaker) -> None:
    ours, theirs = await make_pair()
    transport = transport_for(ours)
    assert isinstance(transport, SocketTransport)

    async def read() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await transport.read()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await wait_all_tasks_blocked()
        trio.lowlevel.notify_closing(transport.fileno())
    await theirs.send_all(b"later")
    assert await transport.read() == b"later"
    await theirs.aclose()
    await transport.aclose()


@over_sockets
@timed()
async def test_waiting_writer_continues_when_the_reader_stops(make_pair: PairMaker) -> None:
    ours, theirs = await make_pair()
    transport = transport_for(ours)
    assert isinstance(transport, SocketTransport)
    async with theirs, trio.open_nursery() as nursery:
        nursery.start_soon(transport.write, [bytes(8_000_000)], 60)
        await wait_all_tasks_blocked()
        trio.lowlevel.notify_closing(transport.fileno())
        await wait_all_tasks_blocked()
        assert await receive_exactly(theirs, 8_000_000) == bytes(8_000_000)
    async with theirs, trio.open_nursery() as nursery:
        nursery.start_soon(_write_in_vain, transport)
        await wait_all_tasks_blocked()
        await transport.aclose()


async def _write_in_vain(transport: SocketTransport) -> None:
    with pytest.raises((trio.BrokenResourceError, trio.ClosedResourceError)):
        await transport.write([bytes(8_000_000)], 60)


@over_sockets
@timed()
async def test_more_buffers_than_the_kernel_takes_in_one_call_are_written_in_several(
    make_pair: PairMaker,
) -> None:
    ours, theirs = await make_pair()
    transport = transport_for(ours)
    buffers = [bytes([number % 256]) for number in range(3000)]
    assert transport.try_write(buffers) == []
    async with theirs:
        assert await receive_exactly(theirs, 3000) == b"".join(buffers)
    await transport.aclose()


@over_sockets
@timed()
async def test_try_on_a_broken_socket_raises_the_systems_error(make_pair: PairMaker) -> None:
    ours, theirs = await make_pair()
    transport = transport_for(ours)
    assert isinstance(theirs, trio.SocketStream)
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # TCP: reset
    await trio.aclose_forcefully(theirs)
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        transport.try_write([b"x"])
    with pytest.raises(trio.BrokenResourceError, match="write failed: ") as broken:
        await transport.write([b"x"], STALL)
    assert isinstance(broken.value.__cause__, OSError)
    await transport.aclose()


@timed()
async def test_read_from_a_reset_connection_raises() -> None:
    ours, theirs = await tcp_pair()
    assert isinstance(theirs, trio.SocketStream)
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await trio.aclose_forcefully(theirs)
    transport = transport_for(ours)
    with pytest.raises(trio.BrokenResourceError, match="reset"):
        await transport.read()
    await transport.aclose()


@timed()
async def test_write_after_close_does_not_reach_a_reused_descriptor() -> None:
    ours, theirs = await unix_pair()
    transport = transport_for(ours)
    assert isinstance(ours, trio.SocketStream)
    descriptor = ours.socket.fileno()
    reader, writer = os.pipe()
    await transport.aclose()
    os.dup2(writer, descriptor)
    try:
        with pytest.raises(OSError, match="Bad file descriptor"):
            transport.try_write([b"not for you"])
        with pytest.raises(trio.BrokenResourceError):
            await transport.write([b"not for you"], STALL)
        os.set_blocking(reader, False)
        with pytest.raises(BlockingIOError):
            os.read(reader, 100)
    finally:
        for each in (reader, writer, descriptor):
            os.close(each)
        await theirs.aclose()


ERRORS = ("ENOBUFS", "ENOMEM", "EPIPE", "ECONNRESET", "ETIMEDOUT", "EHOSTUNREACH", "ENETDOWN")
every_error = pytest.mark.parametrize("name", ERRORS)


def failing(name: str) -> Callable[..., NoReturn]:
    """Return a function that fails with the system's error."""
    number = getattr(errno, name)

    def fail(*_: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    return fail


@every_error
@pytest.mark.parametrize("call", ["read", "write", "write_many"])
@timed()
async def test_any_os_error_becomes_a_broken_stream_that_names_it(
    name: str, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = await unix_pair()
    transport = transport_for(ours)
    await theirs.send_all(b"x")
    monkeypatch.setattr(_nonblocking, call, failing(name))
    data = [b"x", b"y"] if call == "write_many" else [b"x"]
    said = os.strerror(getattr(errno, name))
    with pytest.raises(trio.BrokenResourceError, match=f"{call[:4]}.* failed: .*{said}"):
        await (transport.read() if call == "read" else transport.write(data, STALL))
    if call != "read":
        with pytest.raises(OSError, match=said):
            transport.try_write(data)
    await transport.aclose()
    await theirs.aclose()


@every_error
@timed()
async def test_os_error_after_a_full_read_becomes_a_broken_stream(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = await unix_pair()
    transport = transport_for(ours)
    async with theirs, trio.open_nursery() as nursery:
        nursery.start_soon(theirs.send_all, bytes(FULL))
        await transport.read()
    monkeypatch.setattr(os, "readv", failing(name))
    with pytest.raises(OSError, match=os.strerror(getattr(errno, name))):
        read_on(transport)
    await transport.aclose()


@pytest.mark.parametrize("wait", ["wait_readable", "wait_writable"])
@timed()
async def test_os_error_while_waiting_for_a_socket_becomes_a_broken_stream(
    wait: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Epoll fails so when the system is out of memory, or the user has too many watches."""
    ours, theirs = await unix_pair()
    transport = transport_for(ours)

    async def fail(_: object) -> None:
        await trio.lowlevel.checkpoint()
        failing("ENOSPC")()

    monkeypatch.setattr(trio.lowlevel, wait, fail)
    read = wait == "wait_readable"
    with pytest.raises(trio.BrokenResourceError, match=r"failed: .*No space left"):
        await (transport.read() if read else transport.write([bytes(10_000_000)], STALL))
    await transport.aclose()
    await theirs.aclose()


class Failing(trio.abc.Stream):
    """A stream that fails like the layers below it, with an OSError or an error of Trio."""

    def __init__(self, make: Callable[[], Exception]) -> None:
        self.make = make

    async def send_all(self, data: object) -> None:
        del data
        await trio.lowlevel.checkpoint()
        try:
            raise ssl.SSLError(1, "alert certificate required")
        except ssl.SSLError as exc:
            raise self.make() from exc

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await self.send_all(max_bytes)
        raise AssertionError

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("make", [trio.BrokenResourceError, lambda: OSError("no buffers")])
@timed()
async def test_cause_of_a_broken_stream_is_named(make: Callable[[], Exception]) -> None:
    transport = transport_for(Failing(make))
    with pytest.raises(trio.BrokenResourceError, match=r"read failed: .*certificate required"):
        await transport.read()
    with pytest.raises(trio.BrokenResourceError, match=r"write failed: .*certificate required"):
        await transport.write([b"x"], STALL)
    await transport.aclose()


@every_error
@pytest.mark.parametrize("reader", ["the loop", "the loop, by a watch", "a task"])
@pytest.mark.parametrize("call", ["read", "write"])
@timed()
async def test_any_os_error_ends_each_call_once_with_its_reason(
    name: str, call: str, reader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = await unix_pair()
    assert isinstance(ours, trio.SocketStream)
    lab = Lab()
    said = os.strerror(getattr(errno, name))
    async with channel_over((ours, theirs), lab) as channel, trio.open_nursery() as nursery:
        if reader == "a task":  # the one that makes the first call
            channel.connection.ownership.watch_socket()
        calls = [await begin(nursery, channel.call, ask("wait")) for _ in range(3)]
        if reader == "the loop, by a watch":
            channel.connection.ownership.watch_socket()
            await wait_all_tasks_blocked()
        really = getattr(_nonblocking, call)
        descriptor = ours.socket.fileno()

        def fail(fd: int, *args: Any) -> Any:
            return failing(name)() if fd == descriptor else really(fd, *args)

        monkeypatch.setattr(_nonblocking, call, fail)
        last = await begin(nursery, channel.call, ask("echo", 1))
        await channel.connection.finished.wait()
        await wait_all_tasks_blocked()
        for outcome in (*calls, last):
            outcome.failed(CallOutcomeUnknown, f"connection to the exporter broke: .*{said}")
        assert isinstance(channel.ended, ConnectionError)
        with pytest.raises(CallRefused, match=said):
            await channel.call(ask("echo", 1))
    await until(lambda: lab.log.count("wait ended") == 3)


# ------------------------------------------------------------------------------ other streams


@timed()
async def test_stream_that_is_not_a_socket_is_never_written_synchronously() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    transport = transport_for(ours)
    assert transport.try_write([b"one", b"two"]) == [b"one", b"two"]
    await transport.aclose()
    assert await theirs.receive_some() == b""


# --------------------------------------------------------------------------------- a stall


@pytest.mark.parametrize("make_pair", [unix_pair, tcp_pair, lockstep_pair])
@timed(3600)
async def test_write_to_a_peer_that_reads_nothing_fails_after_the_stall_timeout(
    make_pair: PairMaker, autojump_clock: MockClock
) -> None:
    del autojump_clock
    ours, theirs = await make_pair()
    transport = transport_for(ours)
    started = trio.current_time()
    with pytest.raises(trio.TooSlowError):
        await transport.write([bytes(100_000_000)], STALL)
    assert trio.current_time() == started + STALL
    await transport.aclose()
    await theirs.aclose()


@timed(3600)
async def test_write_to_a_slow_peer_does_not_time_out(
    autojump_clock: MockClock,
) -> None:
    del autojump_clock
    pair = ours, theirs = await unix_pair()
    small_buffers(pair)
    transport = transport_for(ours)

    async def read_slowly() -> None:
        while True:
            await trio.sleep(STALL - 1)
            take_all(theirs)

    started = trio.current_time()
    async with theirs, trio.open_nursery() as nursery:
        nursery.start_soon(read_slowly)
        await transport.write([bytes(20_000)], STALL)
        assert trio.current_time() > started + 2 * STALL
        nursery.cancel_scope.cancel()
    await transport.aclose()


def take_all(stream: trio.abc.Stream) -> None:
    """Empty the kernel's queue: only then does it report the socket as writable."""
    assert isinstance(stream, trio.SocketStream)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.read(stream.socket.fileno(), 65536)


@pytest.mark.parametrize(
    ("taken_at_once", "size", "in_time"),
    [(1, 9, True), (1, 12, False), (64 * 1024, 20 * 64 * 1024, True)],
)
@timed(3600)
async def test_stall_timeout_applies_to_each_chunk_on_other_streams(
    taken_at_once: int, size: int, *, in_time: bool, autojump_clock: MockClock
) -> None:
    del autojump_clock
    ours, theirs = await lockstep_pair()
    transport = transport_for(ours)

    async def read_slowly() -> None:
        while True:
            await trio.sleep(STALL / 10)
            await theirs.receive_some(taken_at_once)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read_slowly)
        with contextlib.nullcontext() if in_time else pytest.raises(trio.TooSlowError):
            await transport.write([bytes(size)], STALL)
        nursery.cancel_scope.cancel()
    await transport.aclose()
    await theirs.aclose()


# --------------------------------------------------------------------------- which one it is


def plain(stream: trio.abc.Stream) -> trio.abc.Stream:
    return stream


def in_tls(stream: trio.abc.Stream) -> trio.abc.Stream:
    return TlsStream(stream, ssl.create_default_context(), "exporter")


def in_trios_tls(stream: trio.abc.Stream) -> trio.abc.Stream:
    return trio.SSLStream(stream, ssl.create_default_context(), server_hostname="exporter")


@pytest.mark.parametrize(
    ("make_pair", "wrap", "kind", "keepalive"),
    [
        (unix_pair, plain, SocketTransport, False),
        (tcp_pair, plain, SocketTransport, True),
        (memory_pair, plain, StreamTransport, False),
        (unix_pair, in_tls, TlsTransport, False),
        (tcp_pair, in_tls, TlsTransport, True),
        (tcp_pair, in_trios_tls, StreamTransport, True),
    ],
    ids=["unix", "tcp", "memory", "TLS over unix", "TLS over tcp", "Trio's TLS over tcp"],
)
@timed()
async def test_sockets_are_written_directly_and_only_a_remote_peer_can_vanish(
    make_pair: PairMaker,
    wrap: Callable[[trio.abc.Stream], trio.abc.Stream],
    kind: type[Transport],
    keepalive: bool,
) -> None:
    ours, theirs = await make_pair()
    transport = transport_for(wrap(ours))
    assert type(transport) is kind
    assert transport.keepalive is keepalive
    await transport.aclose()
    await theirs.aclose()


@given(st.binary(max_size=200), st.lists(st.integers(0, 200)), st.integers(0, 200))
def test_written_bytes_are_removed_from_the_front(
    data: bytes, cuts: list[int], written: int
) -> None:
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    buffers = [memoryview(data)[start:stop] for start, stop in pairwise(edges)]
    written = min(written, len(data))
    assert b"".join(_after(list(buffers), written)) == data[written:]


FAULTS: Final = """
import os, resource, socket, trio
from jumpstarter._io.transport import SocketTransport

def page_faults() -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        [bytes(range(256)) * 400 for _ in range(20)]  # 2 MiB, freed immediately
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

async def main() -> None:
    one, other = socket.socketpair()
    one.setblocking(False)
    transport = SocketTransport(trio.SocketStream(trio.socket.from_stdlib_socket(other)))
    one.send(bytes(100_000))
    while len(await transport.read()) < 65 * 1024 or transport.try_read_on() is None:
        one.send(bytes(100_000))
    print(page_faults())

trio.run(main)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="tunes the C library of Linux")
@pytest.mark.parametrize(("value", "tuned"), [(None, True), ("1", True), ("0", False)])
def test_malloc_is_tuned_for_bulk_unless_the_environment_forbids_it(
    value: str | None, *, tuned: bool
) -> None:
    names = {"JUMPSTARTER_TUNE_MALLOC", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"}
    environment = {name: each for name, each in os.environ.items() if name not in names}
    if value is not None:
        environment["JUMPSTARTER_TUNE_MALLOC"] = value
    result = subprocess.run(
        [sys.executable, "-c", FAULTS],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    faults = int(result.stdout)
    # Without tuning, each of the 20 rounds has a page fault for each of its 500 pages.
    assert (faults < 3_000) is tuned, faults


LARGE_ANSWERS: Final = {"a Unix socket": unix_pair, "TCP": tcp_pair, "TLS": tls_pair}


@pytest.mark.parametrize("make_pair", LARGE_ANSWERS.values(), ids=LARGE_ANSWERS)
@timed()
async def test_large_bytes_arrive_over_every_socket(make_pair: PairMaker) -> None:
    async with channel_over(await make_pair(), Lab()) as channel:
        for turn in range(8):  # after a few calls, the task that calls is the one that reads
            data = bytes([turn]) * 3_000_000
            assert await channel.call(ask("echo_async", data)) == data
            assert await channel.call(ask("echo", data)) == data
