"""Answer GET requests in an exporter's loop, safely for the exporter. It needs h11.

A scraper, or a client that only pretends to be one, must not harm the exporter:

- A connection has ten seconds for its request and the answer, and carries one request.
- A request's head has at most 8 KiB, and nothing after it is looked at.
- There are at most 16 connections. A further one takes the place of the oldest one that has not
  sent its request yet, or has its answer already; so silent ones keep nobody out.
- Without a token, the request must name this machine's loopback as its host. Otherwise a page in
  the browser of this machine's user could read the answer, by a name that it lets resolve to
  127.0.0.1.
- An answer says that browsers must neither keep it nor guess its type.
- A request in plain HTTP at a port for HTTPS is answered, in plain HTTP, with the reason.
- An answer that goes on (server-sent events) ends when its reader has not taken a part of it within
  ten seconds, or hangs up. There are at most 8 of them, so that others are answered too.

This module knows nothing of metrics or of the status.
"""

from __future__ import annotations

import hmac
import logging
import ssl
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final

import trio

from .._io.accept import accept_forever
from .._io.sockets import ListenerSet
from .._io.tls import TlsStream
from .._io.transport import close_immediately
from .._util.extras import requires_extra
from .._util.log_limit import RateLimitedLogger
from .._util.text import sanitize_text

with requires_extra("metrics", "an exporter's HTTP server"):
    import h11

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["Answer", "Events", "HttpServer", "Route"]

_logger: Final = logging.getLogger("jumpstarter.observe")

_PATIENCE: Final = 10.0  # seconds; Prometheus gives up after as many
_MAX_HEAD: Final = 8192  # bytes of a request line and headers
_MAX_CONNECTIONS: Final = 16
_MAX_EVENTS: Final = 8  # connections with events, of these
_PERIOD: Final = 1.0  # seconds between two events
_PIECE: Final = 4096
_LINGER: Final = 1.0  # seconds to read on after the answer, so that a reset does not destroy it
_LINGER_PIECES: Final = 64  # pieces that are read meanwhile
_ALWAYS: Final = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Connection": "close",
}
_LOOPBACK: Final = ("localhost", "127.0.0.1", "[::1]")


@dataclass(frozen=True)
class Answer:
    """The answer to a request.

    Attributes:
        body: The content.
        kind: Its media type.
        status: The status code.
        headers: Further headers.
    """

    body: bytes
    kind: str = "text/plain; charset=utf-8"
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Events:
    """An answer that goes on, as server-sent events, until the client hangs up.

    Attributes:
        text: Returns the data of the next event: one line in UTF-8. A text that has not changed is
            not sent again; a comment shows then that the exporter lives.
    """

    text: Callable[[], Awaitable[bytes]]


Route = Callable[[], Awaitable[Answer | Events]]


@dataclass(eq=False)
class _Connection:
    """A connection that is open.

    Attributes:
        scope: Ends it.
        may_go: True unless its request is being answered.
        has_events: True while it is sent events.
    """

    scope: trio.CancelScope
    may_go: bool = True
    has_events: bool = False


