"""Test that logs and errors quote, truncate and rate-limit text from peers, each on one line.

Each case sends hostile text over the wire to a real session or a real client, and checks every
line of the log and the text of every exception.
"""

from __future__ import annotations

import logging
from typing import Any, Final

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from drivers_for_tests import Echo
from helpers import PATIENCE, ScriptedExporter, answered, ask, begin, channel_to, scripted, timed
from jumpstarter._exporter.context import ServerContext
from jumpstarter._exporter.executor import DriverExecutor
from jumpstarter._exporter.session import Session
from jumpstarter._exporter.tree import DeviceTree
from jumpstarter._limits import DEFAULT_LIMITS
from jumpstarter._protocol import events as ev
from jumpstarter._protocol.codec import encode_hello, encode_value
from jumpstarter._protocol.frames import HEADER_SPACE, ErrorBody, FrameType, Hello, Node
from jumpstarter._util.background import open_background
from jumpstarter._util.text import sanitize_text
from jumpstarter.client._channel import Channel
from jumpstarter.client._tree import build_tree
from jumpstarter.driver import export
from jumpstarter.errors import ClientImportError, Code, DriverError, HandshakeError
from wire import frame

FORGED: Final = "ERROR jumpstarter.exporter: all is lost"
NASTY: Final = {
    "newline": f"x\n{FORGED}",
    "return": f"x\r{FORGED}",
    "ansi": f"\x1b[2J\x1b[1;31m{FORGED}\x1b[0m",
    "bidi": f"\u202e{FORGED}\u2066",
    "separator": f"x\u2028{FORGED}",
    "c1": f"\x9b2J{FORGED}",
}
nasty = pytest.mark.parametrize("text", NASTY.values(), ids=NASTY)
HUGE: Final = "name" * 2_500_000  # 10 MB


@pytest.fixture(autouse=True)
def _everything_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "jumpstarter")


class Failing(Echo):
    """A driver that fails with the given text."""

    @export
    async def fail(self, text: str, kind: str = "KeyError") -> None:
        raise type(kind, (Exception,), {})(text)

    @export
    async def refuse(self) -> None:
        raise ValueError("no")


def assert_harmless(text: str, length: int = 2_000) -> None:
    """Check that no line of a text can pass for a log line or has an effect on a terminal."""
    first, *others = text.split("\n")
    assert all(line.startswith("    | ") for line in others), text[:500]
    assert all(line.isprintable() for line in (first, *others)), text[:500]
    assert len(text) <= length


def assert_log_harmless(caplog: pytest.LogCaptureFixture, at_least: int = 1) -> None:
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) >= at_least
    for line in lines:
        assert_harmless(line, 20_000)  # a traceback's 10,000 characters, which escapes lengthen


# --------------------------------------------------------------------------- in the exporter


