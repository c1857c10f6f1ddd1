"""The conformance cases for blocking code; each matches the case of the same name in `cases`.

This module omits the cases that have no blocking form. Only a timeout or Ctrl-C can cancel a
blocking call, and other tests cover both. Backpressure would require a second thread on one stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import pytest
from cases import EXPORTED, SPECIAL_TEXT, nobody_at, ping_pongs
from driver_conformance import pattern, stretched
from scales import PASSED_ON, Scale

from jumpstarter._protocol.frames import Kind
from jumpstarter.client import BlockingStream, DriverClient
from jumpstarter.errors import (
    Code,
    DriverError,
    DriverMethodNotImplemented,
    DriverTimeoutError,
    EndOfStream,
)

__all__ = ["BLOCKING_CASES"]

Run = Callable[[DriverClient, Scale], None]

THREADS: Final = 16
LONG: Final = 1000.0  # seconds; nothing waits for it

BLOCKING_CASES: Final[dict[str, Run]] = {}


def case(run: Run) -> Run:
    BLOCKING_CASES[run.__name__] = run
    return run


def in_threads(function: Callable[[Any], Any], arguments: Iterable[Any]) -> None:
    """Call a function with each argument, in several threads concurrently."""
    with ThreadPoolExecutor(THREADS) as pool:
        for done in [pool.submit(function, argument) for argument in arguments]:
            done.result(LONG)


def received(stream: BlockingStream, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += stream.receive(size - len(data))
    return data


# ------------------------------------------------------------------------------ values and streams


@case
def empty_unary(client: DriverClient, _scale: Scale) -> None:
    for method in ("empty", "empty_async"):
        assert client.call(method) is None


@case
def large_unary(client: DriverClient, scale: Scale) -> None:
    payload = pattern(scale.request)
    for method in ("unary", "unary_async"):
        answer = client.call(method, scale.response, payload)
        assert answer == stretched(payload, scale.response)


@case
def client_streaming(client: DriverClient, scale: Scale) -> None:
    with client.stream("sum_stream") as stream:
        for size in scale.uploads:
            stream.send(bytes(size))
        stream.send_eof()
        assert int.from_bytes(b"".join(stream), "little") == sum(scale.uploads)


@case
def server_streaming(client: DriverClient, scale: Scale) -> None:
    for method in ("gen", "gen_async"):
        items = list(client.streamingcall(method, scale.downloads))
        assert items == [pattern(size) for size in scale.downloads]


@case
def ping_pong(client: DriverClient, scale: Scale) -> None:
    with client.stream("duplex") as stream:
        for request, answer in ping_pongs(scale):
            stream.send(request)
            assert received(stream, len(answer)) == answer
        stream.send_eof()
        with pytest.raises(EndOfStream):
            stream.receive()


@case
def empty_stream(client: DriverClient, _scale: Scale) -> None:
    with client.stream("duplex") as stream:
        stream.send_eof()
        assert list(stream) == []
    for method in ("gen", "gen_async"):
        assert list(client.streamingcall(method, [])) == []


@case
def server_answers_before_request_ends(client: DriverClient, scale: Scale) -> None:
    with client.stream("hasty") as stream:
        stream.send(b"first")
        assert b"".join(stream) == b"enough"
        for size in scale.uploads:
            stream.send(bytes(size))
    assert client.call("what_runs") == []


# ------------------------------------------------------------------------------------- failures


def fail_stream(client: DriverClient, *args: Any) -> None:
    with client.stream("fail_stream", *args) as stream:
        stream.send(b"x")
        stream.receive()


def failures(client: DriverClient, code: Code, text: str) -> list[DriverError]:
    """Make each of the three kinds of call fail, and return the errors."""
    args = (int(code), text, ["a note", text])
    with pytest.raises(DriverError) as of_call:
        client.call("fail", *args)
    with client.streamingcall("fail_gen", *args) as items:
        assert next(items) == 1
        with pytest.raises(DriverError) as of_generator:
            next(items)
    with pytest.raises(DriverError) as of_stream:
        fail_stream(client, *args)
    return [of_call.value, of_generator.value, of_stream.value]


@case
def status_code_and_message(client: DriverClient, scale: Scale) -> None:
    for code in scale.codes:
        for exc in failures(client, code, "test status message"):
            assert (exc.code, exc.message) == (PASSED_ON[code], "test status message")


@case
def special_status_message(client: DriverClient, _scale: Scale) -> None:
    for exc in failures(client, Code.UNKNOWN, SPECIAL_TEXT):
        assert exc.message == SPECIAL_TEXT


@case
def custom_metadata(client: DriverClient, _scale: Scale) -> None:
    for exc in failures(client, Code.UNKNOWN, SPECIAL_TEXT):
        assert exc.__notes__[:2] == ["a note", SPECIAL_TEXT]


def use_as(client: DriverClient, kind: Kind, method: str) -> None:
    match kind:
        case Kind.UNARY:
            client.call(method)
        case Kind.GENERATOR:
            next(client.streamingcall(method))
        case Kind.STREAM:
            client.open_stream(method)


@case
def unimplemented_method(client: DriverClient, _scale: Scale) -> None:
    for kind in Kind:
        with pytest.raises(DriverMethodNotImplemented):
            use_as(client, kind, "no_such_method")


@case
def unimplemented_service(client: DriverClient, _scale: Scale) -> None:
    for kind in Kind:
        with pytest.raises(DriverMethodNotImplemented):
            use_as(nobody_at(client), kind, "empty")


@case
def method_of_another_kind(client: DriverClient, _scale: Scale) -> None:
    for kind in Kind:
        for method in (name for other, name in EXPORTED.items() if other is not kind):
            with pytest.raises(DriverMethodNotImplemented):
                use_as(client, kind, method)


# ---------------------------------------------------------------------- cancellation and deadlines


@case
def cancel_before_start(client: DriverClient, _scale: Scale) -> None:
    began = client.call("how_much_began")
    for kind, method in EXPORTED.items():
        with pytest.raises(DriverTimeoutError), client.timeout(0):
            use_as(client, kind, method)
    assert client.call("how_much_began") == began


@case
def cancel_after_begin(client: DriverClient, _scale: Scale) -> None:
    with ThreadPoolExecutor(1) as pool:
        until_running = pool.submit(client.call, "until_running", "hold")
        while not until_running.done():  # on a busy machine, a call can time out before it begins
            with pytest.raises(DriverTimeoutError), client.timeout(0.1):
                client.call("hold")
        until_running.result()
    assert client.call("what_runs") == []


@case
def cancel_after_received_headers(client: DriverClient, scale: Scale) -> None:
    with client.stream("duplex"):
        pass
    with client.streamingcall("gen_async", scale.downloads):
        pass
    assert client.call("what_runs") == []


@case
def cancel_after_sent_first_message(client: DriverClient, _scale: Scale) -> None:
    with client.stream("duplex") as stream:
        stream.send(b"half")
        with pytest.raises(DriverTimeoutError), client.timeout(0.01):
            stream.receive()
    assert client.call("what_runs") == []


@case
def cancel_after_first_response(client: DriverClient, scale: Scale) -> None:
    with client.streamingcall("gen_async", scale.downloads) as items:
        assert next(items) == pattern(scale.downloads[0])
    assert client.call("what_runs") == []
    request, answer = ping_pongs(scale)[0]
    with client.stream("duplex") as stream:
        stream.send(request)
        assert received(stream, 1) == answer[:1]
    assert client.call("what_runs") == []


@case
def timeout_on_sleeping_server(client: DriverClient, _scale: Scale) -> None:
    with pytest.raises(DriverTimeoutError) as info, client.timeout(0.001):
        client.call("sleep", LONG)
    assert info.value.code is Code.DEADLINE_EXCEEDED
    assert client.call("what_runs") == []


@case
def timeout_but_completed_before_expiry(client: DriverClient, scale: Scale) -> None:
    with client.timeout(LONG):
        assert client.call("empty") is None
        assert len(list(client.streamingcall("gen_async", scale.downloads))) == 4
        with client.stream("sum_stream") as stream:
            stream.send_eof()
            assert int.from_bytes(b"".join(stream), "little") == 0
    assert client.call("empty") is None


# ------------------------------------------------------------------------------------- numbers


@case
def rpc_soak(client: DriverClient, scale: Scale) -> None:
    for number in range(scale.soak):
        assert client.call("echo", number) == number


@case
def concurrent_large_unary(client: DriverClient, scale: Scale) -> None:
    payload = pattern(scale.request)
    expected = stretched(payload, scale.response)

    def work(_: int) -> None:
        assert client.call("unary_async", scale.response, payload) == expected

    in_threads(work, range(scale.large_calls))


@case
def thousands_of_calls_on_one_channel(client: DriverClient, scale: Scale) -> None:
    def echo(number: int) -> None:
        assert client.call("echo", number) == number

    in_threads(echo, range(scale.calls))


@case
def max_streams_exceeded_does_not_fail(client: DriverClient, _scale: Scale) -> None:
    def echo(number: int) -> None:
        assert client.call("echo", number) == number

    in_threads(echo, range(10))


@case
def thousands_of_calls_all_timing_out(client: DriverClient, scale: Scale) -> None:
    def hold(_: int) -> None:
        with pytest.raises(DriverTimeoutError), client.timeout(0.001):
            client.call("hold")

    in_threads(hold, range(scale.calls))
    assert client.call("what_runs") == []
