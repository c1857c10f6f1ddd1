"""The command `kick`: end the session of the client that holds an exporter in exclusive use."""

from __future__ import annotations

from typing import Any

from ..._util.extras import requires_extra
from ..._util.text import escape_text, sanitize_name
from .._connecting import Access, connected, onlooker_options
from .._exclusive import check_board, describe_verified, kick, list_claims
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
    BOARD must name the one that is meant, even if only one of them is held. Only root, the
    exporter's own user at a unix: address, and the owners of the certificates that --operator names
    may do this. ADDRESS is by default $JUMPSTARTER_HOST.
    """
    address, rest = split_address(arguments, 0)
    if len(rest) > 1:
        raise click.UsageError(f"unexpected argument {rest[1]!r}")
    with connected(address, access, import_clients=False, claim=False) as root:
        board = rest[0] if rest else None
        check_board(root, board)
        holder = _holder(list_claims(root), board)
        for title in holder["calls"]:
            click.echo(f"it runs {escape_text(title)}, which is cancelled", err=True)
        if holder["calls"]:
            click.echo("waiting until that has ended; a plain method goes on to its end", err=True)
        kick(root, holder["connection"])
    click.echo(f"ended the session of {escape_text(_described(holder))}")


def _described(holder: dict[str, Any]) -> str:
    """Return the verified identity of a client, the name that it gives itself, and its board."""
    text = describe_verified(holder) or "a client"
    text += f", says {holder['claimed']!r}" if holder["claimed"] else ""
    return f"{text}, at {holder['subtree']}" if holder["subtree"] else text


def _holder(rows: list[dict[str, Any]], board: str | None) -> dict[str, Any]:
    """Return the entry of the holder whose session is to end."""
    name = "the exporter" if board is None else sanitize_name(board)
    meant = [row for row in rows if board is None or row["subtree"] == board]
    holders = [row for row in meant if row["state"] in ("holds", "leaves")]
    if not holders:
        entering = any(row["state"] == "enters" for row in meant)
        text = ", but a client is entering; try again" if entering else ""
        raise click.ClickException(f"nobody holds {name}{text}")
    return holders[0]