@nasty
async def test_the_name_of_a_method_stays_a_name(
    text: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Such a name appears in the client's error, and in the log only if a driver exports it."""

    class Odd(Echo):
        pass

    async def method(self: Odd) -> None:
        raise KeyError(self.uuid)

    method.__name__ = text
    setattr(Odd, text, export(method))
    async with answered(Odd()) as client:
        await client.greet()
        with pytest.raises(DriverError):
            await client.answer(await client.call(text))
    assert_log_harmless(caplog)
    assert sanitize_text(text) in caplog.text


@nasty
async def test_what_a_driver_repeats_of_its_arguments_cannot_forge_a_line(
    text: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with answered(Failing()) as client:
        await client.greet()
        for arguments in ((text,), ("no", text), (text * 10_000, text)):
            with pytest.raises(DriverError) as caught:
                await client.answer(await client.call("fail", *arguments))
            assert caught.value.message.startswith(arguments[0][:1000]), "the text itself survives"
    assert_log_harmless(caplog, at_least=3)


@pytest.mark.parametrize("text", ["tab\there", "CR\r\nLF", "☺ and 𝄞", "a\u202eb"])
async def test_the_text_of_an_exception_arrives_as_it_left(text: str) -> None:
    async with channel_to(Failing()) as channel:
        with pytest.raises(DriverError) as caught:
            await channel.call(ask("fail", text))
    assert caught.value.message == text
    assert str(caught.value).endswith(f"KeyError: {text}")


async def test_what_a_client_says_of_itself_is_not_repeated(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with answered(Echo(), token="\n" + FORGED, expected_token="secret") as client:  # noqa: S106
        await client.send()
        event = await client.event(ev.GoawayReceived)
        assert event.goaway.text == "not admitted"
    assert FORGED not in caplog.text
    assert_log_harmless(caplog)


@timed()
async def test_another_protocols_first_bytes_are_shown_and_do_no_harm(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for text in NASTY.values():
        async with answered(Echo()) as client:
            await client.stream.send_all(b"\xff" * 3 + text.encode() * 10)
    assert_log_harmless(caplog, at_least=len(NASTY))


async def test_a_flood_of_failing_calls_writes_few_lines(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    """A thousand calls fail concurrently, and then a hundred in six seconds."""
    async with channel_to(Failing()) as channel:

        async def fail() -> None:
            with pytest.raises(DriverError):
                await channel.call(ask("refuse"))

        for _ in range(1000):
            await fail()
        assert sum("raised" in message for message in caplog.messages) == 10
        for _ in range(100):
            await trio.sleep(1 / 16)
            await fail()
    assert sum("raised" in message for message in caplog.messages) == 16, autojump_clock
    assert "1005 lines were omitted here" in caplog.messages
    assert len(caplog.messages) < 16 + 16  # connections opened and closed, and omission counts


async def test_connecting_again_makes_no_room_for_more_lines(
    caplog: pytest.LogCaptureFixture, mock_clock: MockClock
) -> None:
    """Any number of connections with failing calls write only a few lines per second."""
    exporter = ServerContext(DeviceTree(Failing()), DriverExecutor())
    for _ in range(30):
        ours, theirs = trio.testing.memory_stream_pair()
        async with open_background() as nursery:
            nursery.start_soon(Session(exporter, theirs, "a client").run)
            channel = Channel(ours, "the exporter")
            await channel.begin(nursery)
            for _ in range(10):
                with pytest.raises(DriverError):
                    await channel.call(ask("refuse"))
            await channel.aclose()
    assert sum("raised" in message for message in caplog.messages) == 50
    mock_clock.jump(60)
    ours, theirs = trio.testing.memory_stream_pair()
    await ours.aclose()
    await Session(exporter, theirs, "a client").run()
    assert len(caplog.messages) < 50 + 2 * 10 + 20


async def test_no_noise_hides_who_tries_tokens(caplog: pytest.LogCaptureFixture) -> None:
    exporter = ServerContext(DeviceTree(Echo()), DriverExecutor(), token="secret")  # noqa: S106
    hello = frame(FrameType.HELLO, 0, encode_hello(Hello.of(DEFAULT_LIMITS)))
    for said in [b"GET / HTTP/1.1\r\n\r\n"] * 500 + [b""] * 500 + [hello] * 5:
        ours, theirs = trio.testing.memory_stream_pair()
        await ours.send_all(said)
        await ours.send_eof()
        await Session(exporter, theirs, "a client").run()
    assert caplog.messages.count("a client was not admitted: no valid token") == 5


async def test_a_flood_of_connections_writes_few_lines(
    caplog: pytest.LogCaptureFixture, mock_clock: MockClock
) -> None:
    """All connections, whether foreign, refused, silent or closed, share one rate-limited log."""
    exporter = ServerContext(DeviceTree(Echo()), DriverExecutor(), token="secret")  # noqa: S106
    hello = frame(FrameType.HELLO, 0, encode_hello(Hello.of(DEFAULT_LIMITS)))
    for said in (b"GET / HTTP/1.1\r\n\r\n", hello, b"", b"\x16\x03\x01"):
        for _ in range(100):
            ours, theirs = trio.testing.memory_stream_pair()
            await ours.send_all(said)
            await ours.send_eof()
            await Session(exporter, theirs, "a client").run()
    assert len(caplog.messages) == 20  # ten without a token, and ten others
    mock_clock.jump(2)
    ours, theirs = trio.testing.memory_stream_pair()
    await ours.aclose()
    await Session(exporter, theirs, "a client").run()
    assert "lines were omitted here" in caplog.messages[-2]


# ------------------------------------------------------------------------------ in the client


@nasty
async def test_why_an_exporter_ends_the_connection_is_quoted(text: str) -> None:
    async with scripted() as (channel, exporter), trio.open_nursery() as nursery:
        outcome = await begin(nursery, channel.call, ask("echo"))
        await exporter.event(ev.CallReceived)
        exporter.rules.goaway(Code.FLOW_CONTROL, 0, text)
        await exporter.send()
        await channel.connection.finished.wait()
        await trio.testing.wait_all_tasks_blocked()
        for failure in (outcome.error, channel.ended):
            assert_harmless(str(failure))
            assert sanitize_text(text) in str(failure)


@nasty
async def test_why_an_exporter_takes_no_more_calls_is_quoted(text: str) -> None:
    async with scripted() as (channel, exporter):
        await exporter.goaway(text)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(DriverError) as caught:
            await channel.call(ask("echo"))
        assert_harmless(str(caught.value))
        assert sanitize_text(text) in str(caught.value)


@nasty
async def test_why_an_exporter_refuses_is_quoted(
    text: str, caplog: pytest.LogCaptureFixture
) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    exporter = ScriptedExporter(theirs)

    async def refuse() -> None:
        await exporter.event(ev.HelloReceived)
        exporter.rules.refuse(Code.REFUSED, text)
        await exporter.send()

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(refuse)
            with pytest.raises(HandshakeError) as caught:
                await Channel(ours, "the exporter").begin(nursery)
    assert_harmless(str(caught.value))
    assert sanitize_text(text) in str(caught.value)
    assert_log_harmless(caplog, at_least=0)


@pytest.mark.parametrize("name", [*NASTY.values(), HUGE], ids=[*NASTY, "huge"])
async def test_the_name_of_a_remote_exception_is_a_word(name: str) -> None:
    async with scripted() as (channel, exporter), trio.open_nursery() as nursery:
        outcome = await begin(nursery, channel.call, ask("echo"))
        called = await exporter.event(ev.CallReceived)
        exporter.rules.error(called.slot, error_of_type(name))
        await exporter.send()
        await trio.testing.wait_all_tasks_blocked()
        assert isinstance(outcome.error, DriverError)
        assert outcome.error.remote_type == sanitize_text(name)
        assert_harmless(str(outcome.error))


def error_of_type(name: str) -> bytearray:
    """Encode an error whose type name this library's own exporter would have truncated."""
    return encode_value(ErrorBody(name, "text"), HEADER_SPACE + b"\x02\x00")


@pytest.mark.parametrize("text", [*NASTY.values(), HUGE], ids=[*NASTY, "huge"])
def test_names_in_a_report_are_quoted_wherever_they_come_up(
    text: str, caplog: pytest.LogCaptureFixture
) -> None:
    uuid = "6b7a2b1e-0000-4000-8000-000000000001"
    root = Node(1, None, text, uuid, {text: text}, text, {text: 0})
    child = Node(2, 1, text, uuid, {}, f"{text}.Client", {})
    channel: Any = None
    client = build_tree([root, child], channel)
    assert_log_harmless(caplog, at_least=2)
    with pytest.raises(ClientImportError) as stub:
        client.on()
    assert_harmless(str(stub.value))
    ours = Node(1, None, "", uuid, {}, "jumpstarter.client.DriverClient", {})
    with pytest.raises(AttributeError) as missing:
        _ = build_tree([ours, child], channel).nothing
    assert_harmless(str(missing.value))
    with pytest.raises(HandshakeError) as twice:
        build_tree([root, child, child], channel)
    assert_harmless(str(twice.value))
    with pytest.raises(HandshakeError) as bad_uuid:
        build_tree([Node(1, None, text, text, {}, text, {})], channel)
    assert_harmless(str(bad_uuid.value))


def test_a_long_path_is_no_path(caplog: pytest.LogCaptureFixture) -> None:
    uuid = "6b7a2b1e-0000-4000-8000-000000000001"
    path = "jumpstarter." + HUGE
    channel: Any = None
    build_tree([Node(1, None, "", uuid, {}, path, {})], channel, allow=["*"])
    assert_log_harmless(caplog)
    assert "is not a dotted path" in caplog.text


def test_a_thousand_classes_that_cannot_be_had_are_eleven_lines(
    caplog: pytest.LogCaptureFixture,
) -> None:
    uuid = "6b7a2b1e-0000-4000-8000-000000000001"
    root = Node(1, None, "", uuid, {}, "jumpstarter.client.DriverClient", {})
    others = [Node(2 + n, 1, f"d{n}", uuid, {}, "mylab.Client", {}) for n in range(1000)]
    channel: Any = None
    build_tree([root, *others], channel)
    assert len(caplog.messages) == 11
    assert caplog.messages[-1] == "990 more client classes are missing"
    with pytest.raises(AttributeError, match=r"d19 and 980 more; its driver exports"):
        _ = build_tree([root, *others], channel).nothing
