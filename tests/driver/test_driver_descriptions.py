"""Test the descriptions of a driver and its methods, from the exporter's configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from jumpstarter import serve
from jumpstarter._protocol.frames import MAX_DOC
from jumpstarter.driver import Driver, export
from jumpstarter.errors import ConfigurationError


class Relay(Driver):
    @classmethod
    def client(cls) -> str:
        return "jumpstarter.client.DriverClient"

    @export
    def on(self) -> None:
        """Close the relay."""


@dataclass(kw_only=True)
class NamedRelay(Relay):
    description: str | None = "a relay"
    pin: int = 4


def test_a_client_has_its_driver_s_descriptions() -> None:
    relay = Relay(description="The rail of board 7", methods_description={"on": "Power board 7"})
    with serve(Relay(children={"relay": relay, "named": NamedRelay()})) as root:
        assert root.relay.description == "The rail of board 7"
        assert root.relay.methods_description == {"on": "Power board 7"}
        assert (root.named.description, root.named.methods_description) == ("a relay", {})
        assert (root.description, root.methods_description) == (None, {})


def test_a_description_may_be_of_a_command_that_is_no_method() -> None:
    with serve(Relay(methods_description={"power-cycle": "Off and on"})) as client:
        assert client.methods_description == {"power-cycle": "Off and on"}


def test_a_description_cannot_control_a_terminal() -> None:
    relay = Relay(description="\x1b[31mred", methods_description={"o\x07n": "a\x00b\nc"})
    with serve(relay) as client:
        assert client.description == "\ufffd[31mred"
        assert client.methods_description == {"o\ufffdn": "a\ufffdb\nc"}


def test_a_long_description_is_cut() -> None:
    with serve(Relay(description="x" * 2 * MAX_DOC)) as client:
        assert client.description is not None
        assert "cut: " in client.description[MAX_DOC:]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"description": 3}, "the descriptions of Relay"),
        ({"methods_description": ["on"]}, "methods_description of Relay"),
        ({"methods_description": {"on": 1}}, "the descriptions of Relay"),
        ({"methods_description": {1: "on"}}, "the descriptions of Relay"),
    ],
)
def test_a_description_that_is_no_text_is_refused(given: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigurationError, match=expected):
        Relay(**given)
