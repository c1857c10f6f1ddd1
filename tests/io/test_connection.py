"""Test a connection with many calls, in both roles, against a peer that the test scripts."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import struct
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Literal

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from helpers import Outcome, in_time, timed
from jumpstarter._framing import HEADER_SIZE, FrameDecoder
from jumpstarter._io.connection import Connection
from jumpstarter._io.ownership import Reader
from jumpstarter._io.transport import SocketTransport, transport_for
from jumpstarter._io.writer import Writer
from jumpstarter._limits import DEFAULT_LIMITS, Limits
from jumpstarter._protocol import events as ev
from jumpstarter._protocol.client import ClientProtocol
from jumpstarter._protocol.codec import (
    decode_goaway,
    encode_cancel,
    encode_credit,
    encode_goaway,
    encode_hello,
)
from jumpstarter._protocol.frames import Flag, FrameType, Goaway, Hello, Kind
from jumpstarter._protocol.server import ServerProtocol
from jumpstarter._util.background import open_background
from jumpstarter.errors import Code, HandshakeError, RemoteProtocolError
from transports import (
    Pair,
    PairMaker,
    lockstep_pair,
    memory_pair,
    over_every_transport,
    tcp_pair,
    unix_pair,
)
from wire import Frame, call, frame, value

Role = Literal["client", "server"]
both_roles = pytest.mark.parametrize("role", ["client", "server"])

HELLO = frame(FrameType.HELLO, 0, encode_hello(Hello.of(DEFAULT_LIMITS)))


class StreamHandler:
    """The handler of a slot: records its events."""

    def __init__(self) -> None:
        self.events: list[ev.SlotEvent] = []
        self.drained_times = 0
        self.reasons: list[Exception] = []
        self.told = trio.lowlevel.ParkingLot()

    def received(self, event: ev.SlotEvent) -> None:
        self.events.append(event)
        self.told.unpark_all()

    def drained(self) -> None:
        self.drained_times += 1
        self.told.unpark_all()

    def lost(self, reason: Exception) -> None:
        self.reasons.append(reason)
        self.told.unpark_all()

    async def until(self, condition: Callable[[], object]) -> None:
        while not condition():
            await self.told.park()


class Side:
    """The handler of the connection under test: admits clients, and records its events."""

    def __init__(
        self,
        role: Role,
        stream: trio.abc.Stream,
        limits: Limits,
        dispatch_lock: trio.Lock | None = None,
    ) -> None:
        self.rules: ClientProtocol | ServerProtocol
        if role == "client":
            self.rules = ClientProtocol(limits, Hello.of(limits))
        else:
            self.rules = ServerProtocol(limits)
        transport = transport_for(stream)
        # These tests are about networks: treat memory and Unix sockets as one.
        transport.keepalive = True
        self.connection = Connection(
            transport, self.rules, self, "the peer", dispatch_lock=dispatch_lock
        )
        self.limits = limits
        self.admitted = trio.Event()
        self.freed_times = 0
        self.calls: list[ev.CallReceived] = []

    def on_hello(self, hello: Hello) -> None:
        assert hello == self.rules.peer
        assert not self.admitted.is_set()
        self.admitted.set()
        if isinstance(self.rules, ServerProtocol):
            self.rules.admit(Hello.of(self.limits))

    def on_call(self, event: ev.CallReceived) -> None:
        self.calls.append(event)
        self.connection.handlers[event.slot] = StreamHandler()

    def on_slot_free(self) -> None:
        self.freed_times += 1

    def call(self, kind: Kind = Kind.UNARY, size: int = 0) -> tuple[int, StreamHandler]:
        """Queue a CALL."""
        assert isinstance(self.rules, ClientProtocol)
        slot = self.rules.call(kind, call(kind, size))
        handler = self.connection.handlers[slot] = StreamHandler()
        return slot, handler


class Peer:
    """The peer: sends any bytes, and receives complete frames.

    Attributes:
        heard: The frames received so far.
    """

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.heard: list[Frame] = []
        self._decoder = FrameDecoder(2**24 - 1)
        self._new: deque[Frame] = deque()

    def feed(self, data: bytes) -> None:
        for type_, flags, slot, payload in self._decoder.feed(data):
            self._new.append(Frame(FrameType(type_), flags, slot, payload))
            self.heard.append(self._new[-1])

    async def send(self, *data: bytes) -> None:
        await self.stream.send_all(b"".join(data))

    async def next(self) -> Frame:
        """Wait for the next frame."""
        while not self._new:
            data = bytes(await self.stream.receive_some())
            assert data, "hung up"
            self.feed(data)
        return self._new.popleft()

    async def hear(self, type_: FrameType) -> Frame:
        """Wait for the next frame, and assert its type."""
        heard = await self.next()
        assert heard.type is type_, heard
        return heard

    async def hear_all(self) -> list[Frame]:
        """Wait for the end, and return the rest; assert that all frames are complete."""
        async for data in self.stream:
            self.feed(bytes(data))
        assert self._decoder.failure is None
        assert self._decoder.buffered == 0
        new = list(self._new)
        self._new.clear()
        return new

    async def answer_pings(self, seconds: float) -> None:
        """Answer each PING for a while."""
        with trio.move_on_after(seconds):
            while True:
                heard = await self.hear(FrameType.PING)
                await self.send(frame(FrameType.PING, 0, heard.payload, Flag.ACK))

    async def greet(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.send, HELLO)
            await self.hear(FrameType.HELLO)


@asynccontextmanager
async def connected(
    role: Role,
    make_pair: PairMaker = memory_pair,
    limits: Limits = DEFAULT_LIMITS,
    dispatch_lock: trio.Lock | None = None,
) -> AsyncIterator[tuple[Side, Peer]]:
    """Yield a running connection and its peer. Nothing but a client's HELLO was sent."""
    ours, theirs = await make_pair()
    side = Side(role, ours, limits, dispatch_lock)
    async with theirs, open_background() as nursery:
        nursery.start_soon(side.connection.run)
        side.connection.writer.flush()
        yield side, Peer(theirs)


@asynccontextmanager
async def greeted(
    role: Role,
    make_pair: PairMaker = memory_pair,
    limits: Limits = DEFAULT_LIMITS,
    dispatch_lock: trio.Lock | None = None,
) -> AsyncIterator[tuple[Side, Peer]]:
    """Yield a running connection and its peer after both have sent HELLO."""
    async with connected(role, make_pair, limits, dispatch_lock) as (side, peer):
        await peer.greet()
        await side.admitted.wait()
        yield side, peer


async def reason_of(side: Side) -> Exception:
    """Wait for the end of the connection, and return the reason."""
    await side.connection.finished.wait()
    assert side.connection.ended is not None
    return side.connection.ended


