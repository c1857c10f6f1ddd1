"""Tests of `_exporter.stream_forwarder`: both directions, with Trio and anyio streams.

The client's side is a memory stream here, since a forwarder needs no more than Trio's interface;
`test_dispatch` tests raw streams through a whole connection.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any, cast

import anyio
import anyio.abc
import anyio.streams.stapled
import pytest
import trio
import trio.testing
from trio.testing import wait_all_tasks_blocked

from jumpstarter._exporter.stream_forwarder import Device, StreamForwarder, device_stream
from jumpstarter._io.byte_stream import SlotStream
from jumpstarter._io.ownership import Ownership, SharedWakeup
from jumpstarter._util.background import open_background

DEADLINE = 60.0  # seconds, for steps that take milliseconds

Pair = tuple[Any, Any]
Client = trio.StapledStream[trio.testing.MemorySendStream, trio.testing.MemoryReceiveStream]


# --- devices: a stream as a driver yields it, and its far end ---


async def trio_memory() -> Pair:
    return trio.testing.memory_stream_pair()


async def trio_socket() -> Pair:
    ours, theirs = trio.socket.socketpair()
    return trio.SocketStream(ours), trio.SocketStream(theirs)


async def anyio_socket() -> Pair:
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    accepted: list[anyio.abc.SocketStream] = []
    someone = trio.Event()

    async def accept(stream: anyio.abc.SocketStream) -> None:
        accepted.append(stream)
        someone.set()

    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, accept)
        connected = await anyio.connect_tcp("127.0.0.1", port)
        await someone.wait()
        tasks.cancel_scope.cancel()
    return connected, accepted[0]


async def anyio_memory() -> Pair:
    to_far, from_near = anyio.create_memory_object_stream[bytes](10)
    to_near, from_far = anyio.create_memory_object_stream[bytes](10)
    return (
        anyio.streams.stapled.StapledObjectStream(to_far, from_far),
        anyio.streams.stapled.StapledObjectStream(to_near, from_near),
    )


class NoHalfClose(trio.abc.Stream):
    """A stream that cannot close one direction alone, like TLS or a serial port."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._stream.receive_some(max_bytes)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()


async def no_half_close() -> Pair:
    ours, theirs = trio.testing.memory_stream_pair()
    return NoHalfClose(ours), theirs


HALF_CLOSING = [trio_memory, trio_socket, anyio_socket, anyio_memory]
ALL = [*HALF_CLOSING, no_half_close]
over_all_devices = pytest.mark.parametrize("make", ALL)
over_half_closing_devices = pytest.mark.parametrize("make", HALF_CLOSING)
Maker = Callable[[], Awaitable[Pair]]


class Scripted:
    """A device with Trio's interface that runs the functions of a test."""

    def __init__(
        self,
        receive: Callable[[], Awaitable[bytes]] = trio.sleep_forever,
        send: Callable[[bytes], Awaitable[None]] | None = None,
    ) -> None:
        self.taken = b""
        self._receive = receive
        self._send = send

    async def receive_some(self) -> bytes:
        return await self._receive()

    async def send_all(self, data: bytes) -> None:
        if self._send is not None:
            await self._send(data)
        self.taken += data


class Patient:
    """The client's stream as a forwarder sees it; it cannot report whether data has arrived."""

    pending = True

    def __init__(self, stream: Client) -> None:
        self.send_all = stream.send_all
        self.send_eof = stream.send_eof
        self.receive_some = stream.receive_some


def wakeup() -> SharedWakeup:
    """Return what wakes the forwarder, of a connection that no thread reads."""
    return SharedWakeup(Ownership(-1, lambda exc: pytest.fail(str(exc))))


def client_pair() -> tuple[Client, SlotStream]:
    client, exporter = trio.testing.memory_stream_pair()
    return client, cast("SlotStream", Patient(exporter))


@asynccontextmanager
async def opened(make: Maker) -> AsyncIterator[Pair]:
    """Yield a device's stream and its far end, then close both."""
    near, far = await make()
    async with near, far:
        yield near, far


@asynccontextmanager
async def bridged(device: object) -> AsyncIterator[tuple[Client, StreamForwarder]]:
    """Run a forwarder to a device; yield the client's end, then wait until the forwarder ends."""
    client, exporter = client_pair()
    bridge = StreamForwarder(exporter, wakeup())
    ended = trio.Event()
    failures: list[Exception] = []

    async def run() -> None:
        try:
            await bridge.run(device_stream(device))
        except Exception as exc:  # noqa: BLE001 - raised again below, where the test expects it
            failures.append(exc)
        ended.set()

    with trio.fail_after(DEADLINE):
        async with open_background() as nursery:
            nursery.start_soon(run)
            yield client, bridge
            await ended.wait()
    if failures:
        raise failures[0]


