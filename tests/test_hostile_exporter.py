"""Test clients against exporters that break the protocol, stall, flood or disappear.

Each call must end with one documented exception, and the client must be able to close. The
exporter is a raw socket that enforces no rules. The client is the real one, used from Trio code and
from blocking code. The tests of the decoders cover single payloads.
"""

from __future__ import annotations

import builtins
import math
import re
import struct
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
import trio
import trio.testing

from alone import alone
from helpers import PATIENCE, Outcome, timed
from jumpstarter import Limits, connect, connect_async
from jumpstarter._protocol.codec import encode_credit
from jumpstarter._protocol.frames import NIL, ErrorBody, FrameType
from jumpstarter._util.text import sanitize_name
from jumpstarter.client import DriverClient, StubDriverClient
from jumpstarter.errors import (
    CallOutcomeUnknown,
    CallRefused,
    Code,
    DriverError,
    DriverErrorGroup,
    DriverInvalidArgument,
    DriverTimeoutError,
    HandshakeError,
    JumpstarterException,
)
from memory import measured_here, peak_memory
from raw_exporter import (
    REPORT,
    RawExporter,
    Script,
    answering,
    error,
    hello,
    in_parts,
    listening,
    node,
    result,
)
from wire import frame, payload, value

T = FrameType
MORE: Final = 0x20
END: Final = 0x10
KIB: Final = 1024
MIB: Final = 1024 * KIB
# Small limits, so that tests exceed them quickly, and short timeouts.
LIMITS: Final = Limits(
    max_message=MIB, max_pending=2 * MIB, stream_window=4 * KIB, cancel_grace=0.2, linger=0.2
)


# ---------------------------------------------------------------------------- the two clients


class Ending(NamedTuple):
    """The outcome of using a client.

    Attributes:
        value: The result.
        error: The exception that was raised, or None.
        lost: Whether the connection was closed afterwards.
    """

    value: Any
    error: Exception | None
    lost: bool


async def use(client: DriverClient, how: str) -> Any:
    """Call a method, iterate over a generator, or read a stream to its end."""
    match how:
        case "call":
            return await client.call_async("m")
        case "call and end":
            result = await client.call_async("m")
            await client.channel.channel.connection.finished.wait()
            return result
        case "generator":
            async with client.streamingcall_async("m") as items:
                return [item async for item in items]
        case _:
            async with client.stream_async("m") as stream:
                return b"".join([piece async for piece in stream])


def use_blocking(client: DriverClient, how: str) -> Any:
    match how:
        case "call":
            return client.call("m")
        case "call and end":  # the loop may read the frames after the answer later
            result = client.call("m")
            assert client.portal is not None
            client.portal.call(client.channel.channel.connection.finished.wait)
            return result
        case "generator":
            with client.streamingcall("m") as items:
                return list(items)
        case _:
            with client.stream("m") as stream:
                return b"".join(stream)


async def of_trio(address: str, how: str, limits: Limits = LIMITS) -> Ending:
    async with connect_async(address, limits=limits) as client:
        channel = client.channel.channel
        try:
            return Ending(await use(client, how), None, channel.ended is not None)
        except trio.BrokenResourceError as exc:  # as Trio's streams do; the cause explains it
            if not isinstance(exc.__cause__, DriverError):
                raise
            return Ending(None, exc.__cause__, channel.ended is not None)
        except JumpstarterException as exc:
            return Ending(None, exc, channel.ended is not None)


async def of_threads(address: str, how: str, limits: Limits = LIMITS) -> Ending:
    def run() -> Ending:
        with connect(address, limits=limits) as client, client.timeout(PATIENCE):
            channel = client.channel.channel
            try:
                return Ending(use_blocking(client, how), None, channel.ended is not None)
            except JumpstarterException as exc:
                return Ending(None, exc, channel.ended is not None)

    return await trio.to_thread.run_sync(run)


Way = Callable[..., Awaitable[Ending]]
both_ways = pytest.mark.parametrize("way", [of_trio, of_threads])


# ------------------------------------------------------------ breaches that end the connection