def goaway(code: int, text: str) -> bytes:
    return frame(FrameType.GOAWAY, 0, encode_goaway(Goaway(code, 0, text)))


def said(heard: Frame) -> Goaway:
    assert heard.type is FrameType.GOAWAY
    decoded = decode_goaway(heard.payload)
    assert decoded is not None
    return decoded


# ------------------------------------------------------------------------------------ handshake


@over_every_transport
@both_roles
@timed()
async def test_both_roles_exchange_hello_over_every_transport(
    role: Role, make_pair: PairMaker
) -> None:
    async with greeted(role, make_pair) as (side, peer):
        await peer.send(frame(FrameType.PING, 0, b"12345678"))
        await peer.hear(FrameType.PING)
        assert side.connection.ended is None


@both_roles
@timed(3600)
async def test_silent_peer_is_disconnected_after_the_hello_timeout(
    role: Role, autojump_clock: MockClock
) -> None:
    del autojump_clock
    started = trio.current_time()
    async with connected(role, limits=Limits(hello_timeout=3)) as (side, _):
        reason = await reason_of(side)
    assert isinstance(reason, HandshakeError)
    assert str(reason) == "the peer did not say HELLO within 3 s; is it a jumpstarter?"
    assert trio.current_time() == pytest.approx(started + 3, abs=0.01)


@both_roles
@timed(3600)
async def test_hello_that_arrives_too_slowly_times_out(
    role: Role, autojump_clock: MockClock
) -> None:
    del autojump_clock
    started = trio.current_time()
    async with connected(role, limits=Limits(hello_timeout=3)) as (side, peer):
        for byte in HELLO[:5]:
            await peer.send(bytes([byte]))
            await trio.sleep(0.5)
        assert isinstance(await reason_of(side), HandshakeError)
    assert trio.current_time() == pytest.approx(started + 3, abs=0.01)


@both_roles
@timed(3600)
async def test_nothing_is_sent_before_hello(role: Role, autojump_clock: MockClock) -> None:
    del autojump_clock
    patient = Limits(hello_timeout=100, ping_interval=1, ping_timeout=50)
    async with connected(role, limits=patient) as (side, peer):
        await trio.sleep(10)
        await peer.greet()  # fails if anything but HELLO is first
        await peer.hear(FrameType.PING)
        assert side.connection.ended is None


# The received bytes, and the part of them that the error shows.
PREAMBLES = {
    "HTTP request": (b"GET / HTTP/1.1\r\nHost: exporter\r\n\r\n", 16),
    "HTTP answer": (b"HTTP/1.1 400 Bad Request\r\n\r\n", 16),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 16),
    "TLS": (bytes.fromhex("16030100c8010000c40303") + bytes(200), 16),
    "SSH": (b"SSH-2.0-OpenSSH_9.2p1\r\n", 16),
    "SMTP": (b"220 mail.example.com ESMTP\r\n", 16),
    "JSON": (b'{"jsonrpc": "2.0"}\n', 16),
    "Redis": (b"*1\r\n$4\r\nPING\r\n", 14),
    "ones": (b"\xff" * 64, 16),
    "newlines": (b"\n" * 64, 16),
}
LOOK_LIKE_FRAMES = {
    "zeros": (bytes(64), "malformed HELLO: it begins with b'', not b'JMPS'"),
    "a HELLO of another protocol": (
        frame(FrameType.HELLO, 0, b"NOPE" + bytes(28)),
        "malformed HELLO: it begins with b'NOPE', not b'JMPS'",
    ),
    "a HELLO of three bytes": (frame(FrameType.HELLO, 0, b"JMP"), "malformed HELLO: it begins"),
    "a call": (frame(FrameType.CALL, 1, bytes(20)), "CALL before the two HELLOs were exchanged"),
}


