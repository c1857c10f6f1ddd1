"""Click groups and commands whose help the exporter's configuration can replace.

The `cli()` of a client class makes its commands with these decorators. The texts come from the
driver: its `description` for the group, and its `methods_description` for the commands. This module
needs the extra `compat`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, overload

from .._util.extras import requires_extra

with requires_extra("compat", "jumpstarter.client.decorators"):
    import click

    from .._util.click_groups import SuggestingGroup

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["DriverClickGroup", "driver_click_command", "driver_click_group"]


def driver_click_group(
    client: object, **kwargs: Any
) -> Callable[[Callable[..., Any]], DriverClickGroup]:
    """Turn a function into a click group with the driver's description as its help.

    Args:
        client: The driver's client. Its `description` is the help of the group, if it is set.
        kwargs: Arguments of `DriverClickGroup`, such as `help` or `invoke_without_command`. Without
            a description, the help is `help`, or else the function's docstring.

    Returns:
        A decorator. The group has the function's name and calls it, with the options and arguments
        that click's decorators below this one have declared.
    """

    def decorator(function: Callable[..., Any]) -> DriverClickGroup:
        options = {"name": function.__name__, "help": function.__doc__} | {
            name: value for name, value in kwargs.items() if value is not None
        }
        # click's decorators append to this list from the innermost to the outermost one.
        declared: list[click.Parameter] = getattr(function, "__click_params__", [])
        options |= _described(client)
        return DriverClickGroup(client, callback=function, params=declared[::-1], **options)

    return decorator


def driver_click_command(
    client: object, **kwargs: Any
) -> Callable[[Callable[..., Any]], click.Command]:
    """Turn a function into a click command with the driver's description as its help.

    Args:
        client: The driver's client. Its `description` is the help of the command, if it is set.
        kwargs: Arguments of `click.command`.

    Returns:
        A decorator.
    """
    decorator: Callable[[Callable[..., Any]], click.Command]
    decorator = click.command(**(kwargs | _described(client)))
    return decorator


class DriverClickGroup(SuggestingGroup):
    """A click group with commands whose help the driver's `methods_description` can replace.

    Args:
        client: The driver's client.
        args: Positional arguments of `click.Group`.
        kwargs: Keyword arguments of `click.Group`.
    """

    def __init__(self, client: object, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.client: object = client

    @overload
    def command(self, function: Callable[..., Any], /) -> click.Command: ...
    @overload
    def command(
        self, *args: Any, **kwargs: Any
    ) -> Callable[[Callable[..., Any]], click.Command]: ...
    def command(
        self, *args: Any, **kwargs: Any
    ) -> Callable[[Callable[..., Any]], click.Command] | click.Command:
        """Add a command to the group, as `click.Group.command` does.

        The entry of `methods_description` with the command's name, or with the name that follows
        from the function's (`power_on` is `power-on`), takes the place of its help.

        Args:
            args: Positional arguments of `click.Group.command`: the name, or the function.
            kwargs: Keyword arguments of `click.Group.command`.

        Returns:
            A decorator, or the command if the decorator was written without parentheses.
        """
        if len(args) == 1 and callable(args[0]) and not isinstance(args[0], type):
            return self.command(**kwargs)(args[0])
        decorate: Callable[[Callable[..., Any]], click.Command] = super().command(*args, **kwargs)

        def decorator(function: Callable[..., Any]) -> click.Command:
            command = decorate(function)
            described = getattr(self.client, "methods_description", None)
            if isinstance(described, Mapping):
                # click shortens some names: the command of `power_cmd` is `power`.
                names = (command.name, function.__name__.lower().replace("_", "-"))
                texts = [described[name] for name in names if name in described]
                command.help = texts[0] if texts else command.help
            return command

        return decorator


def _described(client: object) -> dict[str, str]:
    description = getattr(client, "description", None)
    return {"help": description} if isinstance(description, str) and description else {}
