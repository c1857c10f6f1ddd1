"""The command `kick`: end the session of the client that holds an exporter in exclusive use."""

from __future__ import annotations

from ..._util.extras import requires_extra
from ..._util.text import escape_text
from .._connecting import Access, connected, onlooker_options
from .._exclusive import kick, list_claims
from .._targets import split_address

with requires_extra("cli", "the command line"):
    import click

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["command"]


@click.command("kick")
@click.argument("arguments", nargs=-1, metavar="[ADDRESS]")
@onlooker_options
def command(arguments: tuple[str, ...], access: Access) -> None:
    """End the session of the client that holds an exporter in exclusive use.

    Its calls are cancelled, and it is disconnected. The command waits until the calls have ended:
    one that does not end has to be ended by hand. Only root, the exporter's own user at a unix:
    address, and the owners of the certificates that --operator names may do this. ADDRESS is by
    default $JUMPSTARTER_HOST.
    """
    address, rest = split_address(arguments, 0)
    if rest:
        raise click.UsageError(f"unexpected argument {rest[0]!r}")
    with connected(address, access, import_clients=False, claim=False) as root:
        holder = next(
            (row for row in list_claims(root) if row["state"] in ("holds", "leaves")), None
        )
        if holder is None:
            raise click.ClickException("nobody holds the exporter")
        for title in holder["calls"]:
            click.echo(f"it runs {escape_text(title)}, which is cancelled", err=True)
        kick(root, holder["connection"])
    click.echo(f"ended the session of {escape_text(holder['claimed'] or 'a client')}")
