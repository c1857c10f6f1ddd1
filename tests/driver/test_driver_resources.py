"""Tests of `jumpstarter.driver._resources` and of the exporter's side of lending."""

from __future__ import annotations

import io
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast
from uuid import UUID, uuid4

import anyio
import pytest
import trio
import trio.testing
from trio.testing import wait_all_tasks_blocked

from drivers_for_tests import Plain
from helpers import answered, begin, timed
from jumpstarter import connect_async, serve_async
from jumpstarter._protocol import events as ev
from jumpstarter._protocol.frames import Kind
from jumpstarter.driver import export
from jumpstarter.errors import (
    CallCancelled,
    Code,
    DriverConnectionError,
    DriverError,
    DriverInvalidArgument,
    ResourceError,
)
from jumpstarter.testing import client_for_async
from resources_for_tests import Library, Reader


@asynccontextmanager
async def library() -> AsyncIterator[tuple[Library, Reader]]:
    """Yield a driver and its client, then check that nothing is lent any more."""
    driver = Library()
    async with client_for_async(driver) as client:
        yield driver, cast("Reader", client)
        assert driver.resources == {}


# ------------------------------------------------------------------- resources that are refused


@timed()
async def test_a_resource_can_be_used_once() -> None:
    async with (
        library() as (driver, client),
        client.resource_async(io.BytesIO(b"abc")) as handle,
    ):
        assert await client.call_async("read_some", handle, 10) == b"abc"
        with pytest.raises(DriverInvalidArgument, match="was used already"):
            await client.call_async("read", handle)
        assert UUID(handle) in driver.resources


@timed()
async def test_a_resource_can_be_used_by_one_at_a_time() -> None:
    async with (
        library() as (driver, client),
        trio.open_nursery() as nursery,
        client.resource_async(io.BytesIO(b"abc")) as handle,
    ):
        first = await begin(nursery, client.call_async, "read_slowly", handle)
        await driver.opened.wait()
        with pytest.raises(DriverInvalidArgument, match="is being used"):
            await client.call_async("read", handle)
        driver.let_go.set()
        await wait_all_tasks_blocked()
        assert first.error is None


@timed()
async def test_a_handle_is_void_behind_its_block() -> None:
    async with library() as (_, client):
        async with client.resource_async(io.BytesIO(b"abc")) as handle:
            pass
        with pytest.raises(DriverInvalidArgument, match=r"there is no resource .* at this driver"):
            await client.call_async("read", handle)


@pytest.mark.parametrize("handle", ["", "abc", 7, None, "file:///etc/passwd", str(uuid4())])
@timed()
async def test_a_value_that_is_not_a_handle_is_refused(handle: Any) -> None:
    async with library() as (_, client):
        with pytest.raises(DriverInvalidArgument, match="resource") as caught:
            await client.call_async("read", handle)
        assert caught.value.remote_type == "ResourceError"


@timed()
async def test_a_resource_is_lent_to_one_driver_only() -> None:
    driver = Library(children={"other": Library()})
    async with client_for_async(driver) as client:
        reader = cast("Reader", client)
        async with reader.resource_async(io.BytesIO(b"abc")) as handle:
            with pytest.raises(DriverInvalidArgument, match="lent to another one"):
                await client.children["other"].call_async("read", handle)
            assert await client.call_async("read_some", handle, 3) == b"abc"


@timed()
async def test_a_resource_is_for_its_own_client_only() -> None:
    driver = Library()
    with tempfile.TemporaryDirectory() as directory:
        address = f"unix:{directory}/socket"
        async with (
            serve_async(driver, address),
            connect_async(address, allow=["resources_for_tests.*"]) as one,
            connect_async(address, allow=["resources_for_tests.*"]) as other,
            cast("Reader", one).resource_async(io.BytesIO(b"abc")) as handle,
        ):
            with pytest.raises(DriverInvalidArgument, match="lent by another client"):
                await other.call_async("read", handle)
            assert await one.call_async("read_some", handle, 3) == b"abc"


@timed()
async def test_what_was_lent_for_reading_cannot_be_written_and_the_other_way_round(
    tmp_path: Path,
) -> None:
    async with library() as (_, client):
        async with client.resource_async(io.BytesIO(b"abc")) as handle:
            with pytest.raises(DriverInvalidArgument, match="lent to be read"):
                await client.call_async("write", handle, b"x", 1)
        with pytest.raises(DriverInvalidArgument, match="lent to be written"):
            async with client.local_file_async(tmp_path / "out", write=True) as handle:
                await client.call_async("read", handle)


@pytest.mark.parametrize(
    "arguments",
    [
        (1, "up", ""),
        (1, "both", "lzma"),
        (1, "read", "gzip"),
        (0, "read", ""),
        (2, "read", ""),
        ("1", "read", ""),
    ],
)
@timed()
async def test_a_loan_that_cannot_be_is_refused(arguments: tuple[Any, ...]) -> None:
    async with answered(Library()) as client:
        await client.greet()
        slot = await client.call("lend", *arguments, kind=Kind.STREAM, target=0)
        with pytest.raises(DriverInvalidArgument):
            await client.answer(slot)