async def read_all(stream: trio.abc.ReceiveStream) -> bytes:
    return b"".join([bytes(data) async for data in stream])


async def read_far(far: Device) -> bytes:
    received = b""
    while data := await far.receive():
        received += data
    return received


# --- both directions ---


@over_all_devices
async def test_bytes_go_both_ways_at_once(make: Maker) -> None:
    down, up = bytes(range(256)) * 500, bytes(range(255, -1, -1)) * 500
    received = bytearray()

    async def send_from(far: Device) -> None:
        for offset in range(0, len(down), 10_000):
            await far.send(down[offset : offset + 10_000])
        await far.send_eof()

    async def receive_at(far: Device) -> None:
        while len(received) < len(up):
            received.extend(await far.receive())

    async with opened(make) as (near, far), bridged(near) as (client, _):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_from, device_stream(far))
            nursery.start_soon(receive_at, device_stream(far))
            nursery.start_soon(client.send_all, up)
            assert await read_all(client) == down
        await client.send_eof()
    assert received == up


@over_half_closing_devices
async def test_the_clients_half_ends_and_the_device_still_answers(make: Maker) -> None:
    async with opened(make) as (near, far_stream), bridged(near) as (client, _):
        far = device_stream(far_stream)
        await client.send_all(b"question")
        await client.send_eof()
        assert await read_far(far) == b"question"
        await far.send(b"answer")
        await far.send_eof()
        assert await read_all(client) == b"answer"


@over_all_devices
async def test_the_devices_half_ends_and_the_client_still_sends(make: Maker) -> None:
    async with opened(make) as (near, far_stream), bridged(near) as (client, _):
        far = device_stream(far_stream)
        await far.send(b"greeting")
        await far.send_eof()
        assert await read_all(client) == b"greeting"
        await client.send_all(b"late")
        assert await far.receive() == b"late"
        await client.send_eof()


async def test_a_device_without_half_close_goes_on_after_the_clients_half_has_ended() -> None:
    near, far = await no_half_close()
    async with bridged(near) as (client, _):
        await client.send_all(b"question")
        await client.send_eof()
        assert await far.receive_some() == b"question"
        await wait_all_tasks_blocked()
        await far.send_all(b"answer")
        await far.send_eof()
        assert await read_all(client) == b"answer"


async def test_the_bridge_is_there_until_both_directions_have_ended() -> None:
    near, far = await trio_memory()
    async with bridged(near) as (client, _), trio.open_nursery() as nursery:
        await client.send_eof()
        await wait_all_tasks_blocked()
        nursery.start_soon(far.send_all, b"still there")
        assert await client.receive_some() == b"still there"
        await far.send_eof()


async def test_a_bridge_that_is_cancelled_ends_both_directions() -> None:
    near, _far = await trio_memory()
    with trio.CancelScope() as scope:
        async with bridged(near):
            await wait_all_tasks_blocked()
            scope.cancel()
    assert scope.cancelled_caught


# --- the client closes ---


async def test_what_the_client_has_sent_before_it_closed_reaches_the_device() -> None:
    async def slowly(_data: bytes) -> None:
        await wait_all_tasks_blocked()

    device = Scripted(send=slowly)
    async with bridged(device) as (client, bridge):
        for piece in (b"re", b"boot", b"\n"):
            await client.send_all(piece)
        await client.send_eof()
        bridge.client_closed()
    assert device.taken == b"reboot\n"


@over_all_devices
async def test_a_device_that_never_stops_does_not_outlive_the_client(make: Maker) -> None:
    async with opened(make) as (near, far_stream), bridged(near) as (client, bridge):
        far = device_stream(far_stream)
        await far.send(b"boot log")
        assert await client.receive_some() == b"boot log"
        await client.send_eof()
        bridge.client_closed()


async def test_a_client_may_close_before_the_device_is_there() -> None:
    client, exporter = client_pair()
    bridge = StreamForwarder(exporter, wakeup())
    bridge.client_closed()
    await client.send_all(b"reboot\n")
    await client.send_eof()
    device = Scripted()
    with trio.fail_after(DEADLINE):
        await bridge.run(device_stream(device))
    assert device.taken == b"reboot\n"


# --- the device fails ---


def failing(failure: Exception) -> Callable[..., Awaitable[Any]]:
    async def fail(*_args: object) -> None:
        await trio.lowlevel.checkpoint()
        raise failure

    return fail


