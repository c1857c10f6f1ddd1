"""Serve metrics, and a page with the status, by HTTP, for the length of an `async with` block."""

from __future__ import annotations

import dataclasses
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from .._api.contexts import AsyncContext
from .._exporter.metrics import Metrics
from .._exporter.server import Server
from .._io.addresses import Address, parse_address
from .._io.sockets import ListenerSet, open_listeners
from .._util.background import open_background
from .._util.checks import check_instance, check_secret, check_text
from .._util.event_loop import check_trio_loop
from ..errors import ArgumentError, ConfigurationError

if TYPE_CHECKING:  # it needs an extra
    from ._http import Route

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["serve_metrics", "serve_status"]

_METRICS: Final = "/metrics"
_INSTEAD: Final = "run it by trio.run() in a thread of its own"
_PORT: Final = re.compile(r"\d{1,5}", re.ASCII)
_PAUSE: Final = 0.1  # seconds between two texts, at least
_SHARE: Final = 9  # how much longer than it took to make one: a tenth of a processor at most


def serve_metrics(
    metrics: Metrics,
    address: str,
    *,
    token: str | None = None,
    ssl_context: ssl.SSLContext | None = None,
) -> AbstractAsyncContextManager[str]:
    """Serve what was counted at `http://ADDRESS/metrics`, in the format OpenMetrics 1.0.

    It needs the extra `metrics`. Enter it in the Trio loop of the exporter, beside `serve_async`;
    `Metrics` has an example. Entering and leaving are checkpoints. Leaving ends the connections.

    Each answer has the counts of its own time. Texts are made in a worker thread, at most ten in a
    second, and take at most a tenth of a processor: requests that come faster wait, and share one.
    Of all connections, 16 are kept, for 10 seconds each. A request's head has at most 8 KiB.

    Args:
        metrics: The object that `serve_async` was given.
        address: `PORT`, which listens at 127.0.0.1 only, or `HOST:PORT`; IPv6 in brackets. Port 0
            takes any free one.
        token: The secret that a request must have, as `Authorization: Bearer TOKEN`. It crosses the
            network in cleartext, unless there is an `ssl_context`. Without it, only addresses of
            loopback are accepted, and requests must name `localhost`, `127.0.0.1`, `[::1]` or HOST
            as their host.
        ssl_context: A server's, with its certificate, to serve at `https://`.

    Returns:
        An async context manager that yields the URL, with the real port.

    Raises:
        ConfigurationError: (on entering) The address is in use or not ours, or other machines reach
            it and there is no token.
        MissingExtra: (on entering) The extra is not installed.
        ArgumentError: (on entering) The address or another argument cannot be used.
        RuntimeError: (on entering) No Trio loop runs in this thread.
    """
    managed = _serve(metrics, address, token=token, context=ssl_context)
    return AsyncContext(managed, "async with serve_metrics(...) as url:")


@asynccontextmanager
async def _serve(
    metrics: Metrics, address: str, *, token: str | None, context: ssl.SSLContext | None
) -> AsyncIterator[str]:
    check_trio_loop("serve_metrics()", _INSTEAD)
    check_instance("metrics", metrics, Metrics, "a jumpstarter.observe.Metrics")
    from ._exposition import CONTENT_TYPE, exposition  # noqa: PLC0415 - it needs an extra
    from ._http import Answer  # noqa: PLC0415 - the same

    limiter = trio.CapacityLimiter(1)  # drivers' threads are not ours to use
    fresh = _Fresh(partial(trio.to_thread.run_sync, exposition, metrics, limiter=limiter))

    async def answer() -> Answer:
        return Answer(await fresh.text(), CONTENT_TYPE)

    async with _served({_METRICS: answer}, address, token, context) as url:
        yield f"{url}{_METRICS}"


def serve_status(
    server: Server,
    address: str,
    *,
    name: str = "",
    token: str | None = None,
    ssl_context: ssl.SSLContext | None = None,
) -> AbstractAsyncContextManager[str]:
    """Serve a page at `http://ADDRESS/` that shows what goes on, read-only.

    It shows the drivers, the clients that are connected, the calls that run, and the end of each
    `RecordedConsole`, and gets news every second. How long calls have run is shown if the
    server has `metrics`. It needs the extra `metrics`, for h11. Enter it in the Trio loop of the
    exporter, inside `serve_async`. Entering and leaving are checkpoints.

    The limits are those of `serve_metrics`, except that a page that gets news keeps its connection.
    At most 8 pages do; a further one waits until one of them is closed or hidden. Programs can ask
    for `/status.json`, or read `/events`: server-sent events with the same JSON.

    Args:
        server: The object that `serve_async` has given.
        address: See `serve_metrics`.
        name: The name of the exporter, for the title.
        token: See `serve_metrics`. The page itself needs none, and asks for it; it stays in the
            browser's tab. Consoles show secrets, and every user of this machine can reach an
            address of loopback: give a token if there are others.
        ssl_context: See `serve_metrics`.

    Returns:
        An async context manager that yields the URL, with the real port.

    Raises:
        ConfigurationError: (on entering) As for `serve_metrics`, as the others.
        MissingExtra: (on entering) The extra is not installed.
        ArgumentError: (on entering) The address or another argument cannot be used.
        RuntimeError: (on entering) No Trio loop runs in this thread.
    """
    managed = _serve_status(server, address, name=name, token=token, context=ssl_context)
    return AsyncContext(managed, "async with serve_status(...) as url:")