@timed()
async def test_bytes_in_the_wrong_direction_end_the_loan() -> None:
    driver = Library()
    async with answered(driver) as client:
        await client.greet()
        slot = await client.call("lend", 1, "write", "", kind=Kind.STREAM, target=0)
        client.rules.data(slot, b"for whom?")
        await client.send()
        with pytest.raises(DriverInvalidArgument, match="was to write"):
            await client.answer(slot)
        assert driver.resources == {}


@timed()
async def test_a_large_read_is_capped_where_the_driver_says_so() -> None:
    async with library() as (_, client):
        for compress in (False, True):
            source = io.BytesIO(bytes(100_000))
            async with client.resource_async(source, compress=compress) as handle:
                with pytest.raises(DriverInvalidArgument, match="more than the 50,000 bytes"):
                    await client.call_async("read", handle, 50_000)


# --------------------------------------------------------------------------- the end of a loan


@timed()
async def test_a_loan_ends_with_its_connection() -> None:
    driver = Library()
    async with answered(driver) as client:
        await client.greet()
        await client.call("lend", 1, "read", "", kind=Kind.STREAM, target=0)
        await client.call("lend", 1, "write", "", kind=Kind.STREAM, target=0)
        await wait_all_tasks_blocked()
        assert len(driver.resources) == 2
    assert driver.resources == {}


@timed()
async def test_a_driver_that_reads_never_takes_a_lost_client_for_the_end() -> None:
    driver = Library()
    async with client_for_async(driver) as client, trio.open_nursery() as nursery:
        reader = cast("Reader", client)
        with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the body raises
            async with reader.resource_async(io.BytesIO(bytes(10_000_000))) as handle:
                call = await begin(nursery, client.call_async, "read_slowly", handle)
                await driver.opened.wait()
                raise ZeroDivisionError
        driver.let_go.set()
        await wait_all_tasks_blocked()
        call.failed(DriverConnectionError, "taken back")
        assert isinstance(driver.failures[0], trio.BrokenResourceError)


@timed()
async def test_a_driver_that_writes_learns_that_the_client_is_gone(tmp_path: Path) -> None:
    driver = Library()
    async with client_for_async(driver) as client, trio.open_nursery() as nursery:
        reader = cast("Reader", client)
        with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the body raises
            async with reader.local_file_async(tmp_path / "out", write=True) as handle:
                call = await begin(nursery, client.call_async, "write_slowly", handle)
                await driver.opened.wait()
                raise ZeroDivisionError
        driver.let_go.set()
        await wait_all_tasks_blocked()
        call.failed(DriverConnectionError, "")
        assert os.listdir(tmp_path) == []  # noqa: PTH208 - a Trio task may do this


@timed()
async def test_cancelling_the_call_leaves_nothing_lent() -> None:
    driver = Library()
    async with client_for_async(driver) as client:
        reader = cast("Reader", client)
        with trio.move_on_after(60) as scope:
            async with (
                reader.resource_async(io.BytesIO(bytes(10_000_000))) as handle,
                trio.open_nursery() as nursery,
            ):
                nursery.start_soon(client.call_async, "read_slowly", handle)
                await driver.opened.wait()
                scope.cancel()
        assert scope.cancelled_caught
        assert driver.resources == {}
        assert isinstance(driver.failures[0], trio.Cancelled)


@timed()
async def test_a_thread_that_waits_for_a_cancelled_client_ends() -> None:
    driver = Library()
    silent, _ = trio.testing.memory_stream_pair()
    async with client_for_async(driver) as client:
        reader = cast("Reader", client)
        async with reader.resource_async(silent) as handle:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.call_async, "read_in_thread", handle)
                await driver.opened.wait()
                nursery.cancel_scope.cancel()
            with pytest.raises(DriverInvalidArgument, match="was used already"):
                await client.call_async("read", handle)
        assert driver.resources == {}


@timed()
async def test_a_client_that_closes_before_the_driver_has_come_is_heard() -> None:
    driver = Library()
    async with answered(driver) as client:
        await client.greet()
        slot = client.queue("lend", 1, "read", "", kind=Kind.STREAM, target=0)
        client.rules.data(slot, b"", end=True)
        await client.send()
        await wait_all_tasks_blocked()
        assert len(driver.resources) == 1
        await client.cancel(slot, Code.CLOSE)
        assert await client.answer(slot) is None
        assert driver.resources == {}


# -------------------------------------------------------------------------- forms of a resource


