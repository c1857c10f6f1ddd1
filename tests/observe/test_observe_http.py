"""Test the HTTP server of the metrics: its answers, and that no scraper harms the exporter."""

from __future__ import annotations

import itertools
import re
import ssl
import sys
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import trio
import trio.testing
import trustme
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from trio.testing import MockClock, wait_all_tasks_blocked

from drivers_for_tests import Echo
from helpers import PATIENCE, timed
from jumpstarter import connect_async, serve_async
from jumpstarter.errors import ArgumentError, ConfigurationError, MissingExtra
from jumpstarter.observe import Metrics, _http, serve_metrics, serve_status
from jumpstarter.observe._http import Answer, Events, HttpServer
from jumpstarter.observe._serving import _Fresh
from transports import lockstep_pair

GET: Final = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"
MANY: Final = 16  # connections that the server keeps


@pytest.fixture(autouse=True)
def _no_stall_ends_a_connection(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Give connections minutes, except in tests that advance the clock themselves."""
    if "mock_clock" not in request.fixturenames:
        monkeypatch.setattr(_http, "_PATIENCE", 10 * PATIENCE)
        monkeypatch.setattr(_http, "_LINGER", 10 * PATIENCE)


class Scraper:
    """Requests over real sockets."""

    def __init__(self, url: str) -> None:
        self.url = url
        found = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/metrics", url)
        assert found is not None
        self.port = int(found[1])

    async def connect(self) -> trio.SocketStream:
        return await trio.open_tcp_stream("127.0.0.1", self.port)

    async def ask(self, request: bytes) -> tuple[int, dict[str, str], bytes]:
        """Send a request, and return the status, the headers and the body of the answer."""
        async with await self.connect() as stream:
            await stream.send_all(request)
            return answer_in(await everything(stream))


async def everything(stream: trio.abc.Stream) -> bytes:
    return b"".join([bytes(data) async for data in stream])


def answer_in(data: bytes) -> tuple[int, dict[str, str], bytes]:
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    return int(first.split()[1]), headers, body


@asynccontextmanager
async def scraped(token: str | None = None) -> AsyncIterator[tuple[Metrics, Scraper]]:
    metrics = Metrics()
    async with serve_metrics(metrics, "0", token=token) as url:
        yield metrics, Scraper(url)


@timed()
async def test_a_real_client_and_its_parser_read_the_answer() -> None:
    async with scraped() as (metrics, scraper):
        metrics.count_unknown()

        def scrape() -> tuple[str | None, str]:
            with urllib.request.urlopen(scraper.url, timeout=PATIENCE) as answer:  # noqa: S310 - ours
                return answer.headers["Content-Type"], answer.read().decode()

        kind, text = await trio.to_thread.run_sync(scrape)
    assert kind == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert families["jumpstarter_unknown_calls"].samples[0].value == 1
    assert families["jumpstarter_call_seconds"].type == "histogram"


@timed()
async def test_answers_and_events_come_by_tls(tmp_path: Path) -> None:
    authority = trustme.CA()
    served, trusting = (
        ssl.create_default_context(purpose)
        for purpose in (ssl.Purpose.CLIENT_AUTH, ssl.Purpose.SERVER_AUTH)
    )
    authority.issue_cert("localhost").configure_cert(served)
    authority.configure_trust(trusting)
    async with (
        serve_async(Echo(), f"unix:{tmp_path}/socket") as server,
        serve_status(server, "localhost:0", name="lab", ssl_context=served) as url,
    ):

        def read() -> tuple[str, bytes]:
            context = trusting
            with urllib.request.urlopen(url, timeout=PATIENCE, context=context) as page:  # noqa: S310
                kind = page.headers["Content-Type"]
            with urllib.request.urlopen(f"{url}events", timeout=PATIENCE, context=context) as news:  # noqa: S310
                return kind, news.readline()

        kind, line = await trio.to_thread.run_sync(read)
    assert url.startswith("https://localhost:")
    assert kind == "text/html; charset=utf-8"
    assert b'"name":"lab"' in line.replace(b": ", b":")


@timed()
async def test_plain_http_at_a_port_for_https_is_told_so() -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("localhost").configure_cert(context)
    async with serve_metrics(Metrics(), "0", ssl_context=context) as url:
        scraper = Scraper(url.replace("https:", "http:"))
        for request in (GET, GET.replace(b"GET", b"HEAD")):
            status, headers, body = await scraper.ask(request)
            assert status == 400
            assert headers["Connection"] == "close"
            assert body == b"this port is for HTTPS: ask for https://\n"
        async with await scraper.connect() as stream:
            await stream.send_all(b"neither HTTP nor TLS")
            assert b"HTTPS" not in await everything(stream)


@pytest.mark.parametrize(
    "context", ["a context", ssl.create_default_context()], ids=["str", "client's"]
)
@timed()
async def test_settings_for_tls_that_are_not_a_server_s_are_refused(context: Any) -> None:
    with pytest.raises((ArgumentError, ConfigurationError), match="ssl_context"):
        async with serve_metrics(Metrics(), "0", ssl_context=context):
            pytest.fail("it is served")


@timed()
async def test_an_answer_has_what_was_counted_before_the_request() -> None:
    async with scraped() as (metrics, scraper):
        for number in range(1, 4):
            metrics.count_unknown()
            _, _, body = await scraper.ask(GET)
            assert b"jumpstarter_unknown_calls_total %d.0\n" % number in body


@timed()
async def test_head_has_the_headers_only() -> None:
    async with scraped() as (_, scraper):
        status, headers, body = await scraper.ask(GET.replace(b"GET", b"HEAD"))
    assert (status, body) == (200, b"")
    assert int(headers["Content-Length"]) > 100
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Content-Type-Options"] == "nosniff"


@timed()
@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (b"GET /metrics/../etc HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (b"POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc", 405),
        (b"GET /metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n", 403),
        (b"GET /metrics HTTP/1.1\r\nHost: evil.example:127.0.0.1\r\n\r\n", 403),
        (b"GET /metrics HTTP/1.0\r\n\r\n", 403),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\nHost: a\r\nHost: localhost\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 9000 + b"\r\n\r\n", 431),
        (b"G" * 9000, 431),
        (GET.replace(b"localhost", b"127.0.0.1:9464"), 200),
        (GET.replace(b"localhost", b"[::1]:9464"), 200),
        (GET.replace(b"/metrics", b"/metrics?x=1"), 200),
    ],
    ids=[
        *("another path", "a path with dots", "another method", "another host", "a forged port"),
        *("no host", "TLS", "two hosts", "a long header", "a long line", "an address", "IPv6"),
        "a query",
    ],
)
async def test_a_request_has_the_status_that_it_deserves(request_: bytes, status: int) -> None:
    async with scraped() as (_, scraper):
        assert (await scraper.ask(request_))[0] == status
        assert (await scraper.ask(GET))[0] == 200  # the server goes on


@timed()
async def test_a_client_that_hangs_up_without_a_request_is_no_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with scraped() as (_, scraper):
        async with await scraper.connect() as stream:
            await stream.send_eof()
            assert await everything(stream) == b""
        assert (await scraper.ask(GET))[0] == 200
    assert not caplog.records


@timed()
async def test_a_token_is_needed_if_there_is_one(caplog: pytest.LogCaptureFixture) -> None:
    def with_header(header: bytes) -> bytes:
        return b"GET /metrics HTTP/1.1\r\nHost: lab.example\r\n" + header + b"\r\n"

    secret, other = b"Authorization: Bearer s3cret\r\n", b"Authorization: Bearer wrong\r\n"
    async with scraped("s3cret") as (_, scraper):
        for header in (b"", other, secret.replace(b"Bearer", b"Basic"), secret + other):
            status, headers, body = await scraper.ask(with_header(header))
            assert (status, headers["WWW-Authenticate"]) == (401, "Bearer")
            assert b"jumpstarter_" not in body
            assert body.startswith(b"wrong token;" if header else b"send the token:")
        assert (await scraper.ask(with_header(secret)))[0] == 200
        assert (await scraper.ask(with_header(secret.replace(b"Bearer", b"bearer"))))[0] == 200
    assert caplog.messages[0] == "an HTTP request for '/metrics' had no token"
    assert caplog.messages[1] == "an HTTP request for '/metrics' had a wrong token"
    assert "s3cret" not in caplog.text


@timed()
async def test_silent_connections_keep_nobody_out_and_are_not_kept(tmp_path: Path) -> None:
    async with (
        scraped() as (metrics, scraper),
        serve_async(Echo(), f"unix:{tmp_path}/s", metrics=metrics) as server,
        connect_async(server.address) as client,
    ):
        silent = [await scraper.connect() for _ in range(5 * MANY)]
        slow = [await scraper.connect() for _ in range(MANY)]
        for stream in slow:
            await stream.send_all(b"GET /met")
        assert (await scraper.ask(GET))[0] == 200
        assert await client.call_async("echo", 7) == 7
        for stream in silent[: 4 * MANY]:
            assert await everything(stream) == b""  # it was closed
        for stream in silent + slow:
            await stream.aclose()


async def ended(nursery: trio.Nursery, server: HttpServer, stream: trio.abc.Stream) -> trio.Event:
    """Serve one connection in a task; the event is set when it has ended."""
    event = trio.Event()

    async def serve() -> None:
        await server._serve(stream)
        event.set()

    nursery.start_soon(serve)
    await wait_all_tasks_blocked()
    return event


def server_of(body: bytes) -> HttpServer:
    async def answer() -> Answer:
        await trio.lowlevel.checkpoint()
        return Answer(body)

    return HttpServer({"/metrics": answer})


@pytest.mark.parametrize("begin", [b"", GET[:20], GET], ids=["silent", "slow", "deaf"])
async def test_a_connection_ends_after_ten_seconds(begin: bytes, mock_clock: MockClock) -> None:
    """Its client is silent, does not end its request, or does not read the answer."""
    ours, theirs = await lockstep_pair() if begin == GET else trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        end = await ended(nursery, server_of(b"x" * 1000), theirs)
        await ours.send_all(begin)
        await wait_all_tasks_blocked()
        mock_clock.jump(9.9)
        await wait_all_tasks_blocked()
        assert not end.is_set()
        mock_clock.jump(0.2)
        await end.wait()


def events_of() -> HttpServer:
    """Serve events that are all different."""
    numbers = itertools.count()

    async def text() -> bytes:
        await trio.lowlevel.checkpoint()
        return b"%d" % next(numbers)

    async def answer() -> Events:
        await trio.lowlevel.checkpoint()
        return Events(text)

    return HttpServer({"/metrics": answer})


async def test_events_go_on_for_a_reader_and_end_when_it_takes_none(mock_clock: MockClock) -> None:
    ours, theirs = await lockstep_pair()
    async with trio.open_nursery() as nursery:
        end = await ended(nursery, events_of(), theirs)
        await ours.send_all(GET)
        for number in range(30):  # longer than the patience
            data = b""
            while b"data: %d\n\n" % number not in data:
                data += bytes(await ours.receive_some())
            await wait_all_tasks_blocked()
            mock_clock.jump(1.0)
        await wait_all_tasks_blocked()
        mock_clock.jump(8.9)
        await wait_all_tasks_blocked()
        assert not end.is_set()
        mock_clock.jump(1.2)
        await end.wait()


@pytest.mark.usefixtures("mock_clock")
@pytest.mark.parametrize("flood", [b"", b"x" * 4096 * 65], ids=["hangs up", "floods"])
async def test_events_end_with_their_client(flood: bytes, caplog: pytest.LogCaptureFixture) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        end = await ended(nursery, events_of(), theirs)
        await ours.send_all(GET)
        await wait_all_tasks_blocked()
        assert not end.is_set()
        if flood:
            await ours.send_all(flood)
        else:
            await ours.aclose()
        await end.wait()
    assert not caplog.records


async def test_head_of_events_ends() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    await ours.send_all(GET.replace(b"GET", b"HEAD"))
    await events_of()._serve(theirs)
    status, headers, body = answer_in(await everything(ours))
    assert (status, headers["Content-Type"], body) == (200, "text/event-stream", b"")


async def test_a_client_that_goes_on_sending_is_read_for_a_second(mock_clock: MockClock) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        end = await ended(nursery, server_of(b"x"), theirs)
        await ours.send_all(GET)
        await wait_all_tasks_blocked()
        assert not end.is_set()
        await ours.send_all(b"x" * 4096)
        mock_clock.jump(1.1)
        await end.wait()


async def test_a_connection_that_is_answered_is_not_the_one_to_give_way() -> None:
    release = trio.Event()

    async def answer() -> Answer:
        await release.wait()
        return Answer(b"here")

    server = HttpServer({"/metrics": answer})
    async with trio.open_nursery() as nursery:
        first, theirs = trio.testing.memory_stream_pair()
        await first.send_all(GET)
        await ended(nursery, server, theirs)
        for _ in range(2 * MANY):
            await ended(nursery, server, trio.testing.memory_stream_pair()[1])
        release.set()
        data = b""
        while not data.endswith(b"here"):
            data += bytes(await first.receive_some())
        nursery.cancel_scope.cancel()


async def test_a_failure_of_a_route_stays_in_its_connection(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail() -> Answer:
        raise ValueError("a bug")

    ours, theirs = trio.testing.memory_stream_pair()
    await ours.send_all(GET)
    await HttpServer({"/metrics": fail})._serve(theirs)
    assert await everything(ours) == b""
    assert "internal error in the answer to an HTTP request" in caplog.text


async def test_requests_that_come_fast_share_a_text(autojump_clock: MockClock) -> None:
    made: list[float] = []

    async def make() -> bytes:
        await trio.lowlevel.checkpoint()
        made.append(len(made))
        return b"%d" % len(made)

    fresh, start = _Fresh(make), trio.current_time()
    assert await fresh.text() == b"1"
    got: list[bytes] = []

    async def ask() -> None:
        got.append(await fresh.text())

    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(ask)
    assert set(got) == {b"2"}
    assert trio.current_time() - start == pytest.approx(0.1)
    assert autojump_clock.autojump_threshold == 0
    await trio.sleep(1)
    assert await fresh.text() == b"3"


@timed()
@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0"])
async def test_other_machines_need_a_token(address: str) -> None:
    with pytest.raises(ConfigurationError, match="other machines reach it, and there is no token"):
        async with serve_metrics(Metrics(), address):
            pass


@timed()
async def test_other_machines_are_served_with_a_token() -> None:
    async with serve_metrics(Metrics(), "0.0.0.0:0", token="s3cret") as url:  # noqa: S106 - of this test
        assert re.fullmatch(r"http://0\.0\.0\.0:\d+/metrics", url)


@pytest.mark.parametrize("address", ["", "x", "70000", "http://localhost:80", "localhost", ":80"])
async def test_what_is_not_an_address_is_refused(address: str) -> None:
    with pytest.raises(ArgumentError, match="give PORT or HOST:PORT, as in 9464"):
        async with serve_metrics(Metrics(), address):
            pass


async def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "jumpstarter.observe._http", raising=False)
    nothing: Any = None
    monkeypatch.setitem(sys.modules, "h11", nothing)
    with pytest.raises(MissingExtra, match="needs the extra 'metrics'"):
        async with serve_metrics(Metrics(), "0"):
            pass


@timed()
async def test_an_answer_has_the_reason_of_its_status() -> None:
    async with scraped() as (_, scraper):
        for request, line in (
            (GET, b"HTTP/1.1 200 OK"),
            (GET.replace(b"/metrics", b"/other"), b"HTTP/1.1 404 Not Found"),
            (b"no HTTP\r\n\r\n", b"HTTP/1.1 400 Bad Request"),
        ):
            async with await scraper.connect() as stream:
                await stream.send_all(request)
                assert (await everything(stream)).startswith(line + b"\r\n")
