"""Tests that a client class may use any name for its own private members."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any

from drivers_for_tests import Echo
from helpers import served, timed
from jumpstarter.client import DriverClient
from jumpstarter.drivers.mixins import ResourceMixin, StreamMixin
from jumpstarter.testing import client_for_async
from resources_for_tests import Library

# Names that a client class may well choose, and that this library has used itself.
NAMES = (
    "_call",
    "_channel",
    "_check_loop",
    "_children",
    "_client",
    "_close_left_open",
    "_hold",
    "_lend",
    "_lend_async",
    "_loop",
    "_methods",
    "_open",
    "_open_as",
    "_portal",
    "_portal_for",
    "_remote",
    "_request",
    "_run",
    "_run_for",
    "_runner",
    "_stream",
    "_target",
    "_walk",
)


@dataclass(kw_only=True)
class FieldsClient(StreamMixin, ResourceMixin, DriverClient):
    """A client class with some of the names as fields, whose values would break the library."""

    _methods: dict[str, Any] = field(init=False, default_factory=lambda: {"on": 1})
    _portal: str = "1-2.3"
    _request: int = 7
    _run_for: float = 0.5
    _lend: bool = True
    _walk: None = None


class ManyClient(FieldsClient):
    """A client class with all the names as class attributes."""


for _name in NAMES:
    if _name not in FieldsClient.__dataclass_fields__:
        setattr(ManyClient, _name, "its own")


class Board(Library, Echo):
    client_class = "FieldsClient"

    @classmethod
    def client(cls) -> str:
        return f"test_client_names.{cls.client_class}"


class BoardOfMany(Board):
    client_class = "ManyClient"


@contextmanager
def clients() -> Iterator[list[Any]]:
    with served(Board(children={"many": BoardOfMany()})) as root:
        yield [root, root.many]


def test_blocking_methods_work_whatever_private_names_a_class_has() -> None:
    with clients() as both:
        for client in both:
            assert client.call("echo", 1) == client.echo(1) == client.call_as(int, "echo", 1) == 1
            assert list(client.count(3)) == list(client.streamingcall_as(int, "count", 3))
            with client.connect() as stream:
                stream.send(b"hello")
                assert stream.receive() == b"hello"
            with client.portforward() as (_, port):
                assert port
            with client.resource(io.BytesIO(b"lent")) as handle:
                assert client.call("read", handle)
            left_open = client.open_stream()
            assert "echo" in dir(client)
            assert "echo" in client.__doc__
            assert "echo" in DriverClient.__repr__(client)  # not a dataclass's repr
            client.close()
            assert left_open.detach().closed
            assert client._request == 7


@timed()
async def test_async_methods_work_whatever_private_names_a_class_has() -> None:
    async with client_for_async(BoardOfMany()) as client:
        assert await client.call_async("echo", 1) == 1
        assert await client.call_as_async(int, "echo", 1) == 1
        async with client.streamingcall_async("count", 2) as items:
            assert [item async for item in items] == [0, 1]
        async with client.stream_async("connect") as stream:
            await stream.send_all(b"hello")
            assert await stream.receive_some() == b"hello"
        assert isinstance(client, FieldsClient)
        async with client.resource_async(io.BytesIO(b"lent")) as handle:
            assert await client.call_async("read", handle)


def test_private_members_of_a_client_have_a_prefix_of_their_own() -> None:
    names = {*vars(DriverClient), *(each.name for each in fields(DriverClient))}
    for base in DriverClient.__mro__[1:-1]:
        names |= vars(base).keys()
    for mixin in (StreamMixin, ResourceMixin):
        names |= vars(mixin).keys()
    private = {name for name in names if name.startswith("_") and not name.startswith("__")}
    assert private == {"_jmp_open"}
