"""Fetch resources from `http://` and `https://` URLs, with httpx.

- The bytes are passed on unchanged; no content coding is requested or decoded.
- At most `MAX_REDIRECTS` redirects are followed, and none from https to http.
- A response is not read if its size exceeds the maximum, or if neither Content-Length nor chunked
  encoding shows where it ends. A response that is shorter than its Content-Length is an error.

httpx is an extra, and is imported when a URL is opened.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, Final

from ..errors import MissingExtra, ResourceError

if TYPE_CHECKING:
    import httpx

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["IDLE", "MAX_REDIRECTS", "is_url", "open_url"]

MAX_REDIRECTS: Final = 5  # a mirror behind a content network takes two or three
IDLE: Final = 30.0  # seconds that a server may send nothing
_CHUNK: Final = 64 * 1024


def is_url(handle: object) -> bool:
    """Return True if a handle is a URL that can be fetched."""
    return isinstance(handle, str) and handle.lower().startswith(("http://", "https://"))


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
    try:
        import httpx  # noqa: PLC0415 - needed only to fetch a URL
    except ImportError as exc:
        raise MissingExtra.named("http", "a resource with a URL", where="on the exporter") from exc
    headers = {"Accept-Encoding": "identity"}
    async with httpx.AsyncClient(timeout=silence, headers=headers) as client:
        with _built_in_errors(url):
            response = await _follow(client, url)
        chunks = response.aiter_raw(_CHUNK)
        try:
            _check(response, max_bytes)
            yield _reader(chunks, url)
        finally:
            await response.aclose()
            # If the driver did not read to the end, exhaust httpx's generators, which end
            # immediately on a closed connection. The garbage collector would do it too late.
            with suppress(httpx.HTTPError, httpx.StreamError):
                async for _ in chunks:
                    pass


@contextmanager
def _built_in_errors(url: str) -> Iterator[None]:
    """Turn httpx's exceptions into built-in ones."""
    import httpx  # noqa: PLC0415 - an extra

    try:
        yield
    except httpx.TimeoutException as exc:
        raise TimeoutError(f"{url}: the server was silent for too long") from exc
    except (httpx.HTTPError, httpx.InvalidURL) as exc:
        raise ConnectionError(f"{url}: {str(exc) or type(exc).__name__}") from exc


async def _follow(client: httpx.AsyncClient, url: str) -> httpx.Response:
    request = client.build_request("GET", url)
    for _ in range(MAX_REDIRECTS + 1):
        response = await client.send(request, stream=True)
        following = response.next_request
        if following is None:
            return response
        await response.aclose()
        if request.url.scheme == "https" and following.url.scheme != "https":
            raise ResourceError(f"{url} redirects from https to {following.url}, which is refused")
        request = following
    raise ResourceError(f"{url} redirects more than {MAX_REDIRECTS} times")


def _check(response: httpx.Response, max_bytes: int) -> None:
    if response.status_code != 200:
        raise ResourceError(f"{response.url}: {response.status_code} {response.reason_phrase}")
    coding = response.headers.get("content-encoding", "identity")
    if coding != "identity":
        raise ResourceError(f"{response.url}: is sent as {coding}, though that was not asked for")
    size = response.headers.get("content-length", "")
    if not size and response.headers.get("transfer-encoding", "").lower() != "chunked":
        text = f"{response.url}: the server does not say where the file ends, so that one cut short"
        raise ResourceError(f"{text} looks complete; have it send Content-Length or a chunked body")
    if size.isdecimal() and int(size) > max_bytes:
        text = f"{response.url} has {int(size):,} bytes, more than the {max_bytes:,} allowed"
        raise ResourceError(f"{text}; raise max_bytes where that is meant to be")


def _reader(chunks: AsyncIterator[bytes], url: str) -> Callable[[int | None], Awaitable[bytes]]:
    rest = b""

    async def receive(max_bytes: int | None) -> bytes:
        nonlocal rest
        with _built_in_errors(url):
            data = rest or await anext(chunks, b"")
        rest = b"" if max_bytes is None else data[max_bytes:]
        return data[: len(data) - len(rest)]

    return receive
