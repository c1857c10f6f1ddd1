"""Test clients that a test constructs itself, with mocks in place of a connection."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any
from unittest.mock import MagicMock
from uuid import UUID

import pytest
import trio

from drivers_for_tests import Echo, Plain
from jumpstarter import serve
from jumpstarter.client import DriverClient
from jumpstarter.driver import Driver
from jumpstarter.drivers.mixins import ResourceMixin, StreamMixin
from jumpstarter.errors import ConfigurationError


@dataclass(kw_only=True)
class PinClient(ResourceMixin, StreamMixin, DriverClient):
    pin: int = 18

    def on(self) -> Any:
        return self.call("on", self.pin)


def test_a_client_can_be_made_with_mocks_and_its_calls_replaced() -> None:
    client = PinClient(stub=MagicMock(), portal=MagicMock(), stack=MagicMock())
    client.call = MagicMock(return_value="high")  # type: ignore[method-assign]
    assert client.on() == "high"
    client.call.assert_called_once_with("on", 18)
    assert isinstance(client.uuid, UUID)
    assert (client.name, client.description, client.methods_description) == ("unknown", None, {})
    assert (client.labels, client.children) == ({}, {})


def test_two_clients_share_nothing() -> None:
    one, other = PinClient(), PinClient()
    assert one.uuid != other.uuid
    assert one.labels is not other.labels
    assert one.stack is not other.stack


def test_a_client_without_a_connection_can_be_shown_and_closed() -> None:
    closed: list[str] = []
    stack = ExitStack()
    stack.callback(closed.append, "stack")
    client = PinClient(stack=stack)
    assert "PinClient" in repr(client)
    assert "DriverClient of no driver" in repr(DriverClient())
    assert "on" in dir(client)
    with pytest.raises(AttributeError, match="its driver exports: none"):
        _ = client.off
    client.close()
    client.close()
    assert closed == ["stack"]


def test_every_call_without_a_connection_says_why_it_fails() -> None:
    client = PinClient()
    for use in (
        lambda: client.call("on"),
        lambda: client.call_as(int, "on"),
        lambda: list(client.streamingcall("read")),
        lambda: list(client.streamingcall_as(int, "read")),
        lambda: client.stream("connect").__enter__(),
        lambda: client.open_stream("connect"),
        lambda: client.resource(MagicMock()).__enter__(),
        lambda: client.portforward().__enter__(),
    ):
        with pytest.raises((ConfigurationError, RuntimeError), match="connect"):
            use()


async def test_every_async_call_without_a_connection_says_why_it_fails() -> None:
    client = PinClient()
    with pytest.raises(ConfigurationError, match="made by hand"):
        await client.call_async("on")
    with pytest.raises(ConfigurationError, match="made by hand"):
        client.streamingcall_async("read")
    with pytest.raises(ConfigurationError, match="made by hand"):
        async with client.stream_async("connect"):
            pass
    await trio.lowlevel.checkpoint()


def test_the_name_of_a_client_is_its_place() -> None:
    with serve(Plain(children={"echo": Echo()})) as client:
        assert (client.name, client.echo.name) == ("unknown", "echo")


@dataclass(kw_only=True)
class NamedClient(DriverClient):
    name: str = "mine"
    _methods: list[str] | None = None


class Named(Driver):
    @classmethod
    def client(cls) -> str:
        return "test_client_made_by_hand.NamedClient"


def test_a_client_class_may_have_fields_of_any_name() -> None:
    with serve(Named(), client=NamedClient) as client:
        assert (client.name, client._methods) == ("mine", None)


HIDDEN = ("timeout", "channel", "call_as", "streamingcall_as", "call_as_async", "stub", "name")


def test_children_whose_names_are_hidden_are_reached_by_children(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with serve(Plain(children={name: Echo() for name in HIDDEN})) as client:
        for name in HIDDEN:
            assert client.children[name].call("echo", name) == name
    for name in HIDDEN:
        title = f"driver {name!r} (drivers_for_tests.Echo)"
        text = f"{title} is reached by `children[{name!r}]`: clients have an attribute of this name"
        assert caplog.messages.count(text) == 1