@pytest.mark.parametrize(
    ("preamble", "text"),
    [
        *((sent, f"its stream begins with {sent[:size]!r}") for sent, size in PREAMBLES.values()),
        *LOOK_LIKE_FRAMES.values(),
    ],
    ids=[*PREAMBLES, *LOOK_LIKE_FRAMES],
)
@both_roles
@timed()
async def test_peer_of_another_protocol_is_recognised_and_its_bytes_are_shown(
    role: Role, preamble: bytes, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with connected(role) as (side, peer):
        await peer.send(preamble)
        reason = await reason_of(side)
        assert isinstance(reason, RemoteProtocolError)
        assert str(reason).startswith("the peer does not speak jumpstarter's protocol: ")
        assert text in str(reason)
        assert f"connection to the peer ended: {reason}" in caplog.text
        *_, last = await peer.hear_all()
        assert said(last).code == reason.code


@timed(3600)
async def test_timeout_while_rejecting_another_protocol_still_names_the_protocol_mismatch(
    autojump_clock: MockClock,
) -> None:
    del autojump_clock
    started = trio.current_time()
    async with connected("client", lockstep_pair, Limits(hello_timeout=3)) as (side, peer):
        await trio.sleep(2.5)
        await peer.send(b"220 mail.example.com ESMTP\r\n")  # and the peer does not read our answer
        reason = await reason_of(side)
    assert trio.current_time() == started + 2.5 + 1  # one second to send GOAWAY, and no more
    assert "does not speak jumpstarter's protocol" in str(reason)


@given(st.binary(min_size=1, max_size=100), st.sampled_from(["client", "server"]))
def test_no_bytes_of_another_protocol_establish_a_connection(data: bytes, role: Role) -> None:
    async def connect() -> None:
        async with in_time(), connected(role) as (side, peer):
            await peer.send(data)
            await peer.stream.send_stream.aclose()  # type: ignore[attr-defined]
            assert isinstance(await reason_of(side), (RemoteProtocolError, ConnectionError))
            assert not side.admitted.is_set()
            await peer.hear_all()

    trio.run(connect)


@both_roles
@timed()
async def test_other_protocol_version_is_named(role: Role) -> None:
    async with connected(role) as (side, peer):
        future = Hello.of(DEFAULT_LIMITS)
        payload = bytearray(encode_hello(future))
        payload[4] = 9
        await peer.send(frame(FrameType.HELLO, 0, bytes(payload)))
        reason = await reason_of(side)
    assert str(reason).startswith("the peer: the peer speaks version 9.2 of the protocol")
    assert isinstance(reason, RemoteProtocolError)
    assert reason.code is Code.VERSION


@both_roles
@timed()
async def test_goaway_instead_of_hello_reports_the_peers_reason(role: Role) -> None:
    async with connected(role) as (side, peer):
        await peer.send(goaway(Code.UNAUTHENTICATED, "not admitted"))
        reason = await reason_of(side)
    assert isinstance(reason, HandshakeError)
    assert str(reason).startswith("the peer refused the connection: 'not admitted'. Does it ask ")


# ---------------------------------------------------------------------------------------- reading


@over_every_transport
@timed()
async def test_client_receives_the_answer_to_its_call(make_pair: PairMaker) -> None:
    async with greeted("client", make_pair) as (side, peer):
        slot, handler = side.call()
        side.connection.writer.flush()
        assert (await peer.hear(FrameType.CALL)).slot == slot
        await peer.send(frame(FrameType.RESULT, slot, b"\xc0"))
        await handler.until(lambda: handler.events)
        assert handler.events == [ev.ResultReceived(slot, b"\xc0")]
        assert slot not in side.connection.handlers
        assert side.freed_times == 0  # no task waits for a slot


@over_every_transport
@timed()
async def test_its_owner_learns_of_each_free_slot_while_tasks_wait(make_pair: PairMaker) -> None:
    async with greeted("client", make_pair) as (side, peer):
        side.connection.slot_waiters = 2
        for times in (1, 2):
            slot, handler = side.call()
            side.connection.writer.flush()
            assert (await peer.hear(FrameType.CALL)).slot == slot
            await peer.send(frame(FrameType.RESULT, slot, b"\xc0"))
            await handler.until(lambda: side.freed_times == times)  # noqa: B023 - runs here


@over_every_transport
@timed()
async def test_server_receives_a_call_and_answers_it(make_pair: PairMaker) -> None:
    async with greeted("server", make_pair) as (side, peer):
        await peer.send(
            frame(FrameType.CALL, 5, bytes(call()[8:])), frame(FrameType.PING, 0, bytes(8))
        )
        await peer.hear(FrameType.PING)
        (event,) = side.calls
        assert (event.slot, event.head.method) == (5, "m")
        assert isinstance(side.rules, ServerProtocol)
        side.rules.result(5, value("done"))
        side.connection.writer.flush()
        assert (await peer.hear(FrameType.RESULT)).slot == 5


@timed()
async def test_peer_that_reads_nothing_does_not_delay_other_connections() -> None:
    async with greeted("client") as (side, peer):
        lazy, lazy_endpoint = side.call(Kind.STREAM)
        other, other_endpoint = side.call()
        side.connection.writer.flush()
        window = bytes(DEFAULT_LIMITS.stream_window)
        await peer.send(
            frame(FrameType.DATA, lazy, window), frame(FrameType.RESULT, other, b"\xc0")
        )
        await other_endpoint.until(lambda: other_endpoint.events)
        assert lazy_endpoint.events == [ev.DataReceived(lazy, window, end=False)]


@over_every_transport
@timed()
async def test_reading_continues_while_the_peer_reads_nothing(make_pair: PairMaker) -> None:
    async with greeted("client", make_pair, Limits(ping_burst=1000)) as (side, peer):
        answered, handler = side.call()
        side.connection.writer.flush()
        await peer.hear(FrameType.CALL)
        side.call(size=50_000_000)  # far more than any kernel buffers; the peer reads none of it
        side.connection.writer.flush()
        for _ in range(1000):  # each requires an answer, which must wait in the queue
            await peer.send(frame(FrameType.PING, 0, bytes(8)))
        await peer.send(frame(FrameType.RESULT, answered, b"\xc0"))
        await handler.until(lambda: handler.events)
        assert handler.events == [ev.ResultReceived(answered, b"\xc0")]


@timed()
async def test_frames_for_a_slot_without_a_handler_are_dropped() -> None:
    async with greeted("client") as (side, peer):
        slot, _ = side.call(Kind.STREAM)
        side.connection.writer.flush()
        del side.connection.handlers[slot]
        await peer.hear(FrameType.CALL)
        await peer.send(
            frame(FrameType.DATA, slot, b"x"),
            frame(FrameType.ERROR, slot, bytes(2)),
            frame(FrameType.PING, 0, bytes(8)),
        )
        await peer.hear(FrameType.PING)
        assert side.connection.ended is None


@both_roles
@timed()
async def test_protocol_error_ends_the_connection_after_the_frames_before_it(
    role: Role, caplog: pytest.LogCaptureFixture
) -> None:
    async with greeted(role) as (side, peer):
        await peer.send(
            goaway(Code.OK, "before"),
            frame(FrameType.DATA, 7, b"x"),
            goaway(Code.OK, "after"),
        )
        reason = await reason_of(side)
        assert isinstance(reason, RemoteProtocolError)
        assert str(reason) == "DATA on slot 7 (never used)"
        assert "connection to the peer ended: DATA on slot 7" in caplog.text
        assert side.connection.goaway is not None
        assert side.connection.goaway.goaway.text == "before"
        *_, last = await peer.hear_all()
    assert said(last) == Goaway(Code.PROTOCOL_ERROR, 0, "DATA on slot 7 (never used)")


@timed(3600)
async def test_protocol_error_of_a_peer_that_reads_nothing_ends_the_connection(
    autojump_clock: MockClock,
) -> None:
    del autojump_clock
    async with greeted("client", lockstep_pair) as (side, peer):
        side.call(size=1000)
        side.connection.writer.flush()
        started = trio.current_time()
        await peer.send(frame(FrameType.DATA, 7, b"x"))
        assert isinstance(await reason_of(side), RemoteProtocolError)
        assert trio.current_time() == started + 1  # the time allowed to send GOAWAY


@timed()
async def test_internal_error_ends_the_connection_and_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with greeted("client") as (side, peer):
        slot, _ = side.call()
        other, handler = side.call()
        side.connection.writer.flush()
        del other

        def fail(event: ev.SlotEvent) -> None:
            raise ZeroDivisionError(event)

        side.connection.handlers[slot].received = fail  # type: ignore[method-assign]
        await peer.send(frame(FrameType.RESULT, slot, b"\xc0"))
        reason = await reason_of(side)
        assert isinstance(reason, ZeroDivisionError)
        assert handler.reasons == [reason]
    assert "internal error on the connection to the peer" in caplog.text
    assert "ZeroDivisionError" in caplog.text


# ----------------------------------------------------------------------------------------- GOAWAY


@both_roles
@timed()
async def test_goaway_without_an_error_lets_running_calls_continue(role: Role) -> None:
    async with greeted(role) as (side, peer):
        freed = side.freed_times
        await peer.send(goaway(Code.OK, "shutting down"), frame(FrameType.PING, 0, bytes(8)))
        heard = {(await peer.next()).type for _ in range(2)}
        assert heard == {FrameType.PING, FrameType.GOAWAY}  # its ACK
        assert side.connection.ended is None
        assert side.connection.goaway is not None
        assert side.connection.goaway.goaway.text == "shutting down"
        assert side.freed_times == freed + 1


@pytest.mark.parametrize(
    ("code", "known"),
    [
        (Code.PROTOCOL_ERROR, Code.PROTOCOL_ERROR),
        (Code.FLOW_CONTROL, Code.FLOW_CONTROL),
        (Code.WRITE_STALL, Code.WRITE_STALL),
        (999, Code.PROTOCOL_ERROR),
    ],
)
@both_roles
@timed()
async def test_goaway_with_an_error_ends_the_connection_with_its_reason(
    role: Role, code: int, known: Code
) -> None:
    async with greeted(role) as (side, peer):
        await peer.send(goaway(code, "you sent too much"))
        reason = await reason_of(side)
    assert isinstance(reason, RemoteProtocolError)
    assert str(reason) == "the peer ended the connection: 'you sent too much'"
    assert reason.code is known


@both_roles
@timed()
async def test_our_goaway_is_acknowledged(role: Role) -> None:
    async with greeted(role) as (side, peer):
        side.rules.goaway(Code.OK, 0, "bye")
        side.connection.writer.flush()
        await peer.hear(FrameType.GOAWAY)
        assert not side.connection.acked.is_set()
        await peer.send(frame(FrameType.GOAWAY, 0, b"", 0x40))
        await side.connection.acked.wait()
        assert side.connection.ended is None


# ----------------------------------------------------------------------------------------- writing


def heard_so_far(peer: Peer) -> list[Frame]:
    """Return the bytes in the peer's socket, without a checkpoint."""
    assert isinstance(peer.stream, trio.SocketStream)
    with contextlib.suppress(BlockingIOError):
        peer.feed(os.read(peer.stream.socket.fileno(), 100_000))
    return peer.heard


@timed()
async def test_frame_is_written_immediately_with_one_call_in_flight() -> None:
    async with greeted("client", unix_pair) as (side, peer):
        side.call()
        side.connection.writer.flush()
        assert heard_so_far(peer)[-1].type is FrameType.CALL


@timed()
async def test_frames_of_many_calls_are_written_together() -> None:
    async with greeted("client", unix_pair) as (side, peer):
        side.call()
        side.connection.writer.flush()
        greeting = len(heard_so_far(peer))
        for _ in range(5):
            side.call()
            side.connection.writer.flush()
        assert len(heard_so_far(peer)) == greeting
        await wait_all_tasks_blocked()
        assert len(heard_so_far(peer)) == greeting + 5


@timed()
async def test_deferred_flush_waits_for_the_writer() -> None:
    async with greeted("client", unix_pair) as (side, peer):
        greeting = len(heard_so_far(peer))
        side.call()
        side.connection.writer.flush_soon()
        side.connection.writer.flush()  # must not overtake it
        assert len(heard_so_far(peer)) == greeting
        await wait_all_tasks_blocked()
        assert len(heard_so_far(peer)) == greeting + 1


async def narrow_pair() -> Pair:
    """Make a Unix socket whose kernel queue is full after a few frames."""
    pair = await unix_pair()
    for stream in pair:
        assert isinstance(stream, trio.SocketStream)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    return pair


@given(
    st.lists(st.sampled_from(["flush", "flush", "soon", "pause", "read"]), max_size=100),
    st.integers(0, 3),
)
def test_frames_are_written_in_queue_order(steps: list[str], calls: int) -> None:
    async def run() -> None:
        async with in_time(), greeted("client", narrow_pair) as (side, peer):
            for _ in range(calls):
                side.call()
            expected = []
            for number, step in enumerate(steps):
                match step:
                    case "pause":
                        await trio.lowlevel.checkpoint()
                    case "read":
                        heard_so_far(peer)
                    case _:
                        expected.append(number.to_bytes(8, "big"))
                        side.rules.ping(expected[-1])
                        send = (
                            side.connection.writer.flush
                            if step == "flush"
                            else side.connection.writer.flush_soon
                        )
                        send()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(peer.hear_all)
                await side.connection.writer.written()
                side.connection.end(ConnectionError("done"))
            heard = [f.payload for f in peer.heard if f.type is FrameType.PING]
            assert heard == expected

    trio.run(run)


@over_every_transport
@timed()
async def test_slot_is_notified_once_when_its_last_frame_is_written(make_pair: PairMaker) -> None:
    async with greeted("client", make_pair) as (side, peer):
        slot, handler = side.call(size=300_000)
        _, small = side.call()
        side.connection.writer.flush()
        assert handler.drained_times == 0
        received = 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(handler.until, lambda: handler.drained_times)
            while received < 300_000:
                heard = await peer.hear(FrameType.CALL)
                received += len(heard.payload) if heard.slot == slot else 0
        assert handler.drained_times == 1
        assert small.drained_times == 0  # it never waited in the queue


@timed()
async def test_slot_is_notified_immediately_if_its_frame_is_written_immediately() -> None:
    async with greeted("client", unix_pair) as (side, peer):
        _, handler = side.call(size=20_000)
        side.connection.writer.flush()
        assert handler.drained_times == 1
        assert heard_so_far(peer)[-1].type is FrameType.CALL


@pytest.mark.parametrize("make_pair", [unix_pair, lockstep_pair], ids=["unix", "lockstep"])
@timed(3600)
async def test_peer_that_reads_nothing_is_disconnected(
    make_pair: PairMaker, autojump_clock: MockClock
) -> None:
    del autojump_clock
    limits = Limits(write_stall=15, ping_interval=0)
    async with greeted("client", make_pair, limits) as (side, _):
        started = trio.current_time()
        _, handler = side.call(size=10_000_000)
        side.connection.writer.flush()
        reason = await reason_of(side)
    assert trio.current_time() == started + 15
    assert isinstance(reason, RemoteProtocolError)
    assert reason.code is Code.WRITE_STALL
    assert str(reason) == "the peer took nothing for 15 s"
    assert handler.reasons == [reason]


@pytest.mark.parametrize("flush", [Writer.flush, Writer.flush_soon])
@pytest.mark.parametrize("attempt", range(5))  # the writer or the reader may be first
@timed()
async def test_failed_write_does_not_hide_the_peers_last_frames(
    flush: Callable[[Writer], None], attempt: int
) -> None:
    del attempt
    async with greeted("client", unix_pair) as (side, peer):
        assert isinstance(peer.stream, trio.SocketStream)
        _, handler = side.call()
        # Without a checkpoint between them: the connection writes before it can read.
        os.write(peer.stream.socket.fileno(), goaway(Code.FLOW_CONTROL, "you sent too much"))
        peer.stream.socket.close()
        flush(side.connection.writer)
        reason = await reason_of(side)
    assert str(reason) == "the peer ended the connection: 'you sent too much'"
    assert handler.reasons == [reason]


@timed()
async def test_nothing_is_written_after_a_failed_write() -> None:
    async with greeted("client", unix_pair) as (side, peer):
        assert isinstance(peer.stream, trio.SocketStream)
        peer.stream.socket.shutdown(socket.SHUT_RD)
        side.rules.ping(b"lost....")
        side.connection.writer.flush()
        for flush in (side.connection.writer.flush, side.connection.writer.flush_soon):
            side.rules.ping(b"too late")
            flush()
        await wait_all_tasks_blocked()
        assert side.rules.send_queue  # the peer has not read it


@timed()
async def test_failed_write_ends_the_connection_of_a_silent_peer() -> None:
    async with greeted("client", unix_pair) as (side, peer):
        assert isinstance(peer.stream, trio.SocketStream)
        peer.stream.socket.close()
        side.call()
        side.connection.writer.flush()
        reason = await reason_of(side)
    assert isinstance(reason, ConnectionError)
    assert str(reason) == "the connection to the peer broke: [Errno 32] Broken pipe"


@pytest.mark.parametrize("role", ["client", "server"])
@timed()
async def test_a_goodbye_is_the_reason_though_answering_it_fails(role: Role) -> None:
    async with greeted(role, unix_pair) as (side, peer):
        assert isinstance(peer.stream, trio.SocketStream)
        # Both are there before the side reads, so its answer to the goodbye finds no reader.
        os.write(peer.stream.socket.fileno(), goaway(Code.OK, "your turn is over"))
        peer.stream.socket.close()
        reason = await reason_of(side)
    assert side.connection.writer.failure is not None
    assert str(reason) == "the peer closed the connection: 'your turn is over'"


@timed(3600)
async def test_a_goodbye_is_the_reason_if_the_peer_reads_no_more(
    autojump_clock: MockClock,
) -> None:
    del autojump_clock
    async with greeted("client", unix_pair) as (side, peer):
        assert isinstance(peer.stream, trio.SocketStream)
        peer.stream.socket.shutdown(socket.SHUT_RD)
        await peer.send(goaway(Code.OK, "your turn is over"))
        reason = await reason_of(side)
    assert str(reason) == "the peer closed the connection: 'your turn is over'"


@timed(3600)
async def test_peer_that_closes_only_its_receiving_half_is_read_for_a_moment(
    autojump_clock: MockClock,
) -> None:
    del autojump_clock
    async with greeted("client", unix_pair) as (side, peer):
        assert isinstance(peer.stream, trio.SocketStream)
        peer.stream.socket.shutdown(socket.SHUT_RD)
        started = trio.current_time()
        side.call(size=1_000_000)
        side.connection.writer.flush()
        reason = await reason_of(side)
        assert trio.current_time() == pytest.approx(started + 1, abs=0.01)
    assert str(reason) == "the connection to the peer broke: [Errno 32] Broken pipe"


@over_every_transport
@timed()
async def test_written_waits_for_all_queued_frames(make_pair: PairMaker) -> None:
    async with greeted("client", make_pair) as (side, peer):
        side.call(size=3_000_000)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.hear_all)
            await side.connection.writer.written()
            assert not side.rules.send_queue
            side.connection.end(ConnectionError("done"))
        assert sum(len(f.payload) for f in peer.heard) > 3_000_000