FAILURES = [
    OSError("device unplugged"),
    trio.BrokenResourceError("device unplugged"),
    anyio.BrokenResourceError("device unplugged"),
    ExceptionGroup("both", [OSError("device unplugged"), ValueError("too")]),
]


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
async def test_a_failure_to_receive_ends_the_bridge_with_it(failure: Exception) -> None:
    with pytest.raises(type(failure)) as caught:
        async with bridged(Scripted(receive=failing(failure))):
            pass
    assert caught.value is failure


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
async def test_a_failure_to_send_ends_the_bridge_with_it(failure: Exception) -> None:
    with pytest.raises(type(failure)) as caught:
        async with bridged(Scripted(send=failing(failure))) as (client, _):
            await client.send_all(b"x")
    assert caught.value is failure


async def test_what_a_device_says_when_it_takes_no_more_reaches_the_client() -> None:
    refused = trio.Event()
    words = [b"413 Content", b" Too Large", b""]

    async def refuse(_data: bytes) -> None:
        refused.set()
        raise OSError("broken pipe")

    async def say() -> bytes:
        await refused.wait()
        return words.pop(0)

    heard = b""
    with pytest.raises(OSError, match="broken pipe"):  # noqa: PT012 - the bridge raises
        async with bridged(Scripted(send=refuse, receive=say)) as (client, _):
            await client.send_all(b"too much")
            heard = await read_all(client)
    assert heard == b"413 Content Too Large"


async def test_of_two_failures_the_first_is_told() -> None:
    unplugged, jammed = OSError("unplugged"), OSError("jammed")
    sending = trio.Event()

    async def unplug() -> bytes:
        await sending.wait()
        raise unplugged

    async def jam(_data: bytes) -> None:
        sending.set()
        try:
            await trio.sleep_forever()
        finally:
            raise jammed  # raised instead of Cancelled, when the other direction has failed

    with pytest.raises(OSError, match="unplugged") as caught:
        async with bridged(Scripted(send=jam, receive=unplug)) as (client, _):
            await client.send_all(b"x")
    assert caught.value is unplugged


@over_all_devices
async def test_a_device_that_goes_away_fails_what_is_sent_to_it(make: Maker) -> None:
    async def talk_to_nobody(near: Any, far: Any) -> None:
        async with bridged(near) as (client, _):
            await far.aclose()
            assert await read_all(client) == b""
            for _ in range(1000):  # a socket reports it at the second send, or a little later
                await client.send_all(b"x")

    async with opened(make) as (near, far):
        with pytest.raises((trio.BrokenResourceError, anyio.BrokenResourceError)):
            await talk_to_nobody(near, far)


# --- the task that forwards the client's data ---


whose: ContextVar[str] = ContextVar("whose", default="the reader's")


