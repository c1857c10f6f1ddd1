"""TLS carries every byte, whatever the socket takes or gives, and reports how it ended."""

from __future__ import annotations

import random
import socket
import ssl
import threading
from collections.abc import Sequence

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from drivers_for_tests import Echo
from helpers import PATIENCE, timed
from jumpstarter import Limits, connect, serve_async
from jumpstarter._io.tls import TlsStream
from jumpstarter._io.tls_transport import TlsEngine, TlsTransport
from jumpstarter._io.transport import transport_for
from transports import make_tls_contexts, tls_contexts, tls_pair, unix_pair

STALL = 60.0


async def transports(*, buffer: int | None = None) -> tuple[TlsTransport, TlsTransport]:
    """Return the two ends of a connection, with a send buffer of this many bytes."""
    ours, theirs = await tls_pair()
    for stream in (ours, theirs):
        assert isinstance(stream, TlsStream)
        assert isinstance(stream.transport_stream, trio.SocketStream)
        if buffer is not None:
            stream.transport_stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
    pair = transport_for(ours), transport_for(theirs)
    assert all(isinstance(each, TlsTransport) for each in pair)
    return pair  # type: ignore[return-value]


async def read_all(transport: TlsTransport, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = await transport.read()
        assert piece, "the stream has ended"
        data += piece
    return data


# ------------------------------------------------------------------------------------- bytes


def carry(source: TlsEngine, target: TlsEngine, chance: random.Random) -> bytes:
    """Move ciphertext in pieces of any size, and return the plaintext."""
    ciphertext, received = source.take(), b""
    while ciphertext:
        size = chance.choice((1, 5, 100, 20_000, len(ciphertext)))
        target.feed(ciphertext[:size])
        received += target.decrypt() or b""
        ciphertext = ciphertext[size:]
    return received


@given(st.lists(st.binary(max_size=40_000), max_size=5), st.randoms(use_true_random=False))
def test_every_byte_arrives_whatever_the_ciphertext_is_cut_into(
    pieces: list[bytes], chance: random.Random
) -> None:
    client_context, server_context = tls_contexts()
    client = TlsEngine(client_context, "localhost", server_side=False)
    server = TlsEngine(server_context, None, server_side=True)
    while not (client.is_established and server.is_established):
        client.decrypt()
        carry(client, server, chance)
        carry(server, client, chance)
    for piece in pieces:
        client.encrypt(piece)
        server.encrypt(piece[::-1])
    assert carry(client, server, chance) == b"".join(pieces)
    assert carry(server, client, chance) == b"".join(piece[::-1] for piece in pieces)
    server.feed(b"")
    assert server.decrypt() == b""


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_read_finds_what_came_behind_tickets_and_what_was_left(version: ssl.TLSVersion) -> None:
    client_context, server_context = make_tls_contexts()
    client_context.maximum_version = version
    server_context.num_tickets = 2  # sent behind the handshake, as by default
    chance = random.Random(1)
    client = TlsEngine(client_context, "localhost", server_side=False)
    server = TlsEngine(server_context, None, server_side=True)
    while not server.is_established:
        client.decrypt()
        carry(client, server, chance)
        if not server.is_established:
            carry(server, client, chance)
    data = chance.randbytes(20_000)  # two records
    server.encrypt(data)
    ciphertext = server.take()
    client.feed(ciphertext[:-3])
    assert client.decrypt(10) == data[:10]
    assert client.decrypt(20_000) == data[10:16_384]
    assert client.decrypt() is None
    client.feed(ciphertext[-3:])  # far less than the plaintext that it completes
    assert client.decrypt() == data[16_384:]
    assert client.decrypt() is None
    client.feed(b"")
    assert client.decrypt() == b""


@timed()
async def test_what_the_socket_does_not_take_leaves_with_the_next_write() -> None:
    ours, theirs = await transports(buffer=4096)
    data = random.Random(1).randbytes(1_000_000)
    rest = ours.try_write([data[:500_000], data[500_000:]])
    assert rest
    assert not rest[0]  # stands for ciphertext that the transport keeps
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ours.write, rest, STALL)
        assert await read_all(theirs, len(data)) == data
    assert ours.try_write([b"after it"]) == []
    assert await read_all(theirs, 8) == b"after it"
    await ours.aclose()
    await theirs.aclose()


@timed()
async def test_nothing_is_lost_by_a_cancelled_read() -> None:
    ours, theirs = await transports()
    with trio.move_on_after(0):
        await theirs.read()
    assert ours.try_write([b"one", b"", b"two"]) == []
    assert await read_all(theirs, 6) == b"onetwo"
    assert theirs.try_read() is None
    await ours.aclose()
    await theirs.aclose()


@timed()
async def test_bulk_goes_both_ways_concurrently() -> None:
    ours, theirs = await transports(buffer=8192)
    down, up = (random.Random(seed).randbytes(2_000_000) for seed in (2, 3))

    async def send(transport: TlsTransport, data: bytes) -> None:
        for start in range(0, len(data), 150_000):
            await transport.write([data[start : start + 150_000]], STALL)

    async def receive(transport: TlsTransport, data: bytes) -> None:
        assert await read_all(transport, len(data)) == data

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send, ours, up)
        nursery.start_soon(send, theirs, down)
        nursery.start_soon(receive, ours, down)
        nursery.start_soon(receive, theirs, up)
    await ours.aclose()
    await theirs.aclose()


# --------------------------------------------------------------------------------------- ends