class HttpServer:
    """Answer requests for a few paths.

    Args:
        routes: What makes the answer for each path.
        token: The secret that a request must have in `Authorization: Bearer`; empty for none.
        open_paths: Paths that need no token, since their answers have no secrets.
        hosts: Names by which this machine may be asked without a token, beside those of loopback.
    """

    def __init__(
        self,
        routes: Mapping[str, Route],
        *,
        token: str = "",
        open_paths: Collection[str] = (),
        hosts: Collection[str] = (),
    ) -> None:
        self._routes = routes
        self._token = token.encode()
        self._open_paths = frozenset(open_paths)
        self._hosts = {*_LOOPBACK, *hosts}
        self._open: dict[_Connection, None] = {}  # the oldest first
        self._event_log = RateLimitedLogger()

    async def run(
        self,
        listeners: ListenerSet,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Answer requests until cancelled."""
        async with trio.open_nursery() as nursery:
            for listener in listeners.listeners:
                nursery.start_soon(accept_forever, listener, self._serve, nursery)
            task_status.started()

    async def _serve(self, stream: trio.abc.Stream) -> None:
        connection = _Connection(trio.CancelScope(deadline=trio.current_time() + _PATIENCE))
        self._make_room()
        self._open[connection] = None
        try:
            with connection.scope, suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await self._talk_or_advise(stream, connection)
        except Exception as exc:  # noqa: BLE001 - a failure must not reach the exporter
            text = "internal error in the answer to an HTTP request; the exporter goes on"
            self._event_log.log(_logger, logging.ERROR, text, exc=exc)
        finally:
            self._open.pop(connection, None)
            await close_immediately(stream)

    def _make_room(self) -> None:
        if len(self._open) < _MAX_CONNECTIONS:
            return
        idle = (each for each in self._open if each.may_go)
        oldest = next(idle, next(iter(self._open)))
        del self._open[oldest]
        oldest.scope.cancel()

    async def _talk_or_advise(self, stream: trio.abc.Stream, connection: _Connection) -> None:
        try:
            await self._talk(stream, connection)
        except trio.BrokenResourceError as exc:
            if not isinstance(stream, TlsStream) or not _is_plain_http(exc.__cause__):
                raise
            answer = _refusal(400, "this port is for HTTPS: ask for https://")
            plain = stream.transport_stream
            await _send(plain, h11.Connection(h11.SERVER), answer)
            await _end(plain, connection)

    async def _talk(self, stream: trio.abc.Stream, connection: _Connection) -> None:
        rules = h11.Connection(h11.SERVER)
        is_head = False
        answer: Answer | Events
        try:
            request = await _request(stream, rules)
            if request is None:
                return
            connection.may_go = False
            is_head = request.method == b"HEAD"
            answer = await self._answer(request)
        except h11.RemoteProtocolError as exc:
            answer = _refusal(exc.error_status_hint, str(exc))
        if isinstance(answer, Events):
            if sum(each.has_events for each in self._open) < _MAX_EVENTS:
                connection.has_events = True
                await _send_events(stream, rules, answer, connection, is_head=is_head)
                return
            text = f"{_MAX_EVENTS} clients get events already; ask again later"
            answer = _refusal(503, text, {"Retry-After": "5"})
        await _send(stream, rules, answer, is_head=is_head)
        await _end(stream, connection)

    async def _answer(self, request: h11.Request) -> Answer | Events:
        if request.method not in {b"GET", b"HEAD"}:
            return _refusal(405, "only GET and HEAD", {"Allow": "GET, HEAD"})
        path = request.target.partition(b"?")[0].decode("latin-1")
        if self._token:
            if path not in self._open_paths and not _has_token(request, self._token):
                return self._refuse_token(request)
        elif _host_of(request) not in self._hosts:
            return _refusal(403, "ask for localhost: this server answers to no other host name")
        route = self._routes.get(path)
        if route is None:
            return _refusal(404, f"there is only {', '.join(self._routes)}")
        return await route()

    def _refuse_token(self, request: h11.Request) -> Answer:
        is_there = any(name == b"authorization" for name, _ in request.headers)
        text = f"an HTTP request for %s had {'a wrong token' if is_there else 'no token'}"
        shown = sanitize_text(request.target.decode("latin-1"))
        self._event_log.log(_logger, logging.WARNING, text, shown)
        text = "wrong token; the header must be" if is_there else "send the token:"
        return _refusal(401, f"{text} Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"})


async def _request(stream: trio.abc.Stream, rules: h11.Connection) -> h11.Request | None:
    """Read the head of a request; None if the client has closed the connection.

    Raises:
        h11.RemoteProtocolError: It is not HTTP, or too large.
    """
    left = _MAX_HEAD
    while True:
        event = rules.next_event()
        if event is h11.NEED_DATA:
            if not left:
                raise h11.RemoteProtocolError("the head of the request is too large", 431)
            data = bytes(await stream.receive_some(min(_PIECE, left)))
            left -= len(data)
            rules.receive_data(data)
        elif isinstance(event, h11.Request):
            return event
        else:
            return None


def _is_plain_http(failure: BaseException | None) -> bool:
    """Return whether a TLS handshake has failed because the client speaks HTTP without TLS."""
    return isinstance(failure, ssl.SSLError) and failure.reason == "HTTP_REQUEST"


async def _send(
    stream: trio.abc.Stream, rules: h11.Connection, answer: Answer, *, is_head: bool = False
) -> None:
    if rules.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:
        return
    length = {"Content-Length": str(len(answer.body))}
    headers = {"Content-Type": answer.kind, **length, **_ALWAYS, **answer.headers}
    head = rules.send(_response(answer.status, headers))
    body = b"" if is_head else rules.send(h11.Data(data=answer.body))
    await stream.send_all((head or b"") + (body or b""))


async def _end(stream: trio.abc.Stream, connection: _Connection) -> None:
    """End a connection after its answer, and let the client read that."""
    connection.may_go = True
    connection.scope.deadline = min(connection.scope.deadline, trio.current_time() + _LINGER)
    if isinstance(stream, trio.SocketStream):
        await stream.send_eof()
    await _read_on(stream)


def _response(status: int, headers: Mapping[str, str]) -> h11.Response:
    phrase = HTTPStatus(status).phrase
    return h11.Response(status_code=status, reason=phrase, headers=list(headers.items()))


async def _send_events(
    stream: trio.abc.Stream,
    rules: h11.Connection,
    events: Events,
    connection: _Connection,
    *,
    is_head: bool,
) -> None:
    """Send events until the client hangs up, or takes none for too long."""
    headers = {"Content-Type": "text/event-stream", **_ALWAYS}
    response = _response(200, headers)
    await stream.send_all(rules.send(response) or b"")
    if is_head:
        return
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_until_hang_up, stream, nursery.cancel_scope)
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await _send_each(stream, rules, events, connection)
        nursery.cancel_scope.cancel()


async def _send_each(
    stream: trio.abc.Stream, rules: h11.Connection, events: Events, connection: _Connection
) -> None:
    last = b""
    while True:
        text = await events.text()
        event = b":\n\n" if text == last else b"data: %b\n\n" % text
        await stream.send_all(rules.send(h11.Data(data=event)) or b"")
        last = text
        await trio.sleep(_PERIOD)
        connection.scope.deadline = trio.current_time() + _PATIENCE


async def _until_hang_up(stream: trio.abc.Stream, scope: trio.CancelScope) -> None:
    """Cancel a scope when the client has closed the connection, or sends what nobody reads."""
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        await _read_on(stream)
    scope.cancel()


async def _read_on(stream: trio.abc.Stream) -> None:
    """Discard what the client still sends, to its end, or up to a limit."""
    for _ in range(_LINGER_PIECES):
        if not await stream.receive_some(_PIECE):
            break


def _refusal(status: int, text: str, headers: Mapping[str, str] | None = None) -> Answer:
    return Answer(f"{text}\n".encode(), status=status, headers=headers or {})


def _has_token(request: h11.Request, token: bytes) -> bool:
    given = [value for name, value in request.headers if name == b"authorization"]
    kind, _, secret = (given[0] if len(given) == 1 else b"").partition(b" ")
    return kind.lower() == b"bearer" and hmac.compare_digest(secret.strip(), token)


def _host_of(request: h11.Request) -> str:
    """Return the host that a request names, without the port."""
    hosts = [value for name, value in request.headers if name == b"host"]
    host = (hosts[0] if len(hosts) == 1 else b"").decode("latin-1").lower()
    name, _, port = host.rpartition(":")
    return name if name and port.isdecimal() else host