class Telling:
    """A client's stream that reports whether data has arrived; the device sends nothing back."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = list(pieces)
        self.forwarder = StreamForwarder(cast("SlotStream", self), wakeup())
        self._arrived = trio.Event()

    @property
    def pending(self) -> bool:
        return bool(self.pieces)

    async def receive_some(self) -> bytes:
        await trio.lowlevel.checkpoint()
        while not self.pieces:
            await self._arrived.wait()
        return self.pieces.pop(0)

    async def arrive(self, *pieces: bytes) -> int:
        """Deliver pieces; return how many more tasks exist once the pieces are forwarded."""
        before = living()
        self.pieces += pieces
        self.forwarder.arrived()
        self._arrived.set()
        self._arrived = trio.Event()
        await wait_all_tasks_blocked()
        return living() - before


def living() -> int:
    return trio.lowlevel.current_statistics().tasks_living


@asynccontextmanager
async def told(device: object) -> AsyncIterator[Telling]:
    """Run a forwarder that is notified when data has arrived."""
    client = Telling()
    with trio.fail_after(DEADLINE):
        async with open_background() as nursery:
            nursery.start_soon(client.forwarder.run, device_stream(device))
            await wait_all_tasks_blocked()
            yield client


async def test_a_bridge_at_rest_has_the_task_of_its_call_and_no_other() -> None:
    device = Scripted()
    async with told(device) as client:
        for piece in (b"one", b"two", b"three"):
            assert await client.arrive(piece) == 0
    assert device.taken == b"onetwothree"


async def test_where_the_client_sends_again_and_again_the_task_that_carries_it_stays() -> None:
    device = Scripted()
    async with told(device) as client:
        for _ in range(15):
            assert await client.arrive(b"x") == 0
        assert await client.arrive(b"y") == 1
        assert await client.arrive(b"z") == 0
        assert await client.arrive(b"") == -1
        assert await client.arrive(b"never") == 0
    assert device.taken == b"x" * 15 + b"yz"


async def test_what_is_carried_to_the_device_has_the_context_of_the_call() -> None:
    seen: list[str] = []

    async def look(_data: bytes) -> None:
        seen.append(whose.get())

    async def call() -> None:
        whose.set("the call's")
        await client.forwarder.run(device_stream(Scripted(send=look)))

    client = Telling(b"at once")
    async with open_background() as nursery:
        nursery.start_soon(call)
        await wait_all_tasks_blocked()
        await client.arrive(b"later")
    assert seen == ["the call's", "the call's"]


async def test_a_scope_of_the_drivers_own_cancels_what_is_being_sent_and_waits_for_it() -> None:
    log: list[str] = []

    async def send(_data: bytes) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.lowlevel.checkpoint()
            log.append("cleaned up")

    async def cancel_once_blocked() -> None:
        await wait_all_tasks_blocked()
        scope.cancel()

    with trio.fail_after(DEADLINE):
        async with open_background() as nursery:
            nursery.start_soon(cancel_once_blocked)
            with trio.CancelScope(shield=True) as scope:
                await Telling(b"x").forwarder.run(device_stream(Scripted(send=send)))
    assert scope.cancelled_caught
    assert log == ["cleaned up"]


async def test_a_device_that_is_sent_to_is_shielded_by_the_driver_as_one_that_is_read() -> None:
    async def send(_data: bytes) -> None:
        for _ in range(5):
            await trio.lowlevel.checkpoint()
        shield.cancel()

    device = Scripted(send=send)
    shield = trio.CancelScope(shield=True)

    async def call() -> None:
        with shield:
            await client.forwarder.run(device_stream(device))

    client = Telling()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(call)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        client.pieces.append(b"still taken")
        client.forwarder.arrived()
    assert device.taken == b"still taken"


async def test_what_arrives_while_no_bridge_runs_begins_nothing() -> None:
    client, device = Telling(), Scripted()
    assert await client.arrive(b"early") == 0
    client.forwarder.client_closed()
    client.pieces.append(b"")
    await client.forwarder.run(device_stream(device))
    assert await client.arrive(b"late") == 0
    assert device.taken == b"early"


# --- which objects are devices ---


async def test_an_empty_piece_of_an_anyio_stream_is_not_its_end() -> None:
    async with opened(anyio_memory) as (near, far), bridged(near) as (client, _):
        for piece in (b"", b"one", b"", b"", b"two"):
            await far.send(piece)
        await far.send_eof()
        assert await read_all(client) == b"onetwo"
        await client.send_eof()


@pytest.mark.parametrize("item", [1_000_000, "text", [1, 2], None], ids=repr)
async def test_an_object_stream_of_something_else_than_bytes_fails(item: Any) -> None:
    class Objects:
        async def receive(self) -> Any:
            return item

        async def send(self, item: Any) -> None: ...

    with pytest.raises(TypeError, match=rf"bytes-like.*{type(item).__name__}"):
        async with bridged(Objects()):
            pass


@pytest.mark.parametrize("data", [b"data", bytearray(b"data"), memoryview(b"data")], ids=repr)
async def test_a_device_may_give_any_buffer_of_bytes(data: Any) -> None:
    class Buffers:
        def __init__(self) -> None:
            self.pieces = [data, b""]

        async def receive_some(self) -> Any:
            return self.pieces.pop(0)

        async def send_all(self, data: bytes) -> None: ...

    async with bridged(Buffers()) as (client, _):
        assert await read_all(client) == b"data"
        await client.send_eof()


@pytest.mark.parametrize("thing", [None, 5, "stream", b"", object(), sys.stdin], ids=repr)
def test_what_is_no_stream_is_named(thing: object) -> None:
    with pytest.raises(TypeError, match=rf"Trio or an anyio stream, not {type(thing).__name__}"):
        device_stream(thing)


async def test_without_anyio_its_interface_is_understood_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "anyio")

    class Once:
        def __init__(self) -> None:
            self.closed = False

        async def receive(self) -> bytes:
            if self.closed:
                raise EOFError("its own way to end")
            self.closed = True
            return b"data"

        async def send(self, data: bytes) -> None: ...

    with pytest.raises(EOFError, match="its own way"):
        async with bridged(Once()) as (client, _):
            assert await client.receive_some() == b"data"


def test_a_driver_that_does_not_use_anyio_does_not_import_it() -> None:
    script = "import sys, jumpstarter.driver; sys.exit('anyio' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=30)
