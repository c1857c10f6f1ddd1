"""The command `kick`: end the session of the client that holds an exporter in exclusive use."""

from __future__ import annotations

from typing import Any

from ..._util.extras import requires_extra
from ..._util.text import escape_text, sanitize_name
from .._connecting import Access, connected, onlooker_options
from .._exclusive import kick, list_claims
from .._targets import split_address

with requires_extra("cli", "the command line"):
    import click

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["command"]


@click.command("kick")
@click.argument("arguments", nargs=-1, metavar="[ADDRESS] [BOARD]")
@onlooker_options
def command(arguments: tuple[str, ...], access: Access) -> None:
    """End the session of the client that holds an exporter in exclusive use.

    Its calls are cancelled, and it is disconnected. The command waits until the calls have ended:
    one that does not end has to be ended by hand. If boards of the exporter are used independently,
    BOARD says which is meant, as `who` shows it. Only root, the exporter's own user at a unix:
    address, and the owners of the certificates that --operator names may do this. ADDRESS is by
    default $JUMPSTARTER_HOST.
    """
    address, rest = split_address(arguments, 0)
    if len(rest) > 1:
        raise click.UsageError(f"unexpected argument {rest[1]!r}")
    with connected(address, access, import_clients=False, claim=False) as root:
        holder = _holder(list_claims(root), rest[0] if rest else None)
        for title in holder["calls"]:
            click.echo(f"it runs {escape_text(title)}, which is cancelled", err=True)
        kick(root, holder["connection"])
    click.echo(f"ended the session of {escape_text(holder['claimed'] or 'a client')}")


def _holder(rows: list[dict[str, Any]], board: str | None) -> dict[str, Any]:
    """Return the entry of the holder whose session is to end."""
    name = "the exporter" if board is None else sanitize_name(board)
    meant = [row for row in rows if board is None or row["subtree"] == board]
    holders = [row for row in meant if row["state"] in ("holds", "leaves")]
    if not holders:
        entering = any(row["state"] == "enters" for row in meant)
        text = ", but a client is entering; try again" if entering else ""
        raise click.ClickException(f"nobody holds {name}{text}")
    if len(holders) > 1:
        boards = ", ".join(sanitize_name(row["subtree"]) for row in holders)
        raise click.UsageError(f"several clients hold a board: name one of {boards}")
    return holders[0]