@asynccontextmanager
async def _serve_status(
    server: Server, address: str, *, name: str, token: str | None, context: ssl.SSLContext | None
) -> AsyncIterator[str]:
    check_trio_loop("serve_status()", _INSTEAD)
    check_instance("server", server, Server, "a jumpstarter.Server")
    check_text("the name", name, "a str")
    from ._http import Answer, Events  # noqa: PLC0415 - it needs an extra
    from ._page import page, page_policy  # noqa: PLC0415 - for this only
    from ._status import gather, status  # noqa: PLC0415 - the same

    limiter = trio.CapacityLimiter(1)  # as above

    async def make() -> bytes:
        return await trio.to_thread.run_sync(status, gather(server), name, limiter=limiter)

    fresh, body = _Fresh(make), page()
    whole = Answer(body, "text/html; charset=utf-8", headers=page_policy(body))

    async def show_page() -> Answer:
        await trio.lowlevel.checkpoint()
        return whole

    async def show_status() -> Answer:
        return Answer(await fresh.text(), "application/json")

    async def follow_status() -> Events:
        await trio.lowlevel.checkpoint()
        return Events(fresh.text)

    routes: dict[str, Route] = {
        "/": show_page,
        "/status.json": show_status,
        "/events": follow_status,
    }
    async with _served(routes, address, token, context, ["/"]) as url:
        yield f"{url}/"


@asynccontextmanager
async def _served(
    routes: Mapping[str, Route],
    address: str,
    token: str | None,
    context: ssl.SSLContext | None,
    open_paths: Collection[str] = (),
) -> AsyncIterator[str]:
    """Serve some paths during the block, and yield the URL without a path."""
    from ._http import HttpServer  # noqa: PLC0415 - it needs an extra

    where, secret = http_address(address), check_secret("token", token, "a str, or None")
    listeners = await _listen(where, secret, context)
    try:
        server = HttpServer(routes, token=secret, open_paths=open_paths, hosts=[where.host])
        async with open_background() as nursery:
            await nursery.start(server.run, listeners)
            scheme = "http:" if context is None else "https:"
            yield scheme + str(listeners.address).partition(":")[2]
    finally:
        with trio.CancelScope(shield=True):
            await listeners.aclose()


def http_address(text: str) -> Address:
    """Read `PORT` or `HOST:PORT`.

    Raises:
        ArgumentError: It is neither.
    """
    check_text("the address", text, "a str like 9464 or 127.0.0.1:9464")
    try:
        return parse_address(f"tcp://{f'127.0.0.1:{text}' if _PORT.fullmatch(text) else text}")
    except ArgumentError:
        accepted = "give PORT or HOST:PORT, as in 9464, 127.0.0.1:9464 or [::1]:9464"
        raise ArgumentError(f"cannot serve HTTP at {text!r}: {accepted}") from None


async def _listen(where: Address, secret: str, context: ssl.SSLContext | None) -> ListenerSet:
    if context is not None:
        accepted = "an ssl.SSLContext, or None"
        check_instance("ssl_context", context, ssl.SSLContext, accepted)
        where = dataclasses.replace(where, scheme="tls")
    # The token decides, below, whether other machines may reach it.
    listeners = await open_listeners(where, ssl_context=context, insecure=True)
    if listeners.exposed and not secret:
        with trio.CancelScope(shield=True):
            await listeners.aclose()
        text = f"cannot serve HTTP at {where.host}: other machines reach it, and there is no token"
        raise ConfigurationError(f"{text}. Listen at 127.0.0.1, or give a token")
    return listeners


class _Fresh:
    """Make a text when a client asks for it, but not too often.

    Args:
        make: Makes the text.
    """

    def __init__(self, make: Callable[[], Awaitable[bytes]]) -> None:
        self._make = make
        self._turn = trio.Lock()  # its holder makes a text, or finds a new enough one
        self._begun = self._next = float("-inf")
        self._text = b""

    async def text(self) -> bytes:
        """Return a text that was begun after this call. A checkpoint."""
        asked = trio.current_time()
        async with self._turn:
            if self._begun <= asked:
                await trio.sleep_until(self._next)
                begun = trio.current_time()
                self._text = await self._make()
                self._begun, now = begun, trio.current_time()
                self._next = now + max(_PAUSE, _SHARE * (now - begun))
            return self._text
