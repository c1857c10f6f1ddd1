"""Get a turn at an exporter in exclusive use, or take part in the session of another connection.

The exporter says in its HELLO that it is in exclusive use. The client calls `claim` of its own
service, a generator: it yields the client's place in the queue whenever that changes, and at last
the session. The session lasts as long as the connection. Nothing stays open for it, so that it
takes none of the connection's slots. So the warning before the end of a session, if that is
limited, comes from this side's own clock.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from typing import Any, Final

import trio

from .._protocol.frames import Kind
from .._util.text import escape_text
from ..errors import CallRefused, DriverError, DriverMethodNotImplemented, HandshakeError
from ._channel import Channel
from ._generators import RemoteGenerator
from ._outgoing_call import Request

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["Terms", "join", "wait_for_turn", "warn"]

# A child of "jumpstarter.client", so that a command can filter the records of that and not these.
_logger: Final = logging.getLogger("jumpstarter.client.queue")
_MAX_TEXT: Final = 1000  # characters of a place
_WARNING: Final = 300.0  # seconds between the warning and the end of a session, or a tenth of it


@dataclasses.dataclass(frozen=True, kw_only=True)
class Terms:
    """How to enter an exporter in exclusive use.

    Attributes:
        claim: Claim it, unless `session` is given.
        path: Claim the subtree that has the driver at this path, if subtrees are used by
            themselves; None for the only one.
        wait: Wait while others hold it.
        session: The key of the session to join.
    """

    claim: bool = True
    path: str | None = None
    wait: bool = True
    session: str | None = None


async def wait_for_turn(channel: Channel, terms: Terms) -> float | None:
    """Wait for a turn at the exporter, if it is in exclusive use.

    Returns:
        For how many seconds it lasts, for `warn`; None for no limit.

    Raises:
        HandshakeError: There is no turn for this client, or the connection is lost.
    """
    hello = channel.connection.rules.peer
    if hello is None or not hello.exclusive:
        return None
    try:
        if terms.session:
            await join(channel, terms.session)
        elif terms.claim:
            return await _claim(channel, terms)
    except CallRefused as exc:
        raise HandshakeError(f"{channel.name}: {escape_text(exc.message)}") from None
    except DriverError as exc:
        raise HandshakeError(f"{channel.name} gave no turn: {escape_text(str(exc))}") from exc
    return None


async def join(channel: Channel, session: str) -> None:
    """Take part in a session.

    Raises:
        CallRefused: It has ended.
        DriverError: The connection is lost.
    """
    await channel.call(_request(channel, Kind.UNARY, "join", session))
    channel.session = session


async def _claim(channel: Channel, terms: Terms) -> float | None:
    """Wait for a turn, and return for how many seconds it lasts; None for no limit."""
    whole = _request(channel, Kind.GENERATOR, "claim", terms.wait)
    if terms.path is None:
        return await _wait(channel, whole)
    part = _request(channel, Kind.GENERATOR, "claim_subtree", terms.path, terms.wait)
    try:
        return await _wait(channel, part)
    except DriverMethodNotImplemented:  # an exporter of an earlier version has one queue for all
        return await _wait(channel, whole)


async def _wait(channel: Channel, request: Request) -> float | None:
    left: Any = None
    told = ""
    is_free = False
    async with RemoteGenerator[Any](channel, request) as items:
        async for item in items:  # to its end: if it is left earlier, the claim is withdrawn
            if isinstance(key := _field(item, "session"), str):
                channel.session = key
                left = _field(item, "left")
            elif isinstance(item, dict) and item.get("session", item) is None:
                is_free = True  # the driver is in none of the subtrees
            elif isinstance(text := _field(item, "text"), str) and text != told:
                told = text
                place = escape_text(text[:_MAX_TEXT])
                _logger.warning("waiting for %s: %s", channel.name, place)
    if channel.session is None and not is_free:
        raise DriverError("it has sent no session")
    is_limited = isinstance(left, int | float) and math.isfinite(left) and left > 0
    return float(left) if is_limited else None


def _field(item: object, name: str) -> object:
    return item.get(name) if isinstance(item, dict) else None


def _request(channel: Channel, kind: Kind, method: str, *args: Any) -> Request:
    return Request(0, kind, method, args, driver=f"the exporter at {channel.name}")


async def warn(channel: Channel, left: float) -> None:
    """Log a warning before the exporter ends the session, unless the session ends earlier."""
    before = min(_WARNING, left / 10)
    finished = channel.connection.finished
    with trio.move_on_after(left - before):
        await finished.wait()
    if finished.is_set():
        return
    text = "the exporter at %s ends this session in %.0f s, since it limits how long one may last"
    _logger.warning(text, channel.name, before)
