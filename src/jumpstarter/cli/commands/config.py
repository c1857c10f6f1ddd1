"""The command `config`: check and list the configurations of exporters."""

from __future__ import annotations

from pathlib import Path

from ..._util.extras import requires_extra
from .._current_directory import add_current_directory
from .._output import output_option, print_rows

with requires_extra("cli", "the command line"):
    import click

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["command"]

_FAULTY = 1  # exit code


@click.group("config")
def command() -> None:
    """Check and list the configurations of exporters."""


@click.command("check")
@click.argument("file", type=click.Path(path_type=Path))
def check(file: Path) -> int:
    """Read a configuration strictly, and print a line for each fault.

    The modules of the drivers are imported, also those in the current directory, and the
    configuration is compared with the classes. No driver is made, so no device is accessed. What
    `run` refuses before it makes drivers is a fault here too, as a missing extra of a driver is.

    The exit code is 1 if there is a fault.
    """
    from ...config._check import find_faults  # noqa: PLC0415 - slow
    from .._config_check import serving_faults  # noqa: PLC0415 - the same

    add_current_directory()
    faults = find_faults(file, serving_faults)
    for fault in faults:
        click.echo(fault)
    if faults:
        return _FAULTY
    click.echo(f"{file}: no faults")
    return 0


@click.command("list")
@output_option
def list_(output: str | None) -> None:
    """List the exporters that `run --exporter` and `shell --exporter` know by name.

    JSON and YAML have for each exporter: `name`, the name to give; `path`, the file; `exporter`,
    its `metadata.name`, and `description`, or `error`, the reason why it cannot be read.
    """
    from ...config._loading import list_exporters  # noqa: PLC0415 - slow

    print_rows(list_exporters(), ("name", "path", "description"), output)


command.add_command(check)
command.add_command(list_)