@timed()
async def test_waiting_for_queued_frames_ends_with_the_connection() -> None:
    async with greeted("client", lockstep_pair) as (side, _), trio.open_nursery() as nursery:
        side.call()
        nursery.start_soon(side.connection.writer.written)
        await wait_all_tasks_blocked()
        side.connection.end(ConnectionError("done"))


# --------------------------------------------------------------------------------------- keepalive

KEEPALIVE = Limits(ping_interval=20, ping_timeout=10)


@both_roles
@timed(3600)
async def test_silent_peer_is_pinged_and_then_disconnected(
    role: Role, autojump_clock: MockClock
) -> None:
    del autojump_clock
    async with greeted(role, limits=KEEPALIVE) as (side, peer):
        started = trio.current_time()
        await peer.hear(FrameType.PING)
        assert trio.current_time() == started + 20
        reason = await reason_of(side)
        assert trio.current_time() == pytest.approx(started + 30, abs=0.01)
    assert type(reason) is ConnectionError
    assert str(reason) == "the peer gave no sign of life for 30 s"


@both_roles
@timed(7200)
async def test_peer_that_answers_pings_stays_connected(
    role: Role, autojump_clock: MockClock
) -> None:
    del autojump_clock
    async with greeted(role, limits=KEEPALIVE) as (side, peer):
        started = trio.current_time()
        for times in range(1, 100):
            asked = await peer.hear(FrameType.PING)
            assert trio.current_time() == started + 20 * times
            await peer.send(frame(FrameType.PING, 0, asked.payload, 0x40))
        assert side.connection.ended is None