# Forbidden answers to a CALL, and the client's error for each.
BREACHES: Final[dict[str, tuple[str, Callable[[int], bytes], str]]] = {
    "a slot that was never used": ("call", lambda _: result(77), "RESULT on slot 77 .never used"),
    "a slot that there is not": ("call", lambda _: result(70_000), "RESULT on slot 70000"),
    "the highest slot of the header": ("call", lambda _: result(2**32 - 1), "RESULT on slot"),
    "no slot": ("call", lambda _: result(0), "RESULT with flags 0x0 on id 0"),
    "an item for a method": ("call", lambda s: frame(T.ITEM, s, NIL), "ITEM on slot . .OPEN UNARY"),
    "an ACCEPT for a method": ("call", lambda s: frame(T.ACCEPT, s, NIL), "ACCEPT on slot"),
    "bytes for a method": ("call", lambda s: frame(T.DATA, s, b"x"), "DATA on slot"),
    "credit for a method": ("call", lambda s: frame(T.CREDIT, s, encode_credit(1)), "CREDIT on"),
    "bytes for a generator": ("generator", lambda s: frame(T.DATA, s, b"x"), "DATA on slot"),
    "an item for a stream": ("stream", lambda s: frame(T.ITEM, s, NIL), "ITEM on slot"),
    "a call of its own": ("call", lambda s: frame(T.CALL, s, b"x"), "only the other side may"),
    "a cancellation": ("call", lambda s: frame(T.CANCEL, s, b"\x01\0"), "only the other side may"),
    "an unknown type": ("call", lambda s: struct.pack("<II", 11 << 24, s), "its type is 11"),
    "an unknown flag": ("call", lambda s: struct.pack("<II", 0x82 << 24, s), "flag"),
    "a flag of other types": ("call", lambda s: frame(T.RESULT, s, NIL, END), "with flags 0x10"),
    "a frame of 16 MiB": (
        "call",
        lambda s: b"\xff\xff\xff\x02" + s.to_bytes(4, "little"),
        "it is too large",
    ),
    "a second HELLO": ("call", lambda _: hello(), "a second HELLO"),
    "a short PING": ("call", lambda _: frame(T.PING, 0, b"x"), "PING of 1 bytes"),
    "a short GOAWAY": ("call", lambda _: frame(T.GOAWAY, 0, b"x"), "malformed GOAWAY"),
    "a long GOAWAY": ("call", lambda _: frame(T.GOAWAY, 0, bytes(60_000)), "malformed GOAWAY"),
    "another protocol": ("call", lambda _: b"HTTP/1.1 500 No\r\n\r\n", "it is too large"),
    "an empty part": ("call", lambda s: frame(T.RESULT, s, b"", MORE), "part of a message"),
    "parts without end": (
        "call",
        lambda s: frame(T.RESULT, s, bytes(64 * KIB), MORE) * 17,
        "a message of over 1048576 bytes",
    ),
    "an item within an item": (
        "generator",
        lambda s: frame(T.ITEM, s, bytes(2000), MORE) + frame(T.RESULT, s, NIL),
        "RESULT on slot",
    ),
    "a result within an error": (
        "call",
        lambda s: frame(T.ERROR, s, bytes(2000), MORE) + frame(T.RESULT, s, NIL),
        "RESULT on slot",
    ),
    "items without credit": (
        "generator",
        lambda s: frame(T.ITEM, s, payload(value(bytes(5 * KIB)))) * 2,
        "ITEM on slot . without credit",
    ),
    "bytes without credit": (
        "stream",
        lambda s: frame(T.ACCEPT, s, NIL) + frame(T.DATA, s, bytes(40_000)),
        "bytes beyond its credit",
    ),
    "empty bytes": ("stream", lambda s: frame(T.DATA, s), "empty DATA"),
    "bytes behind their end": (
        "stream",
        lambda s: frame(T.DATA, s, b"x", END) + frame(T.DATA, s, b"y"),
        "DATA on slot",
    ),
    "accepted twice": ("stream", lambda s: frame(T.ACCEPT, s, NIL) * 2, "ACCEPT on slot"),
    "no credit": ("stream", lambda s: frame(T.CREDIT, s, encode_credit(0)), "CREDIT of 0"),
    "malformed credit": ("stream", lambda s: frame(T.CREDIT, s, b"x"), "CREDIT of 0"),
    "too much credit": (
        "stream",
        lambda s: frame(T.CREDIT, s, encode_credit(2**31 - 1)) * 2,
        "not 1 to 2..31-1 in sum",
    ),
}


@both_ways
@pytest.mark.parametrize(("how", "answer", "text"), BREACHES.values(), ids=BREACHES)
@timed()
async def test_an_exporter_that_breaks_the_rules_is_hung_up_on_and_the_call_is_unknown(
    how: str, answer: Callable[[int], bytes], text: str, way: Way
) -> None:
    async with listening(answering(answer)) as address:
        ending = await way(address, how)
    assert type(ending.error) is CallOutcomeUnknown
    assert re.search(text, str(ending.error))
    assert ending.lost


async def answers_at_once(peer: RawExporter, slot: int) -> None:
    await peer.say(result(slot))


async def resets_at_once(peer: RawExporter, slot: int) -> None:
    del slot
    await peer.reset()


