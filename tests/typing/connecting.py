"""Types of the clients that blocks yield, as type checkers see them. Nothing here is run."""

from __future__ import annotations

from typing import assert_type

from jumpstarter import Limits, connect, connect_async, serve, serve_async
from jumpstarter.client import DriverClient
from jumpstarter.driver import Driver
from jumpstarter.testing import client_fixture, client_for, client_for_async


class BoardClient(DriverClient):
    """One of a user's."""


def a_block_gives_the_class_that_was_asked_for(board: Driver) -> None:
    with connect("unix:/x", client=BoardClient, allow=["lab.*"], token=None) as client:
        assert_type(client, BoardClient)
    with serve(board, client=BoardClient) as client:
        assert_type(client, BoardClient)
    with client_for(board, client=BoardClient, limits=Limits()) as client:
        assert_type(client, BoardClient)


def without_one_it_is_a_driver_client(board: Driver) -> None:
    with connect("unix:/x", limits=Limits()) as client:
        assert_type(client, DriverClient)
    with serve(board, client=None) as client:
        assert_type(client, DriverClient)
    with client_for(board) as client:
        assert_type(client, DriverClient)


async def the_async_forms_too(board: Driver) -> None:
    async with connect_async("unix:/x", client=BoardClient) as client:
        assert_type(client, BoardClient)
    async with client_for_async(board, client=BoardClient) as client:
        assert_type(client, BoardClient)
    async with connect_async("unix:/x") as plain:
        assert_type(plain, DriverClient)
    async with client_for_async(board) as plain:
        assert_type(plain, DriverClient)
    async with serve_async(board, "unix:/x", token=None):
        pass


def what_is_no_client_class_is_an_error(board: Driver) -> None:
    connect("unix:/x", client=Driver)  # type: ignore[type-var,type-abstract]
    serve(board, client="lab.BoardClient")  # type: ignore[call-overload]
    connect("unix:/x", tokne="x")  # type: ignore[call-overload]
    client_fixture(Driver, client=Driver)  # type: ignore[arg-type]
