"""Ask an exporter in exclusive use for its queue, and end the session of its holder."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Final, TypeAlias

from .._protocol.frames import Kind
from ..client import DriverClient
from ..client._outgoing_call import Request
from ..client._runner import portal_for
from ..errors import DriverError, DriverMethodNotImplemented

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["check_board", "describe_verified", "kick", "list_claims"]

Row: TypeAlias = dict[str, Any]
_KINDS: Final[dict[str, tuple[type, ...]]] = {
    "connection": (int,),
    "state": (str,),
    "subtree": (str,),
    "verified": (dict,),
    "claimed": (str,),
    "agent": (str,),
    "seconds": (int, float),
    "joined": (int,),
    "calls": (list,),
}


def list_claims(root: DriverClient) -> list[Row]:
    """Return the holder, and then the clients that wait.

    docs/howto/share-a-board.md lists the keys.

    Args:
        root: A client of the exporter.

    Raises:
        DriverError: The exporter is not in exclusive use, or the connection is lost.
    """
    rows = _call(root, "who")
    if not isinstance(rows, list):
        raise DriverError(f"it has sent a {type(rows).__name__} instead of its queue")
    return [_checked(row) for row in rows]


def describe_verified(row: Row) -> str:
    """Return what the system or TLS reports of the client of an entry, in words."""
    verified = row["verified"]
    known = {name: verified.get(name) for name in ("uid", "pid", "host")}
    texts = [f"{name} {value}" for name, value in known.items() if value not in (None, "")]
    texts += ["=".join(map(str, pair)) for pair in verified.get("subject") or ()]
    return ", ".join(texts)


def check_board(root: DriverClient, name: str | None) -> None:
    """Check that this client may end the session at a board.

    Args:
        root: A client of the exporter.
        name: The board; None for the whole exporter.

    Raises:
        CallRefused: This client may not do that, or there is no such board, or it has to be named.
        DriverError: The connection is lost.
    """
    with suppress(DriverMethodNotImplemented):  # one of an earlier version: `kick` checks it
        _call(root, "board", name)


def kick(root: DriverClient, connection: int) -> None:
    """End the session of a holder, and wait until its calls have ended.

    Args:
        root: A client of the exporter.
        connection: The number of the holder's connection.

    Raises:
        CallRefused: This client may not do that, or another client holds the exporter by now.
        DriverError: The exporter is not in exclusive use, or the connection is lost.
    """
    _call(root, "kick", connection)


def _call(root: DriverClient, method: str, *args: Any) -> Any:
    channel = root.channel.channel
    request = Request(0, Kind.UNARY, method, args, driver=f"the exporter at {channel.name}")
    portal = portal_for(root, method, method)
    try:
        return portal.call(channel.call, request)
    except DriverMethodNotImplemented:
        text = f"{channel.name} is not in exclusive use: its clients share it, and nobody holds it"
        raise DriverMethodNotImplemented(text) from None


def _checked(row: object) -> Row:
    """Check an entry that the exporter has sent."""
    if isinstance(row, dict):
        row.setdefault("subtree", "")  # an exporter of an earlier version does not send it
    if isinstance(row, dict) and all(
        isinstance(row.get(key), kinds) for key, kinds in _KINDS.items()
    ):
        subject = row["verified"].get("subject", [])
        if isinstance(subject, list) and all(isinstance(pair, list) for pair in subject):
            return row
    raise DriverError("it has sent an entry of its queue that cannot be read")