class Kinds(Plain):
    """A driver that uses a resource in its other forms."""

    @classmethod
    def client(cls) -> str:
        return "resources_for_tests.Reader"

    @export
    async def receive(self, handle: str) -> list[Any]:
        """Read the resource as an anyio stream."""
        async with self.resource(handle) as stream:
            pieces: list[Any] = [await stream.receive()]
            try:
                await stream.receive()
            except anyio.EndOfStream:
                pieces.append("end")
            return pieces

    @export
    async def send(self, handle: str) -> None:
        """Write to the resource as an anyio stream."""
        async with self.resource(handle) as stream:
            await stream.wait_send_all_might_not_block()
            await stream.send(b"sent")

    @export
    async def leave(self, handle: str) -> str:
        """Close the stream within the block, which has no effect."""
        async with self.resource(handle) as stream, stream:
            pass
        return "left"

    @export
    async def block(self, handle: str) -> None:
        """Use the form for plain methods in a Trio task, which fails."""
        with self.resource(handle):
            raise AssertionError

    @export
    def file(self, handle: str) -> list[Any]:
        """Return what the file of a plain method reads, and its properties."""
        with self.resource(handle) as file:
            return [file.read(2), file.readable(), file.writable(), file.read()]


@asynccontextmanager
async def kinds() -> AsyncIterator[Reader]:
    async with client_for_async(Kinds()) as client:
        yield cast("Reader", client)


@timed()
async def test_a_resource_can_be_used_as_an_anyio_stream() -> None:
    async with kinds() as client:
        async with client.resource_async(io.BytesIO(b"abc")) as handle:
            assert await client.call_async("receive", handle) == [b"abc", "end"]
        sink = io.BytesIO()
        async with client.resource_async(sink, write=True) as handle:
            await client.call_async("send", handle)
        assert sink.getvalue() == b"sent"


class Keeper(Plain):
    """A driver that uses a stream after its block has ended."""

    @classmethod
    def client(cls) -> str:
        return "resources_for_tests.Reader"

    @export
    async def go_on(self, handle: str) -> None:
        async with self.resource(handle) as stream:
            pass
        if stream.is_readable:
            await stream.receive_some()
        else:
            await stream.send_all(b"late")


@timed()
async def test_a_stream_ends_with_the_block_that_gave_it() -> None:
    async with client_for_async(Keeper()) as plain:
        client = cast("Reader", plain)
        for write in (False, True):
            async with client.resource_async(io.BytesIO(b"abc"), write=write) as handle:
                with pytest.raises(DriverError, match="block that has opened"):
                    await client.call_async("go_on", handle)


@pytest.mark.parametrize("compress", [False, True])
@timed()
async def test_a_read_of_less_than_one_byte_is_a_mistake(compress: bool) -> None:
    async with library() as (_, client):
        for count in (0, -1):
            async with client.resource_async(io.BytesIO(b"abc"), compress=compress) as handle:
                with pytest.raises(DriverError, match="at least 1"):
                    await client.call_async("read_some", handle, count)


@timed()
async def test_closing_the_stream_is_left_to_the_block() -> None:
    async with kinds() as client, client.resource_async(io.BytesIO(b"abc")) as handle:
        assert await client.call_async("leave", handle) == "left"


@timed()
async def test_a_plain_method_gets_a_binary_file() -> None:
    async with kinds() as client, client.resource_async(io.BytesIO(b"abcd")) as handle:
        assert await client.call_async("file", handle) == [b"ab", True, False, b"cd"]


@timed()
async def test_what_a_plain_method_has_written_before_it_fails_reaches_the_client() -> None:
    sink = io.BytesIO()
    async with library() as (_, client):
        with pytest.raises(DriverError, match="the card has gone"):
            async with client.resource_async(sink, write=True) as handle:
                await client.call_async("write_in_thread_and_fail", handle)
    assert sink.getvalue() == b"the first half"


@timed()
async def test_the_error_for_a_missing_extra_names_the_exporter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with (
        library() as (_, client),
        client.resource_async(io.BytesIO(b"abc"), compress=True) as handle,
    ):
        for module in ("backports", "backports.zstd", "compression", "compression.zstd"):
            monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(
            DriverError, match=r"on the exporter a compressed .*pip install .*\[zstd\]"
        ):
            await client.call_async("read", handle)


@timed()
async def test_the_blocking_form_is_refused_in_a_trio_task() -> None:
    async with kinds() as client, client.resource_async(io.BytesIO(b"abc")) as handle:
        with pytest.raises(DriverError, match="use `async with`"):
            await client.call_async("block", handle)


async def test_outside_of_any_call_there_is_nothing_lent() -> None:
    with pytest.raises(ResourceError, match="there is no resource"):
        async with Kinds().resource(uuid4()):
            raise AssertionError


@timed()
async def test_a_drain_ends_a_loan_that_nobody_takes_back() -> None:
    driver = Library()
    async with answered(driver) as client:
        await client.greet()
        slot = await client.call("lend", 1, "read", "", kind=Kind.STREAM, target=0)
        await client.event(ev.AcceptReceived)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.session.drain, 0, "enough")
            await client.event(ev.GoawayReceived)
            with pytest.raises(CallCancelled):
                await client.answer(slot)
        assert driver.resources == {}
