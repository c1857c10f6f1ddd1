"""Test the status page: what it tells, to whom, and that it runs nothing of others.

`tests/browser` looks at it with a real browser.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import h11
import pytest
import trio

from drivers_for_tests import Lab, Plain
from helpers import PATIENCE, timed, until
from jumpstarter import Server, connect_async, serve_async
from jumpstarter.drivers.console import RecordedConsole
from jumpstarter.errors import ArgumentError, ConfigurationError
from jumpstarter.observe import Metrics, _http, serve_status
from jumpstarter.observe._status import readable

HOSTILE = "</pre><script>alert(1)</script>"


@pytest.fixture(autouse=True)
def _no_stall_ends_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_http, "_PATIENCE", 10 * PATIENCE)


@asynccontextmanager
async def shown(
    server: Server, token: str | None = None, name: str = "bench 7"
) -> AsyncIterator[int]:
    """Serve the page, and yield its port."""
    async with serve_status(server, "0", name=name, token=token) as url:
        found = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/", url)
        assert found is not None
        yield int(found[1])


async def get(port: int, path: str, token: str = "") -> tuple[int, dict[str, str], bytes]:
    header = f"Authorization: Bearer {token}\r\n" if token else ""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{header}\r\n".encode())
        data = b"".join([bytes(piece) async for piece in stream])
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    return int(first.split()[1]), dict(line.split(": ", 1) for line in lines), body


async def status_at(port: int) -> dict[str, Any]:
    code, headers, body = await get(port, "/status.json")
    assert (code, headers["Content-Type"]) == (200, "application/json")
    found: dict[str, Any] = json.loads(body)
    return found


@timed()
async def test_status_has_the_drivers_sessions_and_running_calls(tmp_path: Path) -> None:
    lab = Lab(description=HOSTILE)
    tree = Plain(children={"dut": Plain(children={"lab": lab})})
    async with (
        serve_async(tree, f"unix:{tmp_path}/s", metrics=Metrics()) as server,
        shown(server) as port,
        connect_async(server.address, name=HOSTILE) as client,
        connect_async(server.address, name="another"),
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(client.children["dut"].children["lab"].call_async, "wait")
        await until(lambda: "wait started" in lab.log)
        found = await status_at(port)
        lab.let_go.set()
    assert (found["name"], found["address"]) == ("bench 7", server.address)
    rows = found["drivers"]["rows"]
    assert [row["path"] for row in rows] == [".", "dut", "dut.lab"]
    assert rows[2]["text"] == HOSTILE
    sessions = found["sessions"]["rows"]
    assert {row["claimed"] for row in sessions} == {HOSTILE, "another"}
    assert all(re.match(r"uid \d+, pid \d+", row["verified"]) for row in sessions)
    (call,) = found["calls"]["rows"]
    assert (call["driver"], call["method"]) == ("dut.lab", "wait")
    assert call["seconds"] >= 0
    assert found["consoles"] == {"count": 0, "rows": []}


@timed()
async def test_status_of_an_exporter_in_exclusive_use_has_the_holder(tmp_path: Path) -> None:
    served = serve_async(Plain(), f"unix:{tmp_path}/s", exclusive=True)
    async with served as server, shown(server) as port, connect_async(server.address):
        (row,) = (await status_at(port))["sessions"]["rows"]
    assert row["turn"].startswith("holds ")


@timed()
async def test_status_has_the_end_of_each_console(tmp_path: Path) -> None:
    script = r"printf '\033[1mboot\033[0m\r\n%s' '" + HOSTILE + "'; exec sleep 1000"
    tree = Plain(children={"serial": RecordedConsole(command=["sh", "-c", script])})
    async with serve_async(tree, f"unix:{tmp_path}/s") as server, shown(server) as port:
        while True:
            (console,) = (await status_at(port))["consoles"]["rows"]
            if console["tail"].endswith(HOSTILE):
                break
        assert console["tail"] == f"boot\n{HOSTILE}"
        assert (console["path"], console["present"]) == ("serial", True)


class EventReader:
    """Read server-sent events from a connection, with the rules of h11."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._rules = h11.Connection(h11.CLIENT)
        self._text = b""

    async def begin(self, *headers: tuple[str, str]) -> h11.Response:
        request = h11.Request(
            method="GET", target="/events", headers=[("Host", "localhost"), *headers]
        )
        await self.stream.send_all(self._rules.send(request) or b"")
        await self.stream.send_all(self._rules.send(h11.EndOfMessage()) or b"")
        response = await self._next()
        assert isinstance(response, h11.Response)
        return response

    async def _next(self) -> h11.Event | type[h11.PAUSED]:
        while (event := self._rules.next_event()) is h11.NEED_DATA:
            self._rules.receive_data(bytes(await self.stream.receive_some(65536)))
        assert not isinstance(event, type) or event is h11.PAUSED
        return event

    async def event(self) -> bytes:
        """Return the next event or comment."""
        while b"\n\n" not in self._text:
            data = await self._next()
            assert isinstance(data, h11.Data), data
            self._text += bytes(data.data)
        event, _, self._text = self._text.partition(b"\n\n")
        return event


