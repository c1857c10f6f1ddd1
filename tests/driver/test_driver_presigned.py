"""Test `driver._presigned` in both kinds of loops, against a real server."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import logging
import threading
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, ClassVar, Final

import anyio
import pytest

from asyncio_loans import AsyncioCard
from helpers import PATIENCE, served
from jumpstarter.common.resources import PresignedRequestResource
from jumpstarter.driver import export
from jumpstarter.driver._handles import PresignedRequest, read_handle, redact_url
from jumpstarter.driver._presigned import (
    MAX_HOPS,
    PresignedRequestError,
    _redirect,
    open_presigned,
)
from jumpstarter.driver._stream import ResourceStream
from jumpstarter.errors import DriverError, ResourceError
from resources_for_tests import Library

BODY: Final = bytes(range(256)) * 3000
SECRETS: Final = {
    "Authorization": "Bearer secret",
    "Cookie": "secret",
    "X-Amz-Token": "secret",
    "x-goog-key": "secret",
    "X-MS-key": "secret",
    "Proxy-Authorization": "secret",
}

each_loop = pytest.mark.parametrize("loop", ["trio", "asyncio"])


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers by what the path says, and keeps what it was asked."""

    protocol_version = "HTTP/1.1"
    asked: ClassVar[list[tuple[str, dict[str, str]]]] = []
    stored: ClassVar[dict[str, bytes]] = {}
    location = ""
    let_go = threading.Event()
    cut_off = threading.Event()

    def do_GET(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.asked.append((self.path, headers))
        what = self.path.strip("/").partition("/")[0].partition("?")[0]
        if what == "wait":
            self.let_go.wait(PATIENCE)
        if what == "jump":
            self.answer(307, location=self.location)
        elif what == "nowhere":
            self.answer(302)
        elif what == "hops":
            left = int(self.path.partition("?")[0].rpartition("/")[2])
            self.answer(302, location=f"/hops/{left - 1}" if left > 1 else "/file%40name?sig=%2f")
        elif what in ("gzip", "deflate", "br"):
            body = gzip.compress(BODY) if what == "gzip" else zlib.compress(BODY)
            self.answer(200, body, **{"content-encoding": what})
        elif what == "missing":
            self.answer(403, b"the key secret is wrong")
        else:
            self.answer(200, BODY)

    def do_PUT(self) -> None:
        if self.path.startswith("/refuse"):
            self.close_connection = True
            self.answer(403)
            return
        self.stored[self.path] = b"an unfinished body"
        body = b""
        while size := int(self.rfile.readline() or b"0", 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        self.stored[self.path] = body
        if self.path == "/flood":
            self.close_connection = True
            self.send_response(200)
            self.end_headers()
            try:
                for _ in range(64):
                    self.wfile.write(bytes(1 << 20))
            except OSError:
                self.cut_off.set()
            return
        self.answer(200)

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"content-length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name there
        pass


@contextmanager
def running() -> Iterator[str]:
    """Run a server, and yield its URL."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = False
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            Handler.let_go.set()
            server.shutdown()
            thread.join()


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(Handler, "asked", [])
    monkeypatch.setattr(Handler, "stored", {})
    monkeypatch.setattr(Handler, "let_go", threading.Event())
    monkeypatch.setattr(Handler, "cut_off", threading.Event())
    with running() as address:
        yield address


def run(loop: str, main: Callable[[], Awaitable[Any]]) -> Any:
    async def in_time() -> Any:
        with anyio.fail_after(30):
            return await main()

    return anyio.run(in_time, backend=loop)


@asynccontextmanager
async def opened(
    url: str, method: str = "GET", headers: Mapping[str, str] = SECRETS, seconds: float = 60
) -> AsyncIterator[ResourceStream]:
    request = PresignedRequest(method=method, url=url, headers=headers)
    async with open_presigned(request, 2**30, seconds) as stream:
        yield stream


def fetch(loop: str, url: str, **options: Any) -> bytes:
    async def main() -> bytes:
        async with opened(url, **options) as stream:
            return b"".join([bytes(data) async for data in stream])

    data: bytes = run(loop, main)
    return data


# ----------------------------------------------------------------------------------------- GET


@each_loop
def test_a_get_is_made_with_its_headers_and_escapes(loop: str, url: str) -> None:
    assert fetch(loop, f"{url}/a%40b%2Fc/f?X-Sig=%2f%2B+%20&e=60") == BODY
    [(path, headers)] = Handler.asked
    assert path == "/a%40b%2Fc/f?X-Sig=%2f%2B+%20&e=60"
    assert headers["authorization"] == "Bearer secret"
    assert headers["x-amz-token"] == "secret"


@each_loop
def test_redirects_keep_their_escapes_and_end_after_ten(loop: str, url: str) -> None:
    assert fetch(loop, f"{url}/hops/{MAX_HOPS}") == BODY
    assert Handler.asked[-1][0] == "/file%40name?sig=%2f"
    assert all(headers["cookie"] == "secret" for _, headers in Handler.asked), "one origin"
    with pytest.raises(RuntimeError, match=r"Too many redirects \(10\)"):
        fetch(loop, f"{url}/hops/{MAX_HOPS + 1}")


@each_loop
def test_content_codings_are_undone(loop: str, url: str) -> None:
    for coding in ("gzip", "deflate"):
        assert fetch(loop, f"{url}/{coding}") == BODY
    with pytest.raises(ResourceError, match="is sent as br"):
        fetch(loop, f"{url}/br")


@each_loop
def test_credentials_go_to_no_other_origin(
    loop: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running() as other:
        monkeypatch.setattr(Handler, "location", f"{other}/file")
        assert fetch(loop, f"{url}/jump", headers={**SECRETS, "X-Plain": "1"}) == BODY
    (_, first), (_, second) = Handler.asked
    assert {name.lower() for name in SECRETS} <= first.keys()
    assert not {name.lower() for name in SECRETS} & second.keys()
    assert second["x-plain"] == "1"
    assert second["host"] in other


@each_loop
@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("missing", r"Presigned HTTP GET request failed: status=403, reason='Forbidden', url=http"),
        ("nowhere", "missing Location header"),
        ("jump", "is refused"),
    ],
)
def test_what_the_server_does_wrong_is_an_error_without_secrets(
    loop: str, url: str, path: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Handler, "location", "file:///etc/passwd?key=secret")
    with pytest.raises(PresignedRequestError, match=text) as caught:
        fetch(loop, f"{url}/{path}?key=secret".replace("//", "//me:secret@"))
    assert isinstance(caught.value, RuntimeError)
    assert "secret" not in str(caught.value)
    assert "[REDACTED]" in str(caught.value)


def test_an_encrypted_request_is_not_redirected_to_plain_text() -> None:
    assert _redirect("http://a/b", "https://c/d") == "https://c/d"
    with pytest.raises(PresignedRequestError, match="is refused: it is not https"):
        _redirect("https://a/b", "http://a/b")


@each_loop
def test_a_request_that_takes_too_long_is_ended(loop: str, url: str) -> None:
    with pytest.raises(TimeoutError, match=r"timed out after 0.1 s for .*\[REDACTED\]"):
        fetch(loop, f"{url}/wait?key=secret", seconds=0.1)


@each_loop
def test_a_server_that_cannot_be_reached_is_a_connection_error(loop: str, url: str) -> None:
    with pytest.raises(ConnectionError, match=r"127.0.0.1:1/file\?\[REDACTED\]: "):
        fetch(loop, "http://127.0.0.1:1/file?key=secret")
    with pytest.raises(ConnectionError, match="a header of the request cannot be sent") as caught:
        fetch(loop, f"{url}/file", headers={"X-Key": "secret\n"})
    assert caught.value.__cause__ is None


@each_loop
def test_secrets_are_not_logged(loop: str, url: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        fetch(loop, f"{url}/hops/1?key=secret")
        store(loop, f"{url}/new?key=secret", [b"data"])
    assert "secret" not in caplog.text
    assert "sig=" not in caplog.text


# ----------------------------------------------------------------------------------------- PUT


def store(loop: str, url: str, pieces: list[bytes]) -> None:
    async def main() -> None:
        async with opened(url, "PUT", {}) as stream:
            for piece in pieces:
                await stream.send(piece)

    run(loop, main)


@each_loop
def test_a_put_stores_what_is_written(loop: str, url: str) -> None:
    store(loop, f"{url}/new%40", [BODY[:1000], BODY[1000:]])
    assert Handler.stored == {"/new%40": BODY}
    store(loop, f"{url}/empty", [])
    assert Handler.stored["/empty"] == b""


@each_loop
def test_a_put_that_is_refused_fails_the_block(loop: str, url: str) -> None:
    with pytest.raises(RuntimeError, match=r"Presigned HTTP PUT request failed: status=403"):
        store(loop, f"{url}/refuse", [])


@each_loop
def test_the_body_of_the_answer_to_a_put_is_not_read(loop: str, url: str) -> None:
    store(loop, f"{url}/flood", [b"x"])
    assert Handler.cut_off.wait(PATIENCE)


@each_loop
def test_a_put_that_fails_in_the_middle_has_no_end(loop: str, url: str) -> None:
    async def main() -> None:
        async with opened(f"{url}/half", "PUT", {}) as stream:
            await stream.send(BODY)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(loop, main)
    assert Handler.stored in ({}, {"/half": b"an unfinished body"})


@each_loop
def test_directions_are_not_confused(loop: str, url: str) -> None:
    async def main() -> None:
        async with opened(f"{url}/file") as stream:
            with pytest.raises(ResourceError, match="lent to be read"):
                await stream.send(b"x")
            assert await stream.receive(3) == BODY[:3]
            await stream.aclose()
            await stream.wait_send_all_might_not_block()
        with pytest.raises(anyio.ClosedResourceError):
            await stream.receive()
        async with opened(f"{url}/new", "PUT") as stream:
            with pytest.raises(ResourceError, match="lent to be written"):
                await stream.receive()
            await stream.send_eof()
            await stream.send_eof()

    run(loop, main)


# ------------------------------------------------------------------------------------- handles


class Storer(Library):
    @export
    async def store(self, handle: Any, piece: bytes) -> None:
        async with self.resource(handle, 60) as stream:
            await stream.send(piece)

    @export
    async def fetch(self, handle: Any) -> str:
        async with self.resource(handle) as stream:
            return hashlib.sha256(b"".join([data async for data in stream])).hexdigest()


def test_a_driver_of_asyncio_takes_a_presigned_request_too(url: str) -> None:
    driver = AsyncioCard()
    with served(driver) as client:
        handle = PresignedRequestResource(headers={}, url=f"{url}/file", method="GET")
        client.call("flash", handle.model_dump(mode="json"))
        assert driver.content == BODY
        other = PresignedRequestResource(headers={}, url=f"{url}/new", method="PUT")
        client.call("dump", other.model_dump(mode="json"))
        assert Handler.stored == {"/new": BODY}
        with pytest.raises(DriverError, match="the card has gone"):
            client.call("dump", other.model_dump(mode="json"), True)
        client.call("flash", f"{url}/hops/3")
        assert driver.content == BODY


def test_a_driver_takes_the_dict_of_a_published_client(url: str) -> None:
    handle = PresignedRequestResource(headers={}, url=f"{url}/file", method="GET")
    other = PresignedRequestResource(headers={}, url=f"{url}/new", method="PUT")
    digest = hashlib.sha256(BODY).hexdigest()
    with served(Storer()) as client:
        assert client.call("fetch", handle.model_dump(mode="json")) == digest
        assert client.call("read_in_thread", handle.model_dump(mode="json")) == digest
        client.call("store", other.model_dump(mode="json"), b"stored")
        assert Handler.stored == {"/new": b"stored"}
        missing = {**handle.model_dump(mode="json"), "url": f"{url}/missing?key=secret"}
        with pytest.raises(DriverError, match="status=403") as caught:
            client.call("fetch", missing)
        assert "secret" not in str(caught.value)
    assert read_handle(handle) == read_handle(handle.model_dump())


@pytest.mark.parametrize(
    "handle",
    [
        {},
        {"kind": 1},
        {"kind": "presigned_request", "url": "http://h/?key=secret", "method": "DELETE"},
        {"kind": "presigned_request", "url": "ftp://h/?key=secret", "method": "GET"},
        {"kind": "presigned_request", "url": "http://h/", "method": "GET", "headers": ["secret"]},
        {"kind": "client_stream"},
        {"kind": "client_stream", "uuid": "no uuid"},
        {"kind": "client_stream", "uuid": "http://h/"},
        7,
        None,
    ],
)
def test_a_handle_of_another_form_is_refused_without_showing_it(handle: Any) -> None:
    with pytest.raises(ResourceError, match="a resource is named by the handle") as caught:
        read_handle(handle)
    assert "secret" not in str(caught.value)


def test_a_url_is_shown_without_its_secrets() -> None:
    shown = "http://[REDACTED]@host:1/path?[REDACTED]"
    assert redact_url("http://me:pw@host:1/path?key=1#f") == shown
    assert redact_url("https://host/path") == "https://host/path"
    assert redact_url("http://[bad") == "an invalid http:// URL"
    assert "secret" not in repr(PresignedRequest(method="GET", url="secret", headers=SECRETS))
