"""Tests of `jumpstarter.drivers.power` and of `jumpstarter.drivers.composite`."""

from __future__ import annotations

import time
from itertools import islice
from typing import cast

import pytest

from helpers import served
from jumpstarter.driver import Driver, export
from jumpstarter.drivers.composite import Composite, CompositeClient
from jumpstarter.drivers.power import MockPower, PowerClient, PowerInterface, PowerReading


def test_mock_power_keeps_its_last_state() -> None:
    driver = MockPower()
    with served(driver) as client:
        power = cast("PowerClient", client)
        power.on()
        assert driver.is_on
        power.off()
        power.off()
        assert driver.log == ["on", "off", "off"]


def test_cycle_switches_off_and_then_on(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = MockPower()
    waits: list[tuple[float, list[str]]] = []
    monkeypatch.setattr(time, "sleep", lambda seconds: waits.append((seconds, list(driver.log))))
    with served(driver) as client:
        cast("PowerClient", client).cycle()
    assert driver.log == ["off", "on"]
    assert (2.0, ["off"]) in waits


def test_read_yields_readings_until_the_client_stops() -> None:
    with served(MockPower(voltage=5.0, current=0.2)) as client:
        power = cast("PowerClient", client)
        power.on()
        readings = list(islice(power.read(0), 3))
        assert readings == [PowerReading(voltage=5.0, current=0.2)] * 3
        assert readings[0].apparent_power == pytest.approx(1.0)
        power.off()
        assert next(power.read()) == PowerReading(voltage=0.0, current=0.0)


def test_mock_power_stays_on_after_a_session_and_is_off_when_the_next_begins() -> None:
    driver = MockPower()
    with served(driver) as client:
        cast("PowerClient", client).on()
    assert driver.is_on
    with served(driver):
        assert not driver.is_on


def test_incomplete_power_interface_cannot_be_instantiated() -> None:
    class Half(PowerInterface, Driver):
        @export
        def on(self) -> None:
            """Do nothing."""

    with pytest.raises(TypeError, match="abstract"):
        Half()  # type: ignore[abstract]


def test_composite_client_has_its_children_as_attributes() -> None:
    power = MockPower()
    with served(Composite(children={"board": Composite(children={"power": power})})) as client:
        assert isinstance(client, CompositeClient)
        client.board.power.on()
        assert power.is_on