@pytest.mark.parametrize(
    ("answer", "text"),
    [(answers_at_once, "before its CALL was whole"), (resets_at_once, "broke|reset|closed")],
)
@timed()
async def test_a_call_that_is_answered_before_it_is_whole_is_unknown(
    answer: Callable[[RawExporter, int], Awaitable[None]], text: str
) -> None:
    async with listening(after_the_call(answer)) as address, connect_async(address) as client:
        with pytest.raises(CallOutcomeUnknown, match=text):
            await client.call_async("m", bytes(64 * MIB))


@both_ways
@timed()
async def test_what_follows_the_answer_of_a_call_ends_the_connection_behind_it(way: Way) -> None:
    async with listening(answering(lambda slot: result(slot, 5) + result(slot, 6))) as address:
        ending = await way(address, "call and end")
    assert (ending.value, ending.error, ending.lost) == (5, None, True)


# ------------------------------------------------------------------ answers that fail one call


def deep_group(levels: int) -> ErrorBody:
    body = ErrorBody("E", "innermost")
    for _ in range(levels):
        body = ErrorBody("G", "group", members=[(Code.GROUP, body)])
    return body


WIDE: Final = ErrorBody("G", "group", members=[(Code.INVALID_ARGUMENT, ErrorBody("V", "x"))] * 5000)
HUGE: Final = ErrorBody("T" * 30_000, "m" * 100_000, ["note"] * 3000, "line\n" * 30_000)
RUDE: Final = ErrorBody("SystemExit\n\x1b[31m", "\x1b[2J\r\n\0\u202e", ["\x07"], "\x1b]0;x\x07")


def at_once(body: ErrorBody, code: int = Code.GROUP) -> Callable[[int], bytes]:
    return lambda slot: in_parts(T.ERROR, slot, struct.pack("<H", code) + payload(value(body)))


# Permitted answers that the client cannot use; the connection survives each of them.
FAILURES: Final[dict[str, tuple[str, Callable[[int], bytes], type[Exception], str]]] = {
    "no value": ("call", lambda s: frame(T.RESULT, s, b"\xc1"), DriverError, "its result"),
    "nothing": ("call", lambda s: frame(T.RESULT, s), DriverError, "its result"),
    "two values": ("call", lambda s: frame(T.RESULT, s, b"\1\2"), DriverError, "its result"),
    "no UTF-8": ("call", lambda s: frame(T.RESULT, s, b"\xa1\xff"), DriverError, "its result"),
    "a key of bytes": (
        "call",
        lambda s: frame(T.RESULT, s, b"\x81\xc4\1x\1"),
        DriverError,
        "its result",
    ),
    "60,000 levels": (
        "call",
        lambda s: frame(T.RESULT, s, b"\x91" * 60_000 + NIL),
        DriverError,
        "deeper than 64 levels",
    ),
    "a million lists": (
        "call",
        lambda s: in_parts(T.RESULT, s, b"\xdd\0\x0f\xff\0" + b"\x90" * 0xFFF00),
        DriverError,
        "more than 262144 lists",
    ),
    "a promise of 4 GiB": (
        "call",
        lambda s: frame(T.RESULT, s, b"\xc6\xff\xff\xff\xff"),
        DriverError,
        "its result",
    ),
    "an item that is none": (
        "generator",
        lambda s: frame(T.ITEM, s, b"\xc1") + result(s),
        DriverError,
        "its item",
    ),
    "a return value that is none": (
        "generator",
        lambda s: frame(T.RESULT, s, b"\xc1"),
        DriverError,
        "its result",
    ),
    "a stream without its end": (
        "stream",
        lambda s: frame(T.ACCEPT, s, NIL) + frame(T.DATA, s, b"x") + result(s),
        DriverError,
        "without its last bytes",
    ),
    "a stream that never was": ("stream", result, DriverError, "without its last bytes"),
    "an error without a code": (
        "call",
        lambda s: frame(T.ERROR, s, b"\1"),
        DriverError,
        "without a code",
    ),
    "an error of noise": (
        "call",
        lambda s: frame(T.ERROR, s, b"\x03\0" + b"\xff" * 99),
        DriverInvalidArgument,
        "cannot be read",
    ),
    "a code that there is not": ("call", at_once(ErrorBody("E", "m"), 999), DriverError, "E: m"),
    "a code of connections": ("call", at_once(ErrorBody("E", "m"), 32), DriverError, "E: m"),
    "no failure at all": ("call", at_once(ErrorBody("E", "m"), Code.OK), DriverError, "E: m"),
    "a group of none": ("call", at_once(ErrorBody("G", "m")), DriverError, "G: m"),
    "a group of groups": ("call", at_once(deep_group(20)), DriverErrorGroup, "G: group"),
    "a group too deep": ("call", at_once(deep_group(40)), DriverError, "cannot be read"),
    "a wide group": ("call", at_once(WIDE), DriverErrorGroup, "G: group"),
    "a long error": ("call", at_once(HUGE), DriverError, "TTTT"),
    "a rude error": ("call", at_once(RUDE), DriverError, "SystemExit"),
    "an error that cuts a result short": (
        "call",
        lambda s: frame(T.RESULT, s, bytes(2000), MORE) + error(s, 1, ErrorBody("", "cut")),
        DriverError,
        "cut",
    ),
    "refused behind its items": (
        "generator",
        lambda s: frame(T.ITEM, s, NIL) + error(s, Code.REFUSED, ErrorBody("", "no")),
        CallRefused,
        "no",
    ),
}


