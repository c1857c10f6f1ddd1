"""Test loans for both directions whose stream, whose driver, or both live in an asyncio loop."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anyio
import pytest
from test_client_object_loans import CODECS, DATA, DEADLINE, Card

from asyncio_loans import AsyncioCard, AsyncioMemory, LoanAdapter
from jumpstarter import serve
from jumpstarter.client import DriverClient
from jumpstarter.errors import DriverError, DriverOSError

Served = tuple[Any, DriverClient]


@pytest.fixture(params=[Card, AsyncioCard], ids=["trio driver", "asyncio driver"])
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    driver = request.param(content=DATA)
    with serve(driver) as client, client.timeout(DEADLINE):
        yield driver, client
    assert driver.resources == {}


@pytest.mark.parametrize("encoding", [None, "gzip", "zstd"])
def test_a_stream_of_asyncio_is_read_and_written(served: Served, encoding: str | None) -> None:
    driver, client = served
    compress, expand = CODECS[encoding]
    backup = AsyncioMemory()
    with LoanAdapter(client=client, stream=backup, encoding=encoding) as handle:
        client.call("dump", handle)
    assert expand(backup.got) == DATA
    assert backup.has_end
    assert backup.closed
    image = AsyncioMemory(compress(DATA[::-1]), piece=7_000)
    with LoanAdapter(client=client, stream=image, encoding=encoding) as handle:
        client.call("flash", handle)
    assert driver.content == DATA[::-1]
    assert image.closed


def test_a_loan_that_is_not_used_ends_with_its_block(served: Served) -> None:
    _, client = served
    for data in (b"", DATA * 3):
        stream = AsyncioMemory(data)
        with LoanAdapter(client=client, stream=stream):
            pass
        assert stream.closed


def test_the_exception_of_the_block_leaves_alone(served: Served) -> None:
    _, client = served
    stream = AsyncioMemory(DATA)
    with pytest.raises(KeyError), LoanAdapter(client=client, stream=stream):
        raise KeyError
    assert stream.closed
    with (
        pytest.raises(DriverError, match="no such method"),
        LoanAdapter(client=client, stream=AsyncioMemory(DATA)) as handle,
    ):
        client.call("nothing", handle)


def test_what_had_arrived_before_a_driver_failed_is_there(served: Served) -> None:
    _, client = served
    stream = AsyncioMemory()
    with (
        pytest.raises(DriverOSError, match="the card has gone"),
        LoanAdapter(client=client, stream=stream) as handle,
    ):
        client.call("dump", handle, True)
    assert stream.got == DATA
    assert stream.closed
    assert not stream.has_end


def test_a_stream_of_asyncio_that_fails_fails_the_driver_and_the_block(served: Served) -> None:
    _, client = served
    stream = AsyncioMemory(DATA)
    stream.pieces.append(b"fail")
    with (
        pytest.raises(anyio.BrokenResourceError, match="the file has gone"),
        LoanAdapter(client=client, stream=stream) as handle,
    ):
        client.call("flash", handle)
    assert stream.closed
