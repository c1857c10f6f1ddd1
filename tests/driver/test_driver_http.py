"""Tests of `jumpstarter.driver._http`, against a real server: URLs that an exporter fetches."""

from __future__ import annotations

import hashlib
import re
import ssl
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import trio
import trustme

from helpers import served
from http_server import BODY, Handler, running
from jumpstarter.client import DriverClient
from jumpstarter.driver._http import MAX_REDIRECTS, open_url
from jumpstarter.errors import DriverConnectionError, DriverError, DriverInvalidArgument
from resources_for_tests import Library

DIGEST: Final = hashlib.sha256(BODY).hexdigest()


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


def test_a_silent_server_causes_a_timeout(url: str) -> None:
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
