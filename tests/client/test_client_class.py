"""Tests of `client=`: every way to get a client checks, allows and uses the root's class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from helpers import timed
from jumpstarter import connect, connect_async, serve, serve_async
from jumpstarter.client import DriverClient
from jumpstarter.driver import Driver, export
from jumpstarter.drivers.power import MockPower, PowerClient
from jumpstarter.errors import ArgumentTypeError, ClientImportError
from jumpstarter.testing import client_fixture, client_for, client_for_async


class BoardClient(DriverClient):
    """A client class as a user would define it."""


class Board(Driver):
    path = "test_client_class.BoardClient"

    @classmethod
    def client(cls) -> str:
        return cls.path

    @export
    def one(self) -> int:
        return 1


class Lost(Board):
    path = "package_that_is_not_there.BoardClient"


board = client_fixture(Board, client=BoardClient)
power = client_fixture(MockPower, client=PowerClient)


def test_fixture_returns_the_requested_class(board: BoardClient, power: PowerClient) -> None:
    assert type(board) is BoardClient
    power.on()


@timed()
async def test_every_way_to_connect_returns_the_requested_class(tmp_path: Path) -> None:
    def block() -> None:
        with serve(Board(), client=BoardClient) as client:
            assert type(client) is BoardClient
        with client_for(Board(), client=BoardClient) as client:
            assert type(client) is BoardClient
        with connect(address, client=BoardClient) as client:
            assert type(client) is BoardClient
            assert client.call("one") == 1

    address = f"unix:{tmp_path}/socket"
    async with client_for_async(Board(), client=BoardClient) as client:
        assert type(client) is BoardClient
    async with serve_async(Board(), address):
        async with connect_async(address, client=BoardClient) as client:
            assert type(client) is BoardClient
        await trio.to_thread.run_sync(block)


@timed()
async def test_base_class_is_accepted_and_another_class_refused(tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/socket"
    async with serve_async(Board(), address):
        async with connect_async(address, client=DriverClient, allow=["test_client_class.*"]) as c:
            assert type(c) is BoardClient
        text = r"gives a test_client_class.BoardClient for its root driver, not the .*PowerClient"
        with pytest.raises(ClientImportError, match=text):
            async with connect_async(address, client=PowerClient, allow=["test_client_class.*"]):
                pass
    with pytest.raises(ClientImportError, match=text):
        async with client_for_async(Board(), client=PowerClient):
            pass


@timed()
async def test_only_the_class_itself_is_allowed_by_it(tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/socket"
    async with (
        serve_async(MockPower(children={"board": Board()}), address),
        connect_async(address, client=PowerClient) as client,
    ):
        with pytest.raises(ClientImportError, match="may not be imported here"):
            client.children["board"].anything()


@timed()
async def test_missing_requested_class_raises_an_error() -> None:
    with pytest.raises(ClientImportError, match="package_that_is_not_there"):
        async with client_for_async(Lost(), client=BoardClient):
            pass


@pytest.mark.parametrize("wrong", ["lab.BoardClient", Board, BoardClient.__init__, 5, object])
@timed()
async def test_value_that_is_not_a_client_class_is_refused(wrong: Any) -> None:
    for call in (
        lambda: connect("unix:/nowhere", client=wrong),
        lambda: connect_async("unix:/nowhere", client=wrong),
        lambda: serve(Board(), client=wrong),
        lambda: client_for(Board(), client=wrong),
        lambda: client_for_async(Board(), client=wrong),
        lambda: client_fixture(Board, client=wrong),
    ):
        with pytest.raises(ArgumentTypeError, match="client must be a subclass of DriverClient"):
            call()
