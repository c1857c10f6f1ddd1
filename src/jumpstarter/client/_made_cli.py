"""Make the command line of clients whose class has none of its own, as their attribute `cli`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # it needs an extra
    import click

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["MadeCommandLine", "made_command_line"]


class MadeCommandLine:
    """The attribute `cli` of all clients, to which a class's own `cli` may add by `super().cli()`.

    It gives way to a child and to an exported method of this name. It has no value on the class,
    where code looks for a `cli` that the class defines.
    """

    def __get__(self, instance: Any, owner: type) -> Callable[..., Any]:
        if instance is None:
            text = f"type object {owner.__name__!r} has no attribute 'cli'"
            raise AttributeError(text, name="cli", obj=owner)
        if getattr(type(instance), "cli", None) is not None:  # and that calls super().cli()
            return partial(made_command_line, instance)
        found: Callable[..., Any] = instance.__getattr__("cli")
        return found


def made_command_line(client: Any) -> click.Group:
    """Make the command line of a client from the exporter's report.

    Raises:
        MissingExtra: click is not installed.
    """
    from ._commands import ClientGroup  # noqa: PLC0415 - it needs an extra

    return ClientGroup(client)
