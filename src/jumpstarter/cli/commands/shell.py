"""The command `shell`."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from ..._util.extras import requires_extra
from ...common._env import exporter_address
from .._completed import complete_exporter
from .._connecting import Access, access_options

with requires_extra("cli", "the command line"):
    import click

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["command"]

_LEVELS: Final = ("debug", "info", "warning", "error")
_EPILOG: Final = (
    "The exit code is COMMAND's own; 127 if it is not found, 126 if it cannot be executed, and "
    "128 + N if signal N has ended it."
)


@click.command("shell", epilog=_EPILOG, context_settings={"allow_interspersed_args": False})
@click.option(
    "--exporter",
    metavar="NAME",
    shell_complete=complete_exporter,
    help="serve the configuration of this name",
)
@click.option(
    "--exporter-config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="serve this configuration",
)
@click.option("--address", "--tls-grpc", metavar="ADDRESS", help="use the exporter at this address")
@click.option(
    "--tls-grpc-insecure",
    "insecure",
    is_flag=True,
    help="reach an address of the form HOST:PORT without TLS",
)
@click.option("--passphrase", help="the exporter's token; visible to all users of this machine")
@access_options
@click.option(
    "--exporter-logs",
    is_flag=True,
    help="print the exporter's log to stderr, in an interactive shell too",
)
@click.option(
    "--log-level",
    type=click.Choice(_LEVELS),
    help="the lowest level that is logged (default: info with --exporter-logs, else warning)",
)
@click.argument("command", metavar="[--] [COMMAND...]", nargs=-1, type=click.UNPROCESSED)
def command(
    *,
    exporter: str | None,
    exporter_config: Path | None,
    address: str | None,
    insecure: bool,
    access: Access,
    exporter_logs: bool,
    log_level: str | None,
    command: tuple[str, ...],
) -> int:
    """Run COMMAND, or an interactive shell, with an exporter.

    The exporter of a configuration is served until the program ends. In the program, `j` and
    `jumpstarter.utils.env.env()` reach the exporter.
    """
    from .._session import Program, run_at, run_with  # noqa: PLC0415 - not for --help

    given = [each for each in (exporter, exporter_config, address) if each is not None]
    if len(given) != 1:
        text = "give one of --exporter NAME, --exporter-config FILE and --address ADDRESS"
        raise click.UsageError(text)
    program = Program(
        command=command,
        exporter_logs=exporter_logs,
        log_level=log_level or ("info" if exporter_logs else "warning"),
    )
    if address is None:
        if insecure or access != Access():
            raise click.UsageError("the options for access are for --address")
        return run_with(program, exporter, exporter_config)
    return run_at(program, exporter_address(address, insecure=insecure), access)