@timed(3600)
async def test_any_byte_counts_as_a_sign_of_life(autojump_clock: MockClock) -> None:
    del autojump_clock
    async with greeted("client", limits=KEEPALIVE) as (side, peer):
        slow_frame = frame(FrameType.PING, 0, bytes(8))
        for byte in slow_frame[:-1]:
            await trio.sleep(29)  # the PING was sent after 20
            await peer.send(bytes([byte]))
        assert side.connection.ended is None
        for byte in slow_frame[-1:] + slow_frame[:-1]:
            await trio.sleep(19)
            await peer.send(bytes([byte]))
        questions = sum(f.type is FrameType.PING and not f.flags for f in await peer_heard(peer))
        assert questions == len(slow_frame) - 1


async def peer_heard(peer: Peer) -> list[Frame]:
    while True:
        with trio.move_on_after(1) as scope:
            peer.feed(bytes(await peer.stream.receive_some()))
        if scope.cancelled_caught:
            return peer.heard


@pytest.mark.parametrize(
    ("interval", "remote"), [(0, True), (20, False)], ids=["switched off", "no network"]
)
@timed(7200)
async def test_no_ping_is_sent_where_it_is_useless(
    interval: float, *, remote: bool, autojump_clock: MockClock
) -> None:
    del autojump_clock
    ours, theirs = trio.testing.memory_stream_pair()
    side = Side("client", ours, Limits(ping_interval=interval))
    side.connection._transport.keepalive = remote
    async with open_background() as nursery:
        nursery.start_soon(side.connection.run)
        peer = Peer(theirs)
        await peer.greet()
        await trio.sleep(3600)
        assert side.connection.ended is None
        assert [f.type for f in await peer_heard(peer)] == [FrameType.HELLO]


