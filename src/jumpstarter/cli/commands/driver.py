"""The command `driver`: list the drivers that installed packages register."""

from __future__ import annotations

from ..._util.extras import requires_extra
from .._output import output_option, print_rows

with requires_extra("cli", "the command line"):
    import click

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["command"]


@click.group("driver")
def command() -> None:
    """Look at the drivers that are installed."""


@click.command("list")
@output_option
def list_(output: str | None) -> None:
    """List the drivers that a configuration can name as the `type` of a driver.

    Nothing is imported. A name that several packages register is listed with each class, and a
    configuration must write the class.

    JSON and YAML have for each driver: `name`; `type`, the path of its class; and `package`, the
    distribution that registers it.
    """
    from ...config._entry_points import dotted_path, registered_drivers  # noqa: PLC0415 - slow

    rows = [
        {
            "name": name,
            "type": dotted_path(entry),
            "package": entry.dist.name if entry.dist is not None else "",
        }
        for name, entries in registered_drivers().items()
        for entry in entries
    ]
    if not rows:  # the library registers its own, so its installation is not complete
        text = "no driver is registered, not even those of this library: install it again"
        raise click.ClickException(text)
    print_rows(rows, ("name", "type"), output)


command.add_command(list_)
