"""Make the requests that clients have prepared: fetch what a driver reads, store what it writes.

At most 10 redirects of a GET are followed. Their URLs are used as they are, since a signature
covers the escapes. Headers that hold credentials go to no other origin than the first. A PUT has
its request in a task of its own, which takes the driver's bytes from a channel.

This works in either kind of loop.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final
from urllib.parse import urljoin, urlsplit

from .._io.transfer import CompressingWriter, DecompressingReader
from .._util.compression import Compression
from .._util.stream_errors import broken
from ..errors import ResourceError
from ._handles import PresignedRequest, redact_url
from ._http import IDLE, open_client, open_response, requesting
from ._stream import ResourceStream

if TYPE_CHECKING:
    import httpx
    from anyio.streams.memory import MemoryObjectReceiveStream

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["MAX_HOPS", "PresignedRequestError", "open_presigned"]

MAX_HOPS: Final = 10
_REDIRECTS: Final = (301, 302, 303, 307, 308)
_AHEAD: Final = 2  # chunks that may wait to be uploaded
_SECRET: Final = (
    "authorization",
    "cookie",
    "host",
    "proxy-authorization",
    "x-amz-",
    "x-goog-",
    "x-ms-",
)
# The content codings that are undone, although none was asked for: a store may keep a file in one.
_CODINGS: Final = {
    "identity": "",
    "gzip": Compression.GZIP,
    "x-gzip": Compression.GZIP,
    "deflate": Compression.GZIP,  # its decompressor reads both headers
    "zstd": Compression.ZSTD,
}
_PORTS: Final = {"http": 80, "https": 443}


class PresignedRequestError(ResourceError, RuntimeError):
    """The server did not do what a presigned request asks for."""


@asynccontextmanager
async def open_presigned(
    request: PresignedRequest, max_bytes: int, seconds: float
) -> AsyncIterator[ResourceStream]:
    """Make a request; a driver reads or writes its body within the block.

    Args:
        request: The request.
        max_bytes: The largest size of what is read.
        seconds: How long the whole block may take.

    Raises:
        PresignedRequestError: The server has refused it, or redirects too often.
        ConnectionError: The server cannot be reached, or the connection was lost.
        TimeoutError: It took too long.
        MissingExtra: The extra `http` is not installed.
    """
    silence = IDLE if request.method == "GET" else None
    async with open_client("a presigned request", silence) as client:
        import anyio  # noqa: PLC0415 - httpx needs it too

        with anyio.move_on_after(seconds) as scope:
            async with _opened(client, request, max_bytes) as stream:
                try:
                    yield stream
                finally:
                    stream.shut()
        if scope.cancelled_caught:
            text = f"timed out after {seconds:g} s for {redact_url(request.url)}"
            raise TimeoutError(f"Presigned HTTP {request.method} request {text}")


@asynccontextmanager
async def _opened(
    client: httpx.AsyncClient, request: PresignedRequest, max_bytes: int
) -> AsyncIterator[ResourceStream]:
    if request.method == "PUT":
        async with _put(client, request) as stream:
            yield stream
    else:
        response, url = await _follow(client, request)
        async with open_response(response, url, max_bytes, codings=_CODINGS) as receive:
            import anyio  # noqa: PLC0415 - httpx needs it too

            encoding = _CODINGS[response.headers.get("content-encoding", "identity").lower()]
            reader = DecompressingReader(
                receive,
                encoding,
                max_bytes,
                is_file=True,
                checkpoint=anyio.lowlevel.checkpoint,
            )
            yield ResourceStream(reader)


def _check_status(response: httpx.Response, method: str, url: str) -> None:
    if not response.is_success:
        text = f"Presigned HTTP {method} request failed: status={response.status_code}"
        reason = f"reason={response.reason_phrase!r}, url={redact_url(url)}"
        raise PresignedRequestError(f"{text}, {reason}")


# ------------------------------------------------------------------------------------------- GET


async def _follow(
    client: httpx.AsyncClient, request: PresignedRequest
) -> tuple[httpx.Response, str]:
    """Return the response behind all redirects, and its URL."""
    url, headers = request.url, request.headers
    for _ in range(MAX_HOPS + 1):
        with requesting(url):
            made = client.build_request("GET", url, headers=dict(headers))
            response = await client.send(made, stream=True)
            if response.is_success:
                return response, url
            await response.aclose()
        if response.status_code not in _REDIRECTS:
            _check_status(response, "GET", url)
        following = _redirect(url, response.headers.get("location", ""))
        headers = _headers_for(following, url, headers)
        url = following
    raise PresignedRequestError(f"Too many redirects ({MAX_HOPS}) for {redact_url(request.url)}")


def _redirect(url: str, location: str) -> str:
    shown = redact_url(url)
    if not location:
        text = "Presigned HTTP GET redirect missing Location header"
        raise PresignedRequestError(f"{text} for {shown}")
    following = urljoin(url, location)
    scheme, before = urlsplit(following).scheme, urlsplit(url).scheme
    if scheme not in _PORTS or (scheme == "http" and before == "https"):
        text = f"Presigned HTTP GET request for {shown} redirects to {redact_url(following)}"
        raise PresignedRequestError(f"{text}, which is refused: it is not {before}")
    return following


def _headers_for(following: str, url: str, headers: Mapping[str, str]) -> Mapping[str, str]:
    """Return the headers for a redirect, without secrets if it leads to another origin."""
    if _origin(following) == _origin(url):
        return headers
    return {name: value for name, value in headers.items() if not name.lower().startswith(_SECRET)}


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme)


# ------------------------------------------------------------------------------------------- PUT


@asynccontextmanager
async def _put(
    client: httpx.AsyncClient, request: PresignedRequest
) -> AsyncIterator[ResourceStream]:
    import anyio  # noqa: PLC0415 - httpx needs it too

    from .._io.anyio_tasks import open_tasks  # noqa: PLC0415 - imports anyio

    upload = _Upload(client, request)
    send, receive = anyio.create_memory_object_stream[bytes](_AHEAD)
    # If the block raises, the request's task is cancelled: the server gets no end of the body.
    async with send, receive, open_tasks() as tasks:
        tasks.start_soon(upload.run, receive)
        writer = CompressingWriter(upload.sender(send.send))
        stream = ResourceStream(None, writer, send.aclose)
        yield stream
        await stream.send_eof()
    upload.check()


class _Upload:
    """The request of a PUT.

    Attributes:
        failure: Why the request has failed, if it has.
    """

    def __init__(self, client: httpx.AsyncClient, request: PresignedRequest) -> None:
        self._client = client
        self._request = request
        self.failure: Exception | None = None

    async def run(self, receive: MemoryObjectReceiveStream[bytes]) -> None:
        """Make the request, with what is received as its body."""
        method, url, headers = self._request.method, self._request.url, self._request.headers
        try:
            with receive, requesting(url):
                made = self._client.build_request(
                    method, url, headers=dict(headers), content=receive
                )
                response = await self._client.send(made, stream=True)
                await response.aclose()  # unread: it may be of any size
                _check_status(response, method, url)
        except Exception as exc:  # noqa: BLE001 - `check` raises it
            self.failure = exc

    def sender(
        self, send: Callable[[bytes], Awaitable[None]]
    ) -> Callable[[bytes], Awaitable[None]]:
        """Make the function that passes bytes on to the request."""
        import anyio  # noqa: PLC0415 - httpx needs it too

        async def send_on(data: bytes) -> None:
            try:
                await send(data)
            except anyio.BrokenResourceError:
                self.check()
                raise broken("the server has answered before everything was sent") from None

        return send_on

    def check(self) -> None:
        """Raise the failure of the request, if it has failed."""
        if self.failure is not None:
            raise self.failure