@both_ways
@pytest.mark.parametrize(("how", "answer", "kind", "text"), FAILURES.values(), ids=FAILURES)
@timed()
async def test_an_answer_that_makes_no_sense_fails_its_call_alone(
    how: str, answer: Callable[[int], bytes], kind: type[Exception], text: str, way: Way
) -> None:
    async with listening(answering(answer)) as address:
        ending = await way(address, how)
    assert isinstance(ending.error, kind)
    assert text in str(ending.error)
    assert not ending.lost


@pytest.mark.parametrize("code", [*Code, 5, 99, 65535])
@timed()
async def test_every_code_of_an_error_is_a_driver_error(code: int) -> None:
    async with listening(answering(at_once(ErrorBody("KeyboardInterrupt", "m"), code))) as address:
        ending = await of_trio(address, "call")
    assert isinstance(ending.error, DriverError)
    assert ending.error.remote_type == "KeyboardInterrupt"


NAMES: Final = [
    *(name for name, each in vars(builtins).items() if isinstance(each, type)),
    *("trio.Cancelled", "trio.RunFinishedError", "jumpstarter.errors.HandshakeError"),
    *("os.system", "__import__", "", "x\n", "x" * 100_000),
]


@timed()
async def test_no_name_of_an_exception_makes_that_exception() -> None:
    bodies = (ErrorBody(name, "m") for name in NAMES)

    def answer(slot: int) -> bytes:
        return at_once(next(bodies), Code.UNKNOWN)(slot)

    async with listening(answering(answer)) as address, connect_async(address) as client:
        for name in NAMES:
            with pytest.raises(DriverError) as caught:
                await client.call_async("m")
            assert type(caught.value) is DriverError
            assert caught.value.remote_type == (sanitize_name(name) if name else "")


# ------------------------------------------------------------------------------------ silence


async def says_nothing(peer: RawExporter, slot: int) -> None:
    del peer, slot
    await trio.lowlevel.checkpoint()


async def says_half_a_header(peer: RawExporter, slot: int) -> None:
    await peer.say(result(slot)[:5])


async def says_half_a_frame(peer: RawExporter, slot: int) -> None:
    await peer.say(result(slot, "x" * 100)[:50])


async def says_half_a_message(peer: RawExporter, slot: int) -> None:
    await peer.say(frame(T.ERROR, slot, bytes(2000), MORE))


async def drips_for_ever(peer: RawExporter, slot: int) -> None:
    for byte in result(slot, "x" * 10_000):
        await peer.say(bytes([byte]))
        await trio.sleep(0.01)


async def pings_for_ever(peer: RawExporter, slot: int) -> None:
    del slot
    while True:
        await peer.say(frame(T.PING, 0, b"noticed?"))
        await trio.sleep(1)


def after_the_call(answer: Callable[[RawExporter, int], Awaitable[None]]) -> Script:
    async def script(peer: RawExporter) -> None:
        await peer.greet()
        await answer(peer, (await peer.next(T.CALL)).slot)

    return script


async def with_deadline(address: str, how: str) -> None:
    async with connect_async(address, limits=LIMITS) as client:
        with trio.fail_after(0.2):
            await use(client, how)


def with_timeout(address: str, how: str) -> None:
    with connect(address, limits=LIMITS) as client, client.timeout(0.2):
        use_blocking(client, how)


SILENT: Final = [
    says_nothing,
    says_half_a_header,
    says_half_a_frame,
    says_half_a_message,
    drips_for_ever,
    pings_for_ever,
]


@pytest.mark.parametrize("how", ["call", "generator", "stream"])
@pytest.mark.parametrize("silent", SILENT)
@timed()
async def test_whoever_waits_for_an_answer_that_never_comes_can_stop_and_close(
    silent: Callable[[RawExporter, int], Awaitable[None]], how: str
) -> None:
    async with listening(after_the_call(silent)) as address:
        with pytest.raises(trio.TooSlowError):
            await with_deadline(address, how)
        with pytest.raises(DriverTimeoutError, match=r"timeout\(\) of .* ran out during"):
            await trio.to_thread.run_sync(with_timeout, address, how)


