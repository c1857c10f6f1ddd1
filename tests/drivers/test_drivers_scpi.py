"""Tests of `jumpstarter.drivers.scpi`, against a server that answers as a power supply does."""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import pytest

from helpers import PATIENCE, served
from jumpstarter.drivers.power import PowerReading
from jumpstarter.drivers.scpi import ScpiPower, ScpiPowerClient
from jumpstarter.errors import (
    ConfigurationError,
    DriverConnectionError,
    DriverError,
    DriverOSError,
    DriverTimeoutError,
)


class Supply(socketserver.ThreadingTCPServer):
    """A supply with two outputs, which serves one connection at a time, as many do.

    Attributes:
        on: Whether each output is on.
        errors: Its queue of errors, the oldest first.
        answers: Answers to give instead of its own; None ends the connection.
        commands: All lines that it has received.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Conversation)
        self.on = {1: False, 2: False}
        self.errors: list[str] = []
        self.answers: dict[str, str | None] = {}
        self.commands: list[str] = []
        self.busy = threading.Lock()

    @property
    def port(self) -> int:
        return self.server_address[1]

    def answer(self, line: str, selected: int) -> str | None:
        volts = 12.0 if self.on[selected] else 0.0
        known = {
            "*IDN?": "Example,PS2,1234,1.0",
            "MEAS:VOLT?": f"{volts:.4E}",
            "MEAS:CURR?": f"{volts / 24:.4E}",
            "SYST:ERR?": '0,"No error"',
        }
        if line == "SYST:ERR?" and self.errors:
            return self.errors.pop(0)
        return {**known, **self.answers}.get(line, "")


class Conversation(socketserver.StreamRequestHandler):
    """Obeys the commands of one connection."""

    server: Supply

    def handle(self) -> None:
        with self.server.busy:
            selected = 1
            for raw in self.rfile:
                line = raw.decode("ascii").strip()
                self.server.commands.append(line)
                match line.split():
                    case ["OUTP", state]:
                        self.server.on[selected] = state == "ON"
                    case ["INST:NSEL", "1" | "2" as number]:
                        selected = int(number)
                    case ["INST:NSEL", _]:
                        self.server.errors.append('-222,"Data out of range"')
                    case _:
                        answer = self.server.answer(line, selected)
                        if answer is None:
                            return
                        self.wfile.write(answer.encode() + b"\r\n")


@pytest.fixture
def supply() -> Iterator[Supply]:
    server = Supply()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    with server:
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@contextmanager
def power(supply: Supply, channel: int | None = None) -> Iterator[ScpiPowerClient]:
    driver = ScpiPower(host="127.0.0.1", port=supply.port, channel=channel, timeout=PATIENCE)
    with served(driver) as client:
        yield cast("ScpiPowerClient", client)


def test_it_switches_and_measures_an_output(supply: Supply) -> None:
    with power(supply) as client:
        client.on()
        assert supply.on == {1: True, 2: False}
        assert next(client.read()) == PowerReading(voltage=12.0, current=0.5)
        client.cycle(wait=0)
        client.off()
        assert supply.on == {1: False, 2: False}
        assert next(client.read()) == PowerReading(voltage=0.0, current=0.0)


def test_it_selects_the_output_of_its_channel_for_each_connection(supply: Supply) -> None:
    with power(supply, channel=2) as client:
        client.on()
        assert supply.on == {1: False, 2: True}
        assert next(client.read()).voltage == 12.0


def test_serving_leaves_the_output_as_it_is(supply: Supply) -> None:
    supply.on[1] = True
    with power(supply) as client:
        assert client.identify() == "Example,PS2,1234,1.0"
    assert supply.on[1]
    assert not [line for line in supply.commands if line.startswith("OUTP")]


def test_readings_do_not_hold_the_connection_of_the_supply(supply: Supply) -> None:
    with power(supply) as client:
        readings = client.read(interval=0)
        assert next(readings).voltage == 0.0
        client.on()  # would wait for the only connection
        assert any(reading.voltage == 12.0 for reading in readings)


def test_a_command_that_the_supply_refuses_fails_with_its_reason(supply: Supply) -> None:
    with power(supply, channel=3) as client, pytest.raises(DriverOSError) as caught:
        client.on()
    assert '"Data out of range"' in str(caught.value)
    assert "refused 'INST:NSEL 3'" in str(caught.value)
    assert not any(supply.on.values())


def test_errors_of_earlier_programs_are_not_those_of_this_command(supply: Supply) -> None:
    supply.errors = ['-113,"Undefined header"', '-222,"Data out of range"']
    with power(supply) as client:
        client.on()
    assert supply.on[1]


@pytest.mark.parametrize(
    ("query", "answer", "reason"),
    [
        ("MEAS:VOLT?", "off", "answered 'MEAS:VOLT?' by 'off', not by a number"),
        ("MEAS:VOLT?", "9.91E37", "answered 'MEAS:VOLT?' by '9.91E37', not by a number"),
        ("MEAS:CURR?", None, "ended the connection instead of answering 'MEAS:CURR?'"),
        ("MEAS:CURR?", "1" * 9999, "sends a line without end"),
        ("SYST:ERR?", '-1,"x"', "reports errors without an end"),
    ],
)
def test_an_answer_that_makes_no_sense_is_explained(
    supply: Supply, query: str, answer: str | None, reason: str
) -> None:
    supply.answers[query] = answer
    with power(supply) as client, pytest.raises(DriverError, match=reason.replace("?", r"\?")):
        next(client.read())


def test_a_supply_that_is_not_there_is_named() -> None:
    with socket.socket() as listener:  # bound, and not listening
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        with served(ScpiPower(host="127.0.0.1", port=port)) as client:
            with pytest.raises(DriverConnectionError, match=f"tcp://127.0.0.1:{port}") as caught:
                client.call("on")
            assert "no server listens there" in str(caught.value)


def test_a_supply_that_another_program_uses_is_said_to_be_busy(supply: Supply) -> None:
    driver = ScpiPower(host="127.0.0.1", port=supply.port, timeout=0.05)
    with supply.busy, served(driver) as client, pytest.raises(DriverTimeoutError) as caught:
        client.call("on")
    assert "did not answer within 0.05 s; perhaps another program" in str(caught.value)
    assert not supply.on[1]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"host": "tcp://supply.lab"}, "host of ScpiPower must be a name or address alone"),
        ({"host": ""}, "host of ScpiPower"),
        ({"host": "supply.lab", "port": 0}, "port of ScpiPower"),
        ({"host": "supply.lab", "channel": 0}, "channel of ScpiPower"),
        ({"host": "supply.lab", "timeout": -1}, "timeout of ScpiPower"),
    ],
)
def test_fields_that_cannot_be_used_are_refused(fields: dict[str, object], reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        ScpiPower(**fields)  # type: ignore[arg-type] # some are wrong
