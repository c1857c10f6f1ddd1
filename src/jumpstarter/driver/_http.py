"""Fetch resources from `http://` and `https://` URLs, with httpx.

- The bytes are passed on unchanged; no content coding is requested or decoded.
- At most `MAX_REDIRECTS` redirects are followed, and none from https to http.
- A response is not read if its size exceeds the maximum, or if neither Content-Length nor chunked
  encoding shows where it ends. A response that is shorter than its Content-Length is an error.
- Queries, passwords and headers, which may hold secrets, are not in errors or logs. So what httpx
  logs of these requests is dropped.

It works in either kind of loop.

httpx is an extra, and is imported when a URL is opened.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

from ..errors import MissingExtra, ResourceError
from ._handles import redact_url

if TYPE_CHECKING:
    import httpx

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = [
    "IDLE",
    "MAX_REDIRECTS",
    "open_client",
    "open_response",
    "open_url",
    "requesting",
]

MAX_REDIRECTS: Final = 5  # a mirror behind a content network takes two or three
IDLE: Final = 30.0  # seconds that a server may send nothing
_CHUNK: Final = 64 * 1024
_LOGGERS: Final = ("httpx", *(f"httpcore.{name}" for name in ("connection", "http11", "proxy")))

_secret: ContextVar[bool] = ContextVar("jumpstarter_secret_request", default=False)


@asynccontextmanager
async def open_url(
    url: str, max_bytes: int, silence: float
) -> AsyncIterator[Callable[[int | None], Awaitable[bytes]]]:
    """Open a URL for reading, until the block ends.

    Args:
        url: The URL. Proxies and certificates come from the environment, as in httpx.
        max_bytes: The largest size of the file.
        silence: Seconds that the server may send nothing.

    Yields:
        A function that receives the next bytes, and `b""` at the end.

    Raises:
        MissingExtra: The extra `http` is not installed.
        ResourceError: The server does not answer with the file, or redirects too often.
        ConnectionError: The server cannot be reached, or the connection was lost before the end.
        TimeoutError: The server sent nothing for too long.
    """
    async with open_client("a resource with a URL", silence) as client:
        with requesting(url):
            response = await _follow(client, url)
        shown = str(response.url)  # the last one, behind all redirects
        async with open_response(response, shown, max_bytes, status=200) as receive:
            yield receive


@asynccontextmanager
async def open_client(what: str, silence: float | None) -> AsyncIterator[httpx.AsyncClient]:
    """Open a client of httpx that follows no redirects and asks for no content coding.

    Args:
        what: What needs it, for the error of a missing extra.
        silence: Seconds that a server may send nothing; None for no limit.

    Raises:
        MissingExtra: The extra `http` is not installed.
    """
    try:
        import httpx  # noqa: PLC0415 - needed only for a request
    except ImportError as exc:
        raise MissingExtra.named("http", what, where="on the exporter") from exc
    _drop_logs()
    headers = {"Accept-Encoding": "identity"}
    async with httpx.AsyncClient(timeout=silence, headers=headers) as client:
        yield client


@asynccontextmanager
async def open_response(
    response: httpx.Response,
    url: str,
    max_bytes: int,
    *,
    status: int | None = None,
    codings: Collection[str] = ("identity",),
) -> AsyncIterator[Callable[[int | None], Awaitable[bytes]]]:
    """Read the body of a response, and close it at the end of the block.

    Args:
        response: The response.
        url: Where it came from, for errors.
        max_bytes: The largest size of the body.
        status: The status that the response must have, if that was not checked before.
        codings: The content codings that the caller undoes.

    Yields:
        A function that receives the next bytes, and `b""` at the end.

    Raises:
        ResourceError: The status is another one, or the body is too large, encoded, or of unknown
            length.
    """
    import httpx  # noqa: PLC0415 - an extra

    chunks = response.aiter_raw(_CHUNK)
    try:
        if status not in (None, response.status_code):
            text = f"{response.status_code} {response.reason_phrase}"
            raise ResourceError(f"{redact_url(url)}: {text}")
        _check(response, url, max_bytes, codings)
        yield _reader(chunks, url)
    finally:
        with requesting(url):
            await response.aclose()
            # If the driver did not read to the end, exhaust httpx's generators, which end
            # immediately on a closed connection. The garbage collector would do it too late.
            with suppress(httpx.HTTPError, httpx.StreamError):
                async for _ in chunks:
                    pass


@contextmanager
def requesting(url: str) -> Iterator[None]:
    """Turn httpx's exceptions into built-in ones, and drop what it logs, within the block."""
    import httpx  # noqa: PLC0415 - an extra

    shown = redact_url(url)
    token = _secret.set(True)
    try:
        yield
    except httpx.TimeoutException as exc:
        raise TimeoutError(f"{shown}: the server was silent for too long") from exc
    except httpx.LocalProtocolError:  # its text shows the header
        raise ConnectionError(f"{shown}: a header of the request cannot be sent") from None
    except httpx.InvalidURL:  # likewise a part of the URL
        raise ConnectionError(f"{shown}: httpx finds that the URL is invalid") from None
    except httpx.HTTPError as exc:
        raise ConnectionError(f"{shown}: {str(exc) or type(exc).__name__}") from exc
    finally:
        _secret.reset(token)


@functools.cache
def _drop_logs() -> None:
    """Have httpx and httpcore log nothing of our requests; once per process."""
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(lambda _: not _secret.get())


async def _follow(client: httpx.AsyncClient, url: str) -> httpx.Response:
    request = client.build_request("GET", url)
    for _ in range(MAX_REDIRECTS + 1):
        response = await client.send(request, stream=True)
        following = response.next_request
        if following is None:
            return response
        await response.aclose()
        if request.url.scheme == "https" and following.url.scheme != "https":
            shown = redact_url(str(following.url))
            text = f"{redact_url(url)} redirects from https to {shown}, which is refused"
            raise ResourceError(text)
        request = following
    raise ResourceError(f"{redact_url(url)} redirects more than {MAX_REDIRECTS} times")


def _check(response: httpx.Response, url: str, max_bytes: int, codings: Collection[str]) -> None:
    shown = redact_url(url)
    coding = response.headers.get("content-encoding", "identity")
    if coding.lower() not in codings:
        raise ResourceError(f"{shown}: is sent as {coding}, though that was not asked for")
    size = response.headers.get("content-length", "")
    if not size and response.headers.get("transfer-encoding", "").lower() != "chunked":
        text = f"{shown}: the server does not say where the file ends, so that one cut short"
        raise ResourceError(f"{text} looks complete; have it send Content-Length or a chunked body")
    if size.isdecimal() and int(size) > max_bytes:
        text = f"{shown} has {int(size):,} bytes, more than the {max_bytes:,} allowed"
        raise ResourceError(f"{text}; raise max_bytes where that is meant to be")


def _reader(chunks: AsyncIterator[bytes], url: str) -> Callable[[int | None], Awaitable[bytes]]:
    rest = b""

    async def receive(max_bytes: int | None) -> bytes:
        nonlocal rest
        with requesting(url):
            data = rest or await anext(chunks, b"")
        rest = b"" if max_bytes is None else data[max_bytes:]
        return data[: len(data) - len(rest)]

    return receive