@asynccontextmanager
async def events_at(port: int) -> AsyncIterator[EventReader]:
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        yield EventReader(stream)


@timed()
async def test_events_tell_of_a_change_and_say_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_http, "_PERIOD", 0.01)
    async with (
        serve_async(Plain(), f"unix:{tmp_path}/s") as server,
        shown(server) as port,
        events_at(port) as reader,
    ):
        head = await reader.begin()
        assert head.status_code == 200
        assert (b"content-type", b"text/event-stream") in list(head.headers)
        first = json.loads((await reader.event()).removeprefix(b"data: "))
        assert first == await status_at(port)
        assert await reader.event() == b":"
        async with connect_async(server.address, name="somebody"):
            while (event := await reader.event()) == b":":
                pass
        changed = json.loads(event.removeprefix(b"data: "))
        assert changed["sessions"]["rows"][0]["claimed"] == "somebody"


@timed()
async def test_events_need_the_token_and_there_are_few_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_http, "_MAX_EVENTS", 1)
    token = ("Authorization", "Bearer s3cret")
    async with (
        serve_async(Lab(), f"unix:{tmp_path}/s") as server,
        shown(server, token="s3cret") as port,  # noqa: S106 - of this test
    ):
        async with events_at(port) as reader:
            assert (await reader.begin()).status_code == 401
        async with events_at(port) as first:
            assert (await first.begin(token)).status_code == 200
            async with events_at(port) as second:
                assert (await second.begin(token)).status_code == 503
        while True:  # the place is free as soon as the exporter has seen that the first is gone
            async with events_at(port) as third:
                if (await third.begin(token)).status_code == 200:
                    break


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"\x1b[31mred\x1b[0m\r\n", "red\n"),
        (b"\x1b]0;title\x07x\x1b]8;;u\x1b\\y", "xy"),
        (b"a\tb\x00\x07\x9b\xff", "a\tb\ufffd\ufffd"),
        (b"\x1b(B\x1b7ok", "ok"),
        ("grün".encode(), "grün"),
        (b"50%\r100%\r\n", "50%100%\n"),
    ],
)
def test_output_is_shown_without_what_only_a_terminal_understands(data: bytes, text: str) -> None:
    assert readable(data) == text


@timed()
async def test_page_needs_no_token_and_has_no_data_and_the_status_needs_one(tmp_path: Path) -> None:
    async with (
        serve_async(Lab(), f"unix:{tmp_path}/s") as server,
        shown(server, token="s3cret", name="secret bench") as port,  # noqa: S106 - of this test
    ):
        code, _, body = await get(port, "/")
        assert (code, b"secret bench" in body) == (200, False)
        assert (await get(port, "/status.json"))[0] == 401
        assert (await get(port, "/status.json", "wrong"))[0] == 401
        code, _, body = await get(port, "/status.json", "s3cret")
        assert (code, b"secret bench" in body) == (200, True)
        assert (await get(port, "/metrics", "s3cret"))[0] == 404


@timed()
async def test_browser_may_run_the_pages_own_script_only(tmp_path: Path) -> None:
    async with serve_async(Lab(), f"unix:{tmp_path}/s") as server, shown(server) as port:
        _, headers, body = await get(port, "/")
    policy = dict(each.split(" ", 1) for each in headers["Content-Security-Policy"].split("; "))
    assert policy.pop("connect-src") == "'self'"
    for tag in ("script", "style"):
        [content] = re.findall(rf"<{tag}>(.*?)</{tag}>".encode(), body, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content).digest()).decode()
        assert policy.pop(f"{tag}-src") == f"'sha256-{digest}'"
    assert set(policy.values()) == {"'none'"}
    assert headers["X-Content-Type-Options"] == "nosniff"
    # Each text of a device or client is set as text; the page has nothing that reads HTML.
    assert not re.search(rb"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", body)
    assert b"http://" not in body
    assert b"https://" not in body


@timed()
async def test_what_cannot_be_served_is_refused(tmp_path: Path) -> None:
    async with serve_async(Lab(), f"unix:{tmp_path}/s") as server:
        with pytest.raises(ConfigurationError, match="there is no token"):
            async with serve_status(server, "0.0.0.0:0"):
                pass
        wrong: Any = Lab()
        with pytest.raises(ArgumentError, match=r"server must be a jumpstarter\.Server"):
            async with serve_status(wrong, "0"):
                pass