@timed()
async def test_a_peer_that_closes_tls_and_keeps_the_socket_has_ended_the_stream() -> None:
    ours, theirs = await transports()
    theirs._engine.encrypt(b"the last data")
    with pytest.raises(ssl.SSLWantReadError):  # for the answer, which a peer need not send
        theirs._engine._tls.unwrap()
    await theirs._stream.send_all(theirs._engine.take())
    received = b""
    while data := await ours.read():
        received += data
    assert received == b"the last data"
    assert await ours.read() == b""
    assert ours.try_read() == b""
    await ours.aclose()
    await theirs.aclose()


@timed()
async def test_a_stream_that_is_cut_ends_after_what_was_complete() -> None:
    ours, theirs = await transports()
    assert ours.try_write([b"whole"]) == []
    ours._engine.encrypt(bytes(1000))
    await ours._stream.send_all(ours._engine.take()[:500])  # half of a record
    await ours.aclose()
    assert await read_all(theirs, 5) == b"whole"
    assert await theirs.read() == b""
    await theirs.aclose()


@timed()
async def test_bytes_that_are_not_tls_break_the_stream() -> None:
    ours, theirs = await transports()
    await ours._stream.send_all(bytes(100))
    with pytest.raises(trio.BrokenResourceError, match=r"read failed: \[SSL"):
        await theirs.read()
    await ours.aclose()
    await theirs.aclose()


def with_a_broken_record(engine: TlsEngine, whole: Sequence[bytes] = (b"one, ", b"two")) -> bytes:
    """Return the ciphertext of whole records, of one changed on its way, and of another."""
    records = []
    for data in (*whole, b"broken", b"after"):
        engine.encrypt(data)
        records.append(engine.take())
    broken = records[len(whole)]
    records[len(whole)] = broken[:-1] + bytes([broken[-1] ^ 1])
    return b"".join(records)


@timed()
async def test_bytes_before_a_broken_record_arrive_before_the_error() -> None:
    ours, theirs = await transports()
    await ours._stream.send_all(with_a_broken_record(ours._engine))
    assert await read_all(theirs, 8) == b"one, two"
    for _ in range(2):
        with pytest.raises(trio.BrokenResourceError, match=r"read failed: \[SSL"):
            await theirs.read()
    await ours.aclose()
    await theirs.aclose()


@pytest.mark.parametrize("whole", [(), (b"one, ", b"two")])
@timed()
async def test_a_stream_receives_what_comes_before_a_broken_record(whole: Sequence[bytes]) -> None:
    ours, theirs = await tls_pair()
    assert isinstance(ours, TlsStream)
    await ours.transport_stream.send_all(with_a_broken_record(ours._engine, whole))
    for data, limit in zip(whole, (5, None), strict=False):
        assert await theirs.receive_some(limit) == data
    for _ in range(2):
        with pytest.raises(trio.BrokenResourceError):
            await theirs.receive_some()
    await ours.aclose()
    await theirs.aclose()


@timed()
async def test_a_peer_that_hangs_up_amid_the_handshake_breaks_the_stream() -> None:
    ours, theirs = await unix_pair()
    server = transport_for(TlsStream(theirs, tls_contexts()[1], server_side=True))
    await ours.aclose()
    with pytest.raises(trio.BrokenResourceError, match="EOF"):
        await server.read()
    await server.aclose()


@timed()
async def test_a_write_that_would_need_a_read_is_an_error() -> None:
    """This stream has not shaken hands, as one that renegotiates has not."""
    ours, theirs = await unix_pair()
    transport = transport_for(TlsStream(ours, tls_contexts()[0], "localhost"))
    with pytest.raises(OSError, match=r"^the peer renegotiates, which is"):
        transport.try_write([b"data"])
    await transport.aclose()
    await theirs.aclose()


@timed()
async def test_answers_that_the_peer_does_not_read_break_the_stream() -> None:
    ours, theirs = await transports()
    rest = ours.try_write([bytes(10_000_000)])
    assert rest  # the socket is full
    for size in (1000, 100_000):
        ours._engine._outgoing.write(bytes(size))  # as alerts against renegotiation do
        assert theirs.try_write([b"x"]) == []
        assert await ours.read() == b"x"
    with pytest.raises(trio.BrokenResourceError, match=r": the peer asks for answers"):
        await ours.read()
    await ours.aclose()
    await theirs.aclose()


@timed()
async def test_a_client_that_does_not_shake_hands_is_disconnected_in_time() -> None:
    _, context = tls_contexts()
    limits = Limits(hello_timeout=0.2)
    async with serve_async(
        Echo(), "tls://localhost:0", ssl_context=context, limits=limits
    ) as server:
        port = int(server.address.rpartition(":")[2])
        for said in (b"", b"\x16\x03\x01\x02\x00"):  # silence, and the beginning of a ClientHello
            async with await trio.open_tcp_stream("localhost", port) as stream:
                await stream.send_all(said)
                while await stream.receive_some():
                    pass


# ---------------------------------------------------------------------------------- whole calls


@timed(PATIENCE)
async def test_threads_share_a_tls_connection() -> None:
    """Each thread may read and write for all others; every byte is compared."""
    client_context, server_context = tls_contexts()

    def use(address: str) -> None:
        with connect(address, ssl_context=client_context) as client:
            failures: list[BaseException] = []

            def call(seed: int) -> None:
                chance = random.Random(seed)
                try:
                    for _ in range(50):
                        value = chance.randbytes(chance.choice((0, 10, 1000, 70_000)))
                        method = chance.choice(("echo", "echo_async"))
                        assert client.call(method, value) == value
                except BaseException as exc:
                    failures.append(exc)
                    raise

            threads = [threading.Thread(target=call, args=(seed,)) for seed in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(PATIENCE)
            assert not failures

    async with serve_async(Echo(), "tls://localhost:0", ssl_context=server_context) as server:
        await trio.to_thread.run_sync(use, server.address)
