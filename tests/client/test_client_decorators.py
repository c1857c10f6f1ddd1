"""Test that click groups and commands of clients have the help that the driver describes."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import click
import pytest
from click.testing import CliRunner

from jumpstarter.client.decorators import (
    DriverClickGroup,
    driver_click_command,
    driver_click_group,
)


def client(description: str | None = None, **methods: str) -> Any:
    described = {name.replace("_", "-"): text for name, text in methods.items()}
    return SimpleNamespace(description=description, methods_description=described)


def output(command: click.Command, *args: str) -> str:
    result = CliRunner().invoke(command, args, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_group_is_named_and_described_by_its_function() -> None:
    @driver_click_group(client())
    def power() -> None:
        """Generic power."""

    assert isinstance(power, DriverClickGroup)
    assert isinstance(power, click.Group)
    assert power.name == "power"
    assert inspect.cleandoc(power.help or "") == "Generic power."


def test_help_argument_goes_before_the_docstring_and_the_description_before_both() -> None:
    def power() -> None:
        """Generic power."""

    assert driver_click_group(client(), help="Given")(power).help == "Given"
    assert driver_click_group(client(), help=None)(power).help == "Generic power."
    assert driver_click_group(client("Board 7"), help="Given")(power).help == "Board 7"


def test_one_decorator_serves_several_functions() -> None:
    decorate = driver_click_group(client())

    def one() -> None:
        """Is the first."""

    def two() -> None:
        """Is the second."""

    assert [decorate(one).help, decorate(two).help] == ["Is the first.", "Is the second."]


def test_group_calls_its_function_with_the_declared_options() -> None:
    seen: list[object] = []

    @driver_click_group(client(), invoke_without_command=True)
    @click.option("--port", type=int)
    @click.option("--slow", is_flag=True)
    def power(*, port: int, slow: bool) -> None:
        seen.append((port, slow))

    @power.command()
    def on() -> None:
        seen.append("on")

    output(power, "--port", "7", "--slow", "on")
    assert seen == [(7, True), "on"]
    assert [each.name for each in power.params] == ["port", "slow"]  # in the order of the source


def test_commands_have_the_help_of_the_methods_description() -> None:
    @driver_click_group(client(on="Turn on rail 3", power_off="Turn off rail 3", x="By name"))
    def power() -> None:
        pass

    @power.command()
    def on() -> None:
        """Turn on."""

    @power.command()
    def power_off() -> None:
        """Turn off."""

    @power.command(name="x")
    def named() -> None:
        """Have another name."""

    @power.command
    def bare() -> None:
        """Be bare."""

    @power.command("given", help="As given.")
    def other() -> None:
        pass

    helps = {name: command.help for name, command in power.commands.items()}
    assert helps["on"] == "Turn on rail 3"
    assert helps["power-off"] == "Turn off rail 3"
    assert helps["x"] == "By name"
    assert inspect.cleandoc(helps["bare"] or "") == "Be bare."
    assert helps["given"] == "As given."
    assert "Turn off rail 3" in output(power, "--help")
    assert "Turn on rail 3" in output(power, "on", "--help")


def test_command_has_the_description_as_its_help() -> None:
    def ssh(args: tuple[str, ...]) -> None:
        """Run a command over SSH."""
        click.echo(" ".join(args))

    argument = click.argument("args", nargs=-1)
    assert "Run a command over SSH." in output(
        driver_click_command(client(), name="ssh")(argument(ssh)), "--help"
    )
    described = driver_click_command(client("The lab's gateway"))(argument(ssh))
    assert "The lab's gateway" in output(described, "--help")
    assert output(described, "ls", "/") == "ls /\n"


@pytest.mark.parametrize("stand_in", [object(), MagicMock(), client("")])
def test_client_without_descriptions_keeps_the_helps(stand_in: object) -> None:
    @driver_click_group(stand_in)
    def power() -> None:
        """Generic power."""

    @power.command()
    def on() -> None:
        """Turn on."""

    assert inspect.cleandoc(power.help or "") == "Generic power."
    assert "Turn on." in output(power, "--help")
