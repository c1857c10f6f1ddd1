"""Test which address of this machine is found."""

from __future__ import annotations

import logging
import socket
from ipaddress import ip_address
from typing import Any

import pytest

from jumpstarter.common.ipaddr import get_ip_address


def test_address_is_one_of_this_machine() -> None:
    address = get_ip_address()
    with socket.socket() as listener:
        listener.bind((address, 0))  # fails for an address of another machine


def test_address_of_the_host_name_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostbyname", lambda name: f"192.0.2.{len(name)}")
    monkeypatch.setattr(socket, "gethostname", lambda: "lab")
    assert get_ip_address() == "192.0.2.3"


@pytest.mark.parametrize("resolved", ["127.0.1.1", ""])
def test_loopback_address_is_not_used(monkeypatch: pytest.MonkeyPatch, resolved: str) -> None:
    monkeypatch.setattr(socket, "gethostbyname", lambda _: resolved)
    address = get_ip_address()
    assert address == "0.0.0.0" or not ip_address(address).is_loopback  # noqa: S104


def test_machine_without_a_network_has_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> Any:
        raise OSError("no network")

    monkeypatch.setattr(socket, "gethostbyname", fail)
    monkeypatch.setattr(socket, "socket", fail)
    assert get_ip_address() == "0.0.0.0"  # noqa: S104
    assert get_ip_address(logging.getLogger("driver.test")) == "0.0.0.0"  # noqa: S104
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "no network" in record.getMessage()
