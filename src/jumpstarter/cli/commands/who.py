"""The command `who`: show the holder of an exporter in exclusive use, and the queue."""

from __future__ import annotations

from typing import Any, Final

from ..._util.durations import describe_duration
from ..._util.extras import requires_extra
from .._connecting import Access, connected, onlooker_options
from .._exclusive import describe_verified, list_claims
from .._output import output_option, print_rows
from .._targets import split_address

with requires_extra("cli", "the command line"):
    import click

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["command"]

_COLUMNS: Final = ("connection", "state", "for", "verified", "says")
_WITH_BOARDS: Final = ("connection", "subtree", *_COLUMNS[1:])


@click.command("who")
@click.argument("arguments", nargs=-1, metavar="[ADDRESS]")
@output_option
@onlooker_options
def command(arguments: tuple[str, ...], output: str | None, access: Access) -> None:
    """Show the client that holds an exporter in exclusive use, and the clients that wait, in order.

    VERIFIED is what the system or TLS reports of a client, and SAYS the name that it gives itself.
    ADDRESS is by default $JUMPSTARTER_HOST.
    """
    address, rest = split_address(arguments, 0)
    if rest:
        raise click.UsageError(f"unexpected argument {rest[0]!r}")
    with connected(address, access, import_clients=False, claim=False) as root:
        rows = list_claims(root)
    if rows or output is not None:
        columns = _WITH_BOARDS if any(row["subtree"] for row in rows) else _COLUMNS
        print_rows([row if output else _shown(row) for row in rows], columns, output)
    else:
        click.echo("nobody holds the exporter, and nobody waits", err=True)


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    return {
        **row,
        "for": describe_duration(row["seconds"]),
        "verified": describe_verified(row),
        "says": row["claimed"],
    }
