"""Tests of `jumpstarter.driver._http`, against a real server: URLs that an exporter fetches."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import re
import ssl
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import trio
import trustme

from helpers import served
from jumpstarter.client import DriverClient
from jumpstarter.driver._http import MAX_REDIRECTS, is_url, open_url
from jumpstarter.errors import DriverConnectionError, DriverError, DriverInvalidArgument
from resources_for_tests import Library

BODY: Final = bytes(range(256)) * 1000
DIGEST: Final = hashlib.sha256(BODY).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers by what the path says."""

    protocol_version = "HTTP/1.1"
    elsewhere = ""
    let_go = threading.Event()

    def do_GET(self) -> None:
        what, _, rest = self.path.strip("/").partition("/")
        getattr(self, f"answer_{what}")(rest)

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"content_length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def answer_file(self, _: str) -> None:
        assert self.headers["accept-encoding"] == "identity"
        self.answer(200, BODY)

    def answer_hops(self, rest: str) -> None:
        left = int(rest)
        self.answer(302, location=f"/hops/{left - 1}" if left > 1 else "/file")

    def answer_elsewhere(self, _: str) -> None:
        self.answer(302, location=self.elsewhere)

    def answer_missing(self, _: str) -> None:
        self.answer(404, b"no such image")

    def answer_zipped(self, _: str) -> None:
        self.answer(200, gzip.compress(BODY), content_encoding="gzip")

    def answer_short(self, _: str) -> None:
        self.answer(200, BODY, content_length=str(2 * len(BODY)))
        self.close_connection = True

    def answer_endless(self, _: str) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(BODY)
        self.close_connection = True

    def answer_cut(self, _: str) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(BODY), BODY))
        self.close_connection = True

    def answer_unsized(self, _: str) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for _number in range(10):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(BODY), BODY))
        self.wfile.write(b"0\r\n\r\n")

    def answer_silent(self, _: str) -> None:
        self.let_go.wait(30)
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name there
        """Say nothing."""


class Server(http.server.ThreadingHTTPServer):
    """Forgets connections that the client has cut."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing."""


@contextmanager
def running(context: ssl.SSLContext | None = None) -> Iterator[str]:
    """Run a server, and give the beginning of its URLs."""
    with Server(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = False
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            scheme = "http" if context is None else "https"
            yield f"{scheme}://127.0.0.1:{server.server_address[1]}"
        finally:
            Handler.let_go.set()
            server.shutdown()
            thread.join()


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(Handler, "let_go", threading.Event())
    with running() as address:
        yield address


@pytest.fixture
def client() -> Iterator[DriverClient]:
    with served(Library()) as client:
        yield client


@pytest.mark.parametrize("method", ["read", "read_in_thread"])
def test_a_url_is_fetched_by_the_exporter(url: str, client: DriverClient, method: str) -> None:
    assert client.call(method, f"{url}/file") == DIGEST
    assert client.call(method, f"{url}/hops/{MAX_REDIRECTS}") == DIGEST


def test_pieces_are_as_small_as_they_are_asked_for(url: str, client: DriverClient) -> None:
    assert client.call("read", f"{url}/file", pieces_of=1000) == DIGEST
    assert client.call("read_some", f"{url}/file", 3) == BODY[:3]


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("hops/6", "redirects more than 5 times"),
        ("missing", "404"),
        ("zipped", "sent as gzip"),
    ],
)
def test_what_is_not_the_file_itself_is_refused(
    url: str, client: DriverClient, path: str, text: str
) -> None:
    with pytest.raises(DriverInvalidArgument, match=text):
        client.call("read", f"{url}/{path}")


def test_one_that_is_too_large_is_not_begun_where_the_server_says_so(
    url: str, client: DriverClient
) -> None:
    with pytest.raises(DriverInvalidArgument, match="has 256,000 bytes, more than the 255,999"):
        client.call("read", f"{url}/file", 255_999)
    with pytest.raises(DriverInvalidArgument, match="more than the 300,000 bytes"):
        client.call("read", f"{url}/unsized", 300_000)


def test_a_file_that_was_cut_short_is_an_error(url: str, client: DriverClient) -> None:
    with pytest.raises(DriverConnectionError, match="/short"):
        client.call("read", f"{url}/short")


@pytest.mark.parametrize("address", ["http://127.0.0.1:1/file", "http://no.such.invalid/"])
def test_a_server_that_is_not_there_is_named(
    client: DriverClient, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    with pytest.raises(DriverConnectionError, match=re.escape(address)):
        client.call("read", address)


def test_a_url_that_makes_no_sense_is_an_error(client: DriverClient) -> None:
    with pytest.raises(DriverError, match="http://"):
        client.call("read", "http://[::1")


def test_a_silent_server_is_not_waited_for_for_ever(url: str) -> None:
    async def main() -> None:
        with trio.fail_after(30):
            async with open_url(f"{url}/silent", 1000, 0.05):
                raise AssertionError

    with pytest.raises(TimeoutError, match="silent for too long"):
        trio.run(main)


def test_a_redirect_from_https_to_http_is_refused(
    url: str, client: DriverClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    monkeypatch.setattr(Handler, "elsewhere", f"{url}/file")
    with running(context) as secure:
        assert client.call("read", f"{secure}/file") == DIGEST
        with pytest.raises(DriverInvalidArgument, match="from https to http://"):
            client.call("read", f"{secure}/elsewhere")
        monkeypatch.setattr(Handler, "elsewhere", f"{secure}/file")
        assert client.call("read", f"{url}/elsewhere") == DIGEST


def test_a_redirect_to_another_scheme_is_refused(
    url: str, client: DriverClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Handler, "elsewhere", "file:///etc/passwd")
    with pytest.raises(DriverError, match="/elsewhere"):
        client.call("read", f"{url}/elsewhere")


def test_without_httpx_the_driver_says_what_to_install(
    client: DriverClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(DriverError, match=r"the extra 'http'.*pip install .*\[http\]"):
        client.call("read", "http://127.0.0.1:1/file")


def test_only_urls_are_taken_for_urls() -> None:
    assert is_url("http://host/")
    assert is_url("HTTPS://host/")
    assert not is_url("ftp://host/")
    assert not is_url(7)