@both_ways
@timed()
async def test_an_answer_that_drips_in_is_as_good_as_any(way: Way) -> None:
    async def drip(peer: RawExporter, slot: int) -> None:
        for byte in result(slot, "slow"):
            await peer.say(bytes([byte]))
            await trio.sleep(0.001)

    async with listening(after_the_call(drip)) as address:
        assert await way(address, "call") == Ending("slow", None, lost=False)


async def begins_and_never_ends(peer: RawExporter) -> None:
    """Send one item to a generator or one byte to a stream, and ignore everything after that."""
    await peer.greet(answer=hello(stream_window=KIB))
    while True:
        slot = (await peer.next(T.CALL)).slot
        await peer.say(frame(T.ITEM if slot == 1 else T.ACCEPT, slot, NIL))


@timed()
async def test_a_generator_that_does_not_end_can_be_left() -> None:
    async with (
        listening(begins_and_never_ends) as address,
        connect_async(address, limits=LIMITS) as client,
        client.streamingcall_async("m") as items,
    ):
        assert await items.__anext__() is None


@timed()
async def test_whoever_waits_for_credit_that_never_comes_can_stop_and_close() -> None:
    async with (
        listening(begins_and_never_ends) as address,
        connect_async(address, limits=LIMITS) as client,
        client.streamingcall_async("m") as items,
    ):
        assert await items.__anext__() is None
        async with client.stream_async("m") as stream:
            with pytest.raises(trio.TooSlowError):
                await too_much(stream)


async def too_much(stream: trio.abc.SendStream) -> None:
    with trio.fail_after(0.1):
        await stream.send_all(bytes(KIB + 1))


@timed()
async def test_closing_a_client_ends_calls_that_are_never_answered() -> None:
    outcome = Outcome()
    async with (
        listening(after_the_call(says_nothing)) as address,
        trio.open_nursery() as nursery,
        connect_async(address, limits=LIMITS) as client,
    ):
        nursery.start_soon(outcome.of, client.call_async, "m")
        await trio.testing.wait_all_tasks_blocked()
    outcome.failed(CallOutcomeUnknown, "the client was closed")


# ------------------------------------------------------------------------------- disconnection


@both_ways
@pytest.mark.parametrize("cut", [0, 1, 7, 8, 9, 1500, None], ids=lambda cut: f"after {cut}")
@pytest.mark.parametrize("abrupt", [True, False], ids=["RST", "FIN"])
@pytest.mark.parametrize("how", ["call", "generator", "stream"])
@timed()
async def test_an_exporter_that_goes_in_the_middle_of_an_answer_leaves_the_call_unknown(
    how: str, cut: int | None, way: Way, *, abrupt: bool
) -> None:
    async def go(peer: RawExporter, slot: int) -> None:
        begin = {
            "call": b"",
            "generator": frame(T.ITEM, slot, NIL),
            "stream": frame(T.ACCEPT, slot, NIL) + frame(T.DATA, slot, b"x"),
        }[how]
        whole = begin + frame(T.ERROR, slot, bytes(2000), MORE)
        await peer.say(whole[:cut])
        await (peer.reset() if abrupt else peer.stream.aclose())

    async with listening(after_the_call(go)) as address:
        ending = await way(address, how)
    assert type(ending.error) is CallOutcomeUnknown
    assert "sent, but not answered: " in str(ending.error)
    assert ending.lost


async def goes_at_once(peer: RawExporter) -> None:
    await peer.reset()


async def goes_within_hello(peer: RawExporter) -> None:
    await peer.next(T.HELLO)
    await peer.say(hello()[:20])
    await peer.reset()


async def goes_behind_hello(peer: RawExporter) -> None:
    await peer.next(T.HELLO)
    await peer.say(hello())
    await peer.reset()


async def goes_within_the_report(peer: RawExporter) -> None:
    await peer.next(T.HELLO)
    await peer.say(hello())
    asked = await peer.next(T.CALL)
    await peer.say(in_parts(T.RESULT, asked.slot, payload(value(REPORT)))[:30])
    await peer.reset()


@both_ways
@pytest.mark.parametrize(
    "script", [goes_at_once, goes_within_hello, goes_behind_hello, goes_within_the_report]
)
@timed()
async def test_an_exporter_that_goes_before_it_was_connected_to_is_told_as_that(
    script: Script, way: Way
) -> None:
    async with listening(script) as address:
        with pytest.raises(HandshakeError, match=re.escape(address)):
            await way(address, "call")


# ------------------------------------------------------------------------------------- floods


def with_a_flood_of(flood: Callable[[int], bytes]) -> Script:
    """Return a script that repeats the same bytes for 64 MiB, and then answers the call."""

    async def script(peer: RawExporter) -> None:
        await peer.greet()
        slot = (await peer.next(T.CALL)).slot
        piece = flood(slot)
        for _ in range(math.ceil(64 * MIB / len(piece))):
            await peer.say(piece)
        await peer.say(result(slot))

    return script