# ------------------------------------------------------------------------------------------- end


async def hang_up(side: Side, peer: Peer) -> None:
    del side
    await peer.stream.aclose()


async def breach(side: Side, peer: Peer) -> None:
    del side
    await peer.send(b"\xff" * 8)


async def end(side: Side, peer: Peer) -> None:
    del peer
    side.connection.end(ConnectionError("the test has ended it"))


ENDS: dict[str, tuple[Callable[[Side, Peer], Awaitable[None]], str]] = {
    "the peer hangs up": (hang_up, "the peer closed the connection"),
    "the peer breaks the rules": (breach, "frame at byte"),
    "we end it": (end, "the test has ended it"),
}


@pytest.mark.parametrize(("finish", "text"), ENDS.values(), ids=ENDS)
@over_every_transport
@timed()
async def test_every_handler_is_notified_once_of_the_reason_of_the_end(
    make_pair: PairMaker, finish: Callable[[Side, Peer], Awaitable[None]], text: str
) -> None:
    async with greeted("client", make_pair) as (side, peer):
        handlers = [side.call()[1] for _ in range(3)]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(side.connection.writer.written)
            for _ in handlers:
                await peer.hear(FrameType.CALL)
        await finish(side, peer)
        reason = await reason_of(side)
        assert str(reason).startswith(text)
        for handler in handlers:
            assert handler.reasons == [reason]
        assert not side.connection.handlers
        assert side.connection.acked.is_set()
        assert side.freed_times == 1
        side.connection.end(ConnectionError("too late"))
        assert side.connection.ended is reason


@over_every_transport
@timed()
async def test_cancelled_connection_notifies_its_handlers_and_closes(make_pair: PairMaker) -> None:
    ours, theirs = await make_pair()
    side = Side("client", ours, DEFAULT_LIMITS)
    peer = Peer(theirs)
    async with theirs:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(side.connection.run)
            await peer.greet()
            await side.admitted.wait()
            _, handler = side.call()
            nursery.cancel_scope.cancel()
        (reason,) = handler.reasons
        assert str(reason) == "the connection to the peer was cancelled"
        await peer.hear_all()


@timed()
async def test_bytes_that_arrive_as_the_connection_ends_begin_no_call() -> None:
    """Nothing would end such a call: those of the connection have been ended already."""
    ours, theirs = trio.testing.memory_stream_pair()
    side, peer = Side("server", ours, DEFAULT_LIMITS), Peer(theirs)
    async with theirs, open_background() as nursery:
        nursery.start_soon(side.connection.run)
        await peer.send(HELLO)
        await side.admitted.wait()
        await wait_all_tasks_blocked()
        # It schedules the reader, which runs only after this task has ended the connection.
        await peer.send(frame(FrameType.CALL, 1, bytes(call()[HEADER_SIZE:])))
        side.connection.end(ConnectionError("over"))
        await side.connection.finished.wait()
    assert side.calls == []


@timed()
async def test_reset_connection_ends_as_broken() -> None:
    async with greeted("client", tcp_pair) as (side, peer):
        assert isinstance(peer.stream, trio.SocketStream)
        peer.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await trio.aclose_forcefully(peer.stream)
        reason = await reason_of(side)
    assert str(reason).startswith("the connection to the peer broke: ")
    assert "reset" in str(reason)


@timed()
async def test_closing_the_underlying_stream_ends_the_connection() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    side = Side("client", ours, DEFAULT_LIMITS)
    async with theirs, trio.open_nursery() as nursery:
        nursery.start_soon(side.connection.run)
        await Peer(theirs).greet()
        await ours.aclose()
        assert str(await reason_of(side)).startswith("the connection to the peer broke")


@timed()
async def test_a_connection_ended_before_it_runs_does_not_run() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    side = Side("client", ours, DEFAULT_LIMITS)
    side.connection.end(ConnectionError("not wanted any more"))
    await side.connection.run()
    assert side.connection.finished.is_set()
    assert await theirs.receive_some() == b""


@timed()
async def test_flush_after_the_end_writes_nothing() -> None:
    async with greeted("client", unix_pair) as (side, peer):
        side.connection.end(ConnectionError("done"))
        await side.connection.finished.wait()
        side.rules.ping(bytes(8))
        side.connection.writer.flush()
        await side.connection.writer.flush_goaway()
        assert await peer.hear_all() == []


@given(st.integers(0, 40), st.sampled_from(["client", "server"]))
def test_connection_cancelled_at_any_moment_writes_whole_frames_and_at_most_one_truncated(
    moment: int, role: Role
) -> None:
    async def run() -> None:
        ours, theirs = await narrow_pair()
        side = Side(role, ours, DEFAULT_LIMITS)
        peer = Peer(theirs)

        async def work() -> None:
            await peer.greet()
            if role == "client":
                await side.admitted.wait()
                side.call(size=100_000)
                side.call(Kind.GENERATOR, size=20_000)
            for _ in range(20):
                side.rules.ping(b"frame...")
                side.connection.writer.flush()
                await trio.lowlevel.checkpoint()

        async with in_time(), theirs:
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(side.connection.run)
                    nursery.start_soon(work)
                    for _ in range(moment):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()
            with contextlib.suppress(
                trio.BrokenResourceError
            ):  # the peer did not read the bytes that we had sent
                async for data in theirs:
                    peer.feed(bytes(data))
            assert peer._decoder.failure is None

    trio.run(run)


# ------------------------------------------------------------------------------------- patience

FEW = Limits(ping_burst=5, ping_rate=1, late_burst=20, late_rate=2)
FLOODS = {
    "PING": (frame(FrameType.PING, 0, bytes(8)), 5),
    "GOAWAY": (goaway(Code.OK, "bye"), 5),
    "pong": (frame(FrameType.PING, 0, bytes(8), Flag.ACK), 20),
    "GOAWAY's ACK": (frame(FrameType.GOAWAY, 0, b"", Flag.ACK), 20),
    "CANCEL once more": (frame(FrameType.CANCEL, 1, encode_cancel(1)), 21),
    "late CREDIT": (frame(FrameType.CREDIT, 2, encode_credit(1)), 20),
    "a small part": (frame(FrameType.CALL, 3, b"x", Flag.MORE), 20),
}


