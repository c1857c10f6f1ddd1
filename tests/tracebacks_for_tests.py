"""Tests that fail, to be run by pytest in a process of its own: see `test_tracebacks.py`."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from jumpstarter import connect, connect_async, serve
from jumpstarter.client import DriverClient
from jumpstarter.driver import Driver, export, exportstream
from jumpstarter.drivers.storage import FileStorage, StorageClient
from jumpstarter.testing import client_fixture, client_for_async


class Failing(Driver):
    @classmethod
    def client(cls) -> str:
        return "jumpstarter.client.DriverClient"

    @export
    def fail(self, value: object = None) -> None:
        raise ValueError(f"bad voltage {value}")

    @export
    async def fail_async(self) -> None:
        raise ValueError("bad voltage")

    @export
    def slow(self) -> None:
        time.sleep(1.5)  # far longer than the timeout of the test

    @export
    def count(self) -> Generator[int, None, None]:
        yield 1
        raise OSError("gone")

    @exportstream
    @asynccontextmanager
    async def connect(self) -> AsyncIterator[trio.abc.Stream]:
        raise OSError("no port")
        yield  # type: ignore[unreachable]


in_memory = client_fixture(Failing)


@pytest.fixture
def served() -> Iterator[DriverClient]:
    with serve(Failing()) as client:
        yield client


def test_a_plain_method(served: DriverClient) -> None:
    served.fail()


def test_an_async_method(served: DriverClient) -> None:
    served.fail_async()


def test_in_memory(in_memory: DriverClient) -> None:
    in_memory.fail()


def test_as_a_type(served: DriverClient) -> None:
    served.call_as(int, "fail")


def test_a_generator(served: DriverClient) -> None:
    list(served.count())


def test_a_stream(served: DriverClient) -> None:
    with served.stream():
        pass


def test_no_such_method(served: DriverClient) -> None:
    served.call("nothing")


def test_no_such_attribute(served: DriverClient) -> None:
    served.nothing  # noqa: B018 - it is looked up


def test_a_timeout(served: DriverClient) -> None:
    with served.timeout(0.05):
        served.slow()


def test_an_argument(served: DriverClient) -> None:
    served.call("fail", object())


def test_a_wrong_timeout(served: DriverClient) -> None:
    with served.timeout(float("nan")):
        pass


def test_nobody_there() -> None:
    with connect("unix:/nowhere/socket"):
        pass


def test_nobody_at_a_port() -> None:
    with connect("tcp://127.0.0.1:1"):
        pass


def test_no_address() -> None:
    address: Any = None
    with connect(address):
        pass


def test_no_driver() -> None:
    driver: Any = Failing
    with serve(driver):
        pass


def test_a_file_that_is_not_there() -> None:
    with serve(FileStorage(path="/nowhere/card"), client=StorageClient) as card:
        card.flash("/nowhere/image.img")


async def test_async_call() -> None:
    async with client_for_async(Failing()) as client:
        await client.call_async("fail")


async def test_async_generator() -> None:
    async with client_for_async(Failing()) as client:
        async for _ in client.streamingcall_async("count"):
            pass


async def test_async_stream() -> None:
    async with client_for_async(Failing()) as client, client.stream_async():
        pass


async def test_async_nobody_there() -> None:
    async with connect_async("unix:/nowhere/socket"):
        pass