def goaway(code: int = 0, text: bytes = b"") -> bytes:
    return frame(T.GOAWAY, 0, struct.pack("<HI", code, 0) + text)


FLOODS: Final[dict[str, tuple[str, Callable[[int], bytes], str]]] = {
    "a result": (
        "call",
        lambda s: frame(T.RESULT, s, bytes(64 * KIB), MORE),
        "a message of over 1048576",
    ),
    "an error": (
        "call",
        lambda s: frame(T.ERROR, s, bytes(64 * KIB), MORE),
        "a message of over 1048576",
    ),
    "an item": (
        "generator",
        lambda s: frame(T.ITEM, s, bytes(64 * KIB), MORE),
        "a message of over 1048576",
    ),
    "small items": ("generator", lambda s: frame(T.ITEM, s, NIL) * KIB, "without credit"),
    "bytes": ("stream", lambda s: frame(T.DATA, s, bytes(8 * KIB)), "beyond its credit"),
    "credit": (
        "stream",
        lambda s: frame(T.CREDIT, s, encode_credit(1)) * KIB,
        "CREDIT on slot .: over 10",
    ),
    "pings": (
        "call",
        lambda _: frame(T.PING, 0, b"12345678") * KIB,
        r"more PING and GOAWAY than ping_burst \(10\)",
    ),
    "answers to pings": (
        "call",
        lambda _: frame(T.PING, 0, b"12345678", 0x40) * KIB,
        r"late_burst \(\d+\)",
    ),
    "goodbyes": (
        "call",
        lambda _: goaway(text=b"x" * KIB) * 64,
        r"more PING and GOAWAY than ping_burst \(10\)",
    ),
    "answers to goodbyes": (
        "call",
        lambda _: frame(T.GOAWAY, 0, b"", 0x40) * KIB,
        r"late_burst \(\d+\)",
    ),
    "parts of one byte": (
        "call",
        lambda s: frame(T.RESULT, s, b"x", MORE) * KIB,
        r"late_burst \(\d+\)|part of a message",
    ),
}


@measured_here
@pytest.mark.parametrize(("how", "flood", "text"), FLOODS.values(), ids=FLOODS)
@alone
@timed(6 * PATIENCE)
async def test_no_flood_costs_more_than_the_limits_allow(
    how: str, flood: Callable[[int], bytes], text: str
) -> None:
    before = peak_memory(reset=True)
    async with listening(with_a_flood_of(flood)) as address:
        ending = await of_trio(address, how)
    assert type(ending.error) is CallOutcomeUnknown
    assert re.search(text, str(ending.error))
    assert ending.lost
    assert peak_memory() - before < 16 * MIB


IMPATIENT: Final = Limits(write_stall=0.2, cancel_grace=0.2)


@timed()
async def test_an_exporter_that_takes_nothing_is_given_up() -> None:
    async def script(peer: RawExporter) -> None:
        await peer.greet()
        await trio.sleep_forever()

    async with listening(script) as address, connect_async(address, limits=IMPATIENT) as client:
        with pytest.raises(CallOutcomeUnknown, match=r"took nothing for 0\.2 s"):
            await client.call_async("m", bytes(64 * MIB))


# ------------------------------------------------------------------------- HELLO and goodbye


