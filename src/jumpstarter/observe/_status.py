"""Describe what goes on in an exporter as JSON, for its status page.

Clients and devices contribute text, which the page shows as text only. Here, the output of consoles
is made readable: escape sequences of terminals are left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar

from .._exporter.server import Server
from .._exporter.view import DriverView, SessionView, View
from .._version import __version__
from ..drivers.console import ConsoleStatus, RecordedConsole

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["Gathered", "gather", "readable", "status"]

_TAIL: Final = 16 * 1024  # bytes of a console that are shown
_ROWS: Final = 500  # of a list; the page says how many there are in all
_TEXT: Final = 1000  # characters of a description
# Escape sequences that begin with CSI, OSC and others; and carriage returns at the end of a line.
_SEQUENCE: Final = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[ -/]*[0-~]|\r+(?=\n)"
)
_CONTROLS: Final = dict.fromkeys({*range(32), *range(127, 160)} - {9, 10})

T = TypeVar("T")


class Gathered(NamedTuple):
    """The state that is shown, before it is described.

    Attributes:
        view: What goes on.
        consoles: The path of each recorded console, what it does, and its last bytes.
    """

    view: View
    consoles: Sequence[tuple[str, ConsoleStatus, bytes]]


def gather(server: Server) -> Gathered:
    """Return what goes on in a server just now. In its loop."""
    view = server.view()
    drivers = [(each.path, each.driver) for each in view.drivers]
    return Gathered(
        view,
        [
            (path, driver.state, driver.latest(_TAIL))
            for path, driver in drivers
            if isinstance(driver, RecordedConsole)
        ],
    )


def status(gathered: Gathered, name: str) -> bytes:
    """Return what goes on, as JSON. In any thread."""
    view = gathered.view
    claims = {claim["connection"]: claim for claim in view.claims}
    places = {connection: place for place, connection in enumerate(claims)}
    sessions = sorted(
        view.sessions,
        key=lambda each: (places.get(each.caller.connection, len(places)), each.caller.connection),
    )
    return json.dumps(
        {
            "name": name,
            "address": view.address,
            "version": __version__,
            "draining": view.draining,
            "drivers": _first(view.drivers, _driver),
            "sessions": _first(sessions, lambda each: _session(each, claims)),
            "calls": _first(list(_calls(sessions)), dict),
            "consoles": _first(gathered.consoles, _console),
        }
    ).encode()


def _first(rows: Sequence[T], describe: Any) -> dict[str, Any]:
    """Return the number of rows, and the first ones."""
    return {"count": len(rows), "rows": [describe(each) for each in rows[:_ROWS]]}


def _driver(each: DriverView) -> dict[str, Any]:
    text = each.node.description or each.node.doc.partition("\n")[0]
    return {"path": each.path, "client": each.node.client, "text": text[:_TEXT]}


def _session(each: SessionView, claims: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    caller = each.caller
    claim = claims.get(caller.connection)
    turn = "" if claim is None else f"{claim['state']} {claim['seconds']:.0f} s"
    if claim is not None and claim["subtree"]:
        turn = f"{claim['subtree']}: {turn}"
    return {
        "turn": turn,
        "connection": caller.connection,
        "verified": str(caller.verified),
        "claimed": caller.claimed.name,
        "calls": len(each.calls),
    }


def _calls(sessions: Iterable[SessionView]) -> Iterable[dict[str, Any]]:
    for session in sessions:
        for call in session.calls:
            yield {
                "driver": call.driver,
                "method": call.method[:_TEXT],
                "connection": session.caller.connection,
                "seconds": None if call.age is None else round(call.age, 1),
            }


def _console(each: tuple[str, ConsoleStatus, bytes]) -> dict[str, Any]:
    path, state, tail = each
    return {
        "path": path,
        "source": state.source,
        "present": state.present,
        "reason": state.reason,
        "bytes": state.end,
        "watchers": state.watchers,
        "writer": state.writer,
        "tail": readable(tail),
    }


def readable(data: bytes) -> str:
    """Return the output of a console as text, without what only a terminal understands."""
    return _SEQUENCE.sub("", data.decode(errors="replace")).translate(_CONTROLS)