@pytest.mark.parametrize(("flood", "most"), FLOODS.values(), ids=FLOODS)
@timed(3600)
async def test_useless_frames_are_accepted_up_to_their_limit(
    flood: bytes, most: int, autojump_clock: MockClock
) -> None:
    del autojump_clock
    async with greeted("server", limits=FEW) as (side, peer):
        assert isinstance(side.rules, ServerProtocol)
        opened = [frame(FrameType.CALL, slot, bytes(call()[HEADER_SIZE:])) for slot in (1, 2)]
        await peer.send(*opened)
        await wait_all_tasks_blocked()
        side.rules.result(2, value())
        side.connection.writer.flush()
        await peer.send(flood * most)
        await wait_all_tasks_blocked()
        assert side.connection.ended is None
        await trio.sleep(1)  # the allowance grows: by one of the one kind, by two of the other
        await peer.send(flood)
        await wait_all_tasks_blocked()
        assert side.connection.ended is None
        await peer.send(flood * 2)
        reason = await reason_of(side)
        assert isinstance(reason, RemoteProtocolError)
        assert reason.code is Code.TOO_MANY_FRAMES
        *_, last = await peer.hear_all()
        assert said(last).code == Code.TOO_MANY_FRAMES


@timed()
async def test_other_tasks_run_between_batches_of_frames() -> None:
    """One batch of frames is handled per turn, however many a read returns."""
    async with greeted("server", limits=Limits(max_frames_per_turn=4)) as (side, peer):
        seen = [0]

        async def look() -> None:
            while True:
                seen.append(len(side.calls))
                await trio.lowlevel.checkpoint()

        async with open_background() as nursery:
            nursery.start_soon(look)
            payload = bytes(call()[HEADER_SIZE:])
            await peer.send(*(frame(FrameType.CALL, slot, payload) for slot in range(1, 101)))
            while len(side.calls) < 100:
                await trio.lowlevel.checkpoint()
        # Two batches can be adjacent: the last of one pass, and the first of the next.
        assert max(after - before for before, after in itertools.pairwise(seen)) <= 2 * 4


@timed()
async def test_busy_connections_handle_one_batch_at_a_time() -> None:
    """Ten flooding peers then leave other tasks as much of the loop as one does."""
    dispatch_lock = trio.Lock()
    limits = Limits(max_frames_per_turn=4)
    async with contextlib.AsyncExitStack() as stack:
        sides = []
        for _ in range(5):
            side, peer = await stack.enter_async_context(
                greeted("server", limits=limits, dispatch_lock=dispatch_lock)
            )
            payload = bytes(call()[HEADER_SIZE:])
            await peer.send(*(frame(FrameType.CALL, slot, payload) for slot in range(1, 41)))
            sides.append(side)
        handled = [sum(len(side.calls) for side in sides)]
        while handled[-1] < 200:
            await trio.lowlevel.checkpoint()
            handled.append(sum(len(side.calls) for side in sides))
    # The first bytes of each are handled immediately; then one batch per pass, and this loop's
    # own may see two.
    steps = [after - before for before, after in itertools.pairwise(handled)]
    assert max(steps[2:]) <= 2 * 4


@timed()
async def test_protocol_error_among_many_frames_ends_the_connection_after_those_before_it() -> None:
    async with greeted("server", limits=Limits(max_frames_per_turn=2)) as (side, peer):
        payload = bytes(call()[HEADER_SIZE:])
        calls = [frame(FrameType.CALL, slot, payload) for slot in range(1, 8)]
        await peer.send(*calls, frame(FrameType.HELLO), *calls)
        assert isinstance(await reason_of(side), RemoteProtocolError)
        assert [event.slot for event in side.calls] == list(range(1, 8))


# ---------------------------------------------------------------------------- what never comes


@timed(3600)
async def test_peer_that_stalls_within_a_large_message_is_disconnected(
    autojump_clock: MockClock,
) -> None:
    """Large messages are read in larger steps, each followed immediately by another read."""
    del autojump_clock
    limits = Limits(read_stall=30, ping_interval=0)
    async with greeted("server", unix_pair, limits=limits) as (side, peer):
        await peer.send(frame(FrameType.CALL, 1, bytes(64 * 1024), Flag.MORE))
        began = trio.current_time()
        await reason_of(side)
        assert trio.current_time() == pytest.approx(began + 30, abs=0.01)