GREETINGS: Final[dict[str, tuple[bytes, str]]] = {
    "nothing but an end": (b"", "closed the connection|no sign"),
    "HTTP": (b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not speak jumpstarter's protocol"),
    "SSH": (b"SSH-2.0-OpenSSH_9.2\r\n", "does not speak jumpstarter's protocol"),
    "TLS": (b"\x15\x03\x01\0\x02\x02\x46", "does not speak jumpstarter's protocol"),
    "zeros": (bytes(64), "does not speak jumpstarter's protocol"),
    "ones": (b"\xff" * 64, "does not speak jumpstarter's protocol"),
    "a result": (result(1), "before the two HELLOs|does not speak"),
    "a PING": (frame(T.PING, 0, bytes(8)), "before the two HELLOs|does not speak"),
    "no magic": (hello().replace(b"JMPS", b"SPMJ"), "does not speak"),
    "another version": (hello(version=(2, 0)), "speaks version 2.0 of the protocol, and this"),
    "frames of 1 byte": (hello(max_frame=1), "limits out of range"),
    "frames of 16 MiB": (hello(max_frame=2**24), "limits out of range"),
    "no messages": (hello(max_message=0), "limits out of range"),
    "no calls": (hello(max_calls=0), "limits out of range"),
    "too many calls": (hello(max_calls=65_536), "limits out of range"),
    "no window": (hello(stream_window=0), "limits out of range"),
    "a window beyond all": (hello(stream_window=2**31), "limits out of range"),
    "an about of noise": (hello()[:36] + b"\xc1" * (len(hello()) - 36), "malformed HELLO"),
    "a HELLO of 60,000 bytes": (frame(T.HELLO, 0, bytes(60_000)), "does not speak"),
    "refused": (goaway(16, b"not \x1b[31madmitted\n"), "refused the connection: .not .*token"),
    "refused without a word": (goaway(38), "refused the connection"),
    "refused in no UTF-8": (goaway(32, b"\xff\xfe"), "refused the connection"),
}


@both_ways
@pytest.mark.parametrize(("greeting", "text"), GREETINGS.values(), ids=GREETINGS)
@timed()
async def test_a_greeting_that_is_none_is_one_clear_error(
    greeting: bytes, text: str, way: Way
) -> None:
    async def script(peer: RawExporter) -> None:
        await peer.next(T.HELLO)
        await peer.say(greeting)
        if not greeting:
            await peer.stream.aclose()

    async with listening(script) as address:
        with pytest.raises(HandshakeError, match=text) as caught:
            await way(address, "call")
    assert address in str(caught.value)


@both_ways
@pytest.mark.parametrize(
    "greeting",
    [
        hello(max_frame=1024, max_message=1024, max_calls=1, stream_window=1),
        hello(agent="\x1b[31m\n" * 500),
        hello(max_calls=65_535, stream_window=2**31 - 1, max_message=2**32 - 1, ping_ms=1),
        hello(version=(1, 255)),
    ],
    ids=["the smallest", "long words", "the largest", "a later minor version"],
)
@timed()
async def test_an_unusual_greeting_is_a_greeting(greeting: bytes, way: Way) -> None:
    async def script(peer: RawExporter) -> None:
        await peer.greet(answer=greeting)
        while True:
            await peer.say(result((await peer.next(T.CALL)).slot, "ok"))

    async with listening(script) as address:
        assert await way(address, "call") == Ending("ok", None, lost=False)


@both_ways
@pytest.mark.parametrize(
    ("said", "answered"),
    [(goaway(text=b"\x1b[31mbye\n"), True), (goaway(1, b"\xff"), True), (goaway(32, b"x"), False)],
    ids=["friendly", "odd", "unfriendly"],
)
@timed()
async def test_a_call_that_a_goodbye_crosses_is_answered_unless_it_is_the_end(
    said: bytes, way: Way, *, answered: bool
) -> None:
    async with listening(answering(lambda slot: said + result(slot, "ok") * answered)) as address:
        ending = await way(address, "call")
    if answered:
        assert ending == Ending("ok", None, lost=False)
    else:
        assert type(ending.error) is CallOutcomeUnknown
        assert ending.lost


# ------------------------------------------------------------------------------------ reports


def many(count: int, parent: Callable[[int], int]) -> list[Any]:
    return [node(), *(node(number, parent(number), f"{number}") for number in range(2, count + 1))]


NO_TREES: Final[dict[str, Any]] = {
    "nothing": [],
    "nil": None,
    "a map": {},
    "a text": "report",
    "numbers": [1, 2],
    "a circle": [node(), node(2, 3, "a"), node(3, 2, "b")],
    "its own parent": [node(1, 1)],
    "two roots": [node(), node(2)],
    "two parents": [node(), node(2, 1, "a"), node(3, 1, "b"), node(2, 3, "a")],
    "a name twice": [node(), node(2, 1, "a"), node(3, 1, "a")],
    "target 0": [node(0)],
    "target -1": [node(-1)],
    "target 65,536": [node(65_536)],
    "target 1.5": [node(target=1.5)],
    "no target": [node(target=...)],
    "no parent": [node(parent=...)],
    "no name": [node(name=...)],
    "no uuid": [node(uuid=...)],
    "no labels": [node(labels=...)],
    "no client": [node(client=...)],
    "no methods": [node(methods=...)],
    "a name of bytes": [node(name=b"x")],
    "a name of nil": [node(), node(2, 1, None)],
    "a uuid of noise": [node(uuid="\x1b[31m" * 1000)],
    "labels of numbers": [node(labels={1: 2})],
    "labels of lists": [node(labels={"a": []})],
    "a client of nil": [node(client=None)],
    "methods of texts": [node(methods={"a": "b"})],
    "methods in a list": [node(methods=["a"])],
}


@both_ways
@pytest.mark.parametrize("report", NO_TREES.values(), ids=NO_TREES)
@timed()
async def test_a_report_that_is_no_tree_is_one_clear_error(report: Any, way: Way) -> None:
    async def script(peer: RawExporter) -> None:
        await peer.greet(report)

    async with listening(script) as address:
        with pytest.raises(HandshakeError, match=r"the exporter's report|gave no device tree") as e:
            await way(address, "call")
    assert len(str(e.value)) < 1000


@pytest.mark.parametrize(
    "body", [b"", b"\xc1", b"\x91" * 100_000, b"\x91\x81\xc4\1x\1", b"\x90\x90"]
)
@timed()
async def test_a_report_of_noise_is_one_clear_error(body: bytes) -> None:
    async def script(peer: RawExporter) -> None:
        await peer.next(T.HELLO)
        await peer.say(hello())
        await peer.say(in_parts(T.RESULT, (await peer.next(T.CALL)).slot, body))

    async with listening(script) as address:
        with pytest.raises(HandshakeError, match=r"gave no device tree.*cannot be read"):
            await of_trio(address, "call")


ODD_NAMES: Final = [
    *("call", "call_async", "stream", "close", "portal", "channel", "stack", "children", "uuid"),
    *("__class__", "__dict__", "__init__", "__getattr__", "__del__", "_open", "_request"),
    *("", " ", "a b", "a.b", "\n", "\x1b[31m", "\u202e", "\0", "x" * 100_000, "\U0001f600"),
]


@both_ways
@timed()
async def test_a_name_in_a_report_hides_nothing_of_the_client(way: Way) -> None:
    async def script(peer: RawExporter) -> None:
        children = (node(number + 2, 1, name) for number, name in enumerate(ODD_NAMES))
        await peer.greet([node(methods={"__init__": 0, "x": 99, "y": -(2**63)}), *children])
        while True:
            await peer.say(result((await peer.next(T.CALL)).slot, "mine"))

    async with listening(script) as address:
        assert await way(address, "call") == Ending("mine", None, lost=False)
        async with connect_async(address, limits=Limits()) as client:
            assert list(client.children) == ODD_NAMES
            fields = vars(client.children[""]).keys()
            assert vars(client).keys() - {"__doc__"} == fields - {"__doc__"}
            for name in set(ODD_NAMES) & set(dir(DriverClient)):
                assert getattr(client, name, None) is not client.children[name]


LARGE: Final[dict[str, list[Any]]] = {
    "a chain": many(5000, lambda number: number - 1),
    "a fan": many(5000, lambda _: 1),
    "labels": [node(labels={"k" * 1000: "v" * 10_000_000})],
    "many labels": [node(labels={str(number): "" for number in range(50_000)})],
    "many methods": [node(methods={str(number): 0 for number in range(50_000)})],
}


@pytest.mark.parametrize("report", LARGE.values(), ids=LARGE)
@timed(3 * PATIENCE)
async def test_a_large_report_is_a_report(report: list[Any]) -> None:
    async def script(peer: RawExporter) -> None:
        await peer.greet(report)
        while True:
            await peer.say(result((await peer.next(T.CALL)).slot, "ok"))

    async with listening(script) as address:
        for way in (of_trio, of_threads):
            assert await way(address, "call", Limits()) == Ending("ok", None, lost=False)


@timed(6 * PATIENCE)
async def test_the_largest_tree_that_addresses_allow_is_one_or_is_told_to_be_too_large() -> None:
    report = many(65_535, lambda _: 1)

    async def script(peer: RawExporter) -> None:
        await peer.greet(report)

    async with listening(script) as address:
        try:
            async with connect_async(address, limits=Limits(hello_timeout=PATIENCE)) as client:
                assert len(client.children) == 65_534
        except HandshakeError as exc:
            assert "more than" in str(exc)  # noqa: PT017 - both outcomes are valid


# ------------------------------------------------------------------- names sent by an exporter


@pytest.fixture
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], bool]]:
    """Return a function that reports whether the module `canary` was imported.

    The module creates a file when it is imported.
    """
    trace = tmp_path / "was_imported"
    (tmp_path / "canary.py").write_text(
        "import pathlib\n"
        f"pathlib.Path({str(trace)!r}).touch()\n"
        "from jumpstarter.client import DriverClient as Client\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield trace.exists
    sys.modules.pop("canary", None)


@pytest.mark.parametrize(
    "path",
    ["canary.Client", "os.system", "canary.Client\n", "jumpstarter.x\ny", "*", "", "a" * 100_000],
    ids=lambda path: repr(path[:20]),
)
@timed()
async def test_nothing_is_imported_because_an_exporter_names_it(
    path: str, canary: Callable[[], bool]
) -> None:
    async def script(peer: RawExporter) -> None:
        await peer.greet([node(client=path)])

    async with listening(script) as address, connect_async(address) as client:
        assert type(client) is StubDriverClient
    assert not canary()


@timed()
async def test_what_is_allowed_is_imported(canary: Callable[[], bool]) -> None:
    async def script(peer: RawExporter) -> None:
        await peer.greet([node(client="canary.Client")])

    async with (
        listening(script) as address,
        connect_async(address, allow=["canary.*"]) as client,
    ):
        assert type(client) is DriverClient
    assert canary()