@timed(3600)
async def test_peer_that_stalls_after_a_thread_has_read_is_disconnected(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread takes the role as a full read ends with a whole message."""
    del autojump_clock
    limits = Limits(read_stall=30, ping_interval=0)
    async with greeted("server", unix_pair, limits=limits) as (side, peer):
        ownership, reader = side.connection.ownership, side.connection.reader
        ownership.watch_socket()
        await wait_all_tasks_blocked()
        on_call = side.on_call

        def take_role(event: ev.CallReceived) -> None:
            on_call(event)
            if len(side.calls) == 2:
                assert ownership.take_role()

        monkeypatch.setattr(side, "on_call", take_role)
        head = bytes(call()[HEADER_SIZE:])
        sizes = 64 * 1024, 1024 - 2 * HEADER_SIZE  # together one full read
        await peer.send(
            *(
                frame(FrameType.CALL, slot, head + bytes(size - len(head)))
                for slot, size in enumerate(sizes, 1)
            )
        )
        await wait_all_tasks_blocked()
        assert ownership.reader is Reader.THREAD
        transport = side.connection._transport
        assert isinstance(transport, SocketTransport)
        assert transport.expects_more
        with ownership.lock:
            ownership.give_up(reader.needs_loop)
        await peer.send(frame(FrameType.CALL, 3, bytes(2000), Flag.MORE))
        began = trio.current_time()
        await reason_of(side)
        assert trio.current_time() == pytest.approx(began + 30, abs=0.1)


UNFINISHED = {
    "a header": HELLO[:3],
    "a frame": frame(FrameType.CALL, 1, bytes(100))[:50],
    "a message": frame(FrameType.CALL, 1, bytes(2000), Flag.MORE),
}


@pytest.mark.parametrize("begun", UNFINISHED.values(), ids=UNFINISHED)
@timed(3600)
async def test_unfinished_message_may_take_any_time_while_bytes_arrive(
    begun: bytes, autojump_clock: MockClock
) -> None:
    del autojump_clock
    async with greeted("server", limits=Limits(read_stall=30, ping_interval=0)) as (side, peer):
        await trio.sleep(1000)  # nothing is unfinished
        for piece in (begun[:1], begun[1:2], begun[2:]):
            await peer.send(piece)
            await trio.sleep(29)
            assert side.connection.ended is None
        began = trio.current_time() - 29
        reason = await reason_of(side)
        assert trio.current_time() == pytest.approx(began + 30, abs=0.01)
    assert isinstance(reason, RemoteProtocolError)
    assert str(reason) == "the peer sent no more of what it had begun for 30 s"


@timed(3600)
async def test_finished_message_ends_the_stall_timeout(autojump_clock: MockClock) -> None:
    del autojump_clock
    async with greeted("server", limits=Limits(ping_interval=0)) as (side, peer):
        whole = frame(FrameType.CALL, 1, bytes(call()[HEADER_SIZE:]))
        await peer.send(whole[:9])
        await trio.sleep(20)
        await peer.send(whole[9:])
        await trio.sleep(1000)
        assert side.connection.ended is None
        assert len(side.calls) == 1


# ------------------------------------------------------------------------------------------ room


@timed()
async def test_senders_wait_while_the_peer_does_not_read() -> None:
    """They continue one after the other when the peer reads again."""
    limits = Limits(max_unsent=10_000)
    async with greeted("server", lockstep_pair, limits) as (side, peer):
        rules = side.rules
        assert isinstance(rules, ServerProtocol)
        payload = bytes(call()[HEADER_SIZE:])
        await peer.send(*(frame(FrameType.CALL, slot, payload) for slot in range(1, 21)))
        finished = []

        async def answer(slot: int) -> None:
            await side.connection.writer.wait_writable()
            rules.result(slot, value(bytes(6_000)))
            side.connection.writer.flush()
            finished.append(slot)

        async with trio.open_nursery() as nursery:
            for slot in range(1, 21):
                nursery.start_soon(answer, slot)
            await wait_all_tasks_blocked()
            # The frame that the writer holds has left the send queue; two more may wait there.
            assert len(finished) <= 5
            for _ in range(20):
                await peer.hear(FrameType.RESULT)
        assert sorted(finished) == list(range(1, 21))
        assert not side.connection.writer.write_paused


@timed()
async def test_senders_go_on_when_others_have_discarded_what_filled_the_queue() -> None:
    async with greeted("server", lockstep_pair, Limits(max_unsent=10_000)) as (side, peer):
        rules, writer = side.rules, side.connection.writer
        assert isinstance(rules, ServerProtocol)
        kinds = {1: Kind.UNARY, 2: Kind.GENERATOR, 3: Kind.UNARY}
        for slot, kind in kinds.items():
            await peer.send(frame(FrameType.CALL, slot, bytes(call(kind=kind)[HEADER_SIZE:])))
        await wait_all_tasks_blocked()
        with side.connection.lock:
            rules.result(1, value(bytes(6_000)))
            writer.flush_soon()
        await wait_all_tasks_blocked()  # the writer waits for the peer with this one
        with side.connection.lock:
            rules.result(3, value(bytes(6_000)))
            rules.item(2, value(bytes(20_000)))
        outcome = Outcome()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(outcome.of, writer.wait_writable)
            await wait_all_tasks_blocked()
            assert not outcome.ended
            with side.connection.lock:
                rules.abandon(2)
            await peer.hear(FrameType.RESULT)  # the writer goes on, and waits again
            await wait_all_tasks_blocked()
            assert not writer.is_idle
            assert outcome.ended


@timed()
async def test_wait_writable_ends_with_the_connection() -> None:
    async with greeted("server", lockstep_pair, Limits(max_unsent=1)) as (side, peer):
        assert isinstance(side.rules, ServerProtocol)
        await peer.send(frame(FrameType.CALL, 1, bytes(call()[HEADER_SIZE:])))
        await wait_all_tasks_blocked()
        side.connection.writer.flush_soon()
        side.rules.result(1, value(bytes(100_000)))
        assert side.connection.writer.write_paused
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(side.connection.writer.wait_writable)
            await wait_all_tasks_blocked(0.01)
            side.connection.end(ConnectionError("over"))


@timed()
async def test_broken_connection_is_not_writable_until_it_has_ended() -> None:
    """Else every waiting task would queue frames that are never written."""
    async with greeted("server", unix_pair, Limits(max_unsent=1)) as (side, peer):
        assert isinstance(side.rules, ServerProtocol)
        assert isinstance(peer.stream, trio.SocketStream)
        await peer.send(*(frame(FrameType.CALL, n, bytes(call()[HEADER_SIZE:])) for n in (1, 2)))
        await wait_all_tasks_blocked(0.01)
        peer.stream.socket.shutdown(socket.SHUT_RD)
        for slot in (1, 2):  # the first write fails, the second waits
            side.rules.result(slot, value())
            side.connection.writer.flush()
            await wait_all_tasks_blocked(0.01)
        assert side.connection.writer.write_paused
        outcome = Outcome()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(outcome.of, side.connection.writer.wait_writable)
            await wait_all_tasks_blocked(0.01)
            assert not outcome.ended
            side.connection.end(ConnectionError("over"))
        assert outcome.ended


@timed()
async def test_wait_writable_returns_immediately_if_nothing_is_queued() -> None:
    async with greeted("server") as (side, _):
        assert not side.connection.writer.write_paused
        with trio.CancelScope() as scope:
            scope.cancel()
            await side.connection.writer.wait_writable()  # not a checkpoint: it need not wait
        assert not scope.cancelled_caught


# --------------------------------------------------------------------------- a sign of life


@timed(3600)
async def test_liveness_checks_send_at_most_one_ping_a_second(
    autojump_clock: MockClock,
) -> None:
    del autojump_clock
    async with greeted("server", limits=Limits(ping_interval=0)) as (side, peer):
        answers: list[bool] = []

        async def ask(after: float) -> None:
            await trio.sleep(after)
            answers.append(await side.connection.keepalive.is_alive())

        async with trio.open_nursery() as nursery:
            for tenth in range(30):
                nursery.start_soon(ask, tenth / 10)
            nursery.start_soon(peer.answer_pings, 5)
        assert answers == [True] * 30
        assert len(peer.heard) <= 1 + 5


@timed(3600)
async def test_liveness_check_fails_after_a_second_of_silence(
    autojump_clock: MockClock,
) -> None:
    del autojump_clock
    async with greeted("server", limits=Limits(ping_interval=0)) as (side, peer):
        await trio.sleep(1)
        started = trio.current_time()
        assert not await side.connection.keepalive.is_alive()
        assert trio.current_time() == pytest.approx(started + 1, abs=0.01)
        asked = await peer.hear(FrameType.PING)
        # No second PING is sent while one is pending.
        assert not await side.connection.keepalive.is_alive()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.answer_pings, 5)
            await peer.send(frame(FrameType.PING, 0, asked.payload, Flag.ACK))
            await wait_all_tasks_blocked()
            assert await side.connection.keepalive.is_alive()
        assert [heard.type for heard in peer.heard].count(FrameType.PING) == 2
