"""The adapter of Pyro5's daemon, with attacks in hand-written messages.

`python -m hostile.peer_pyro5 plain DIRECTORY` runs the server. A message is a header of 40 bytes
and a value in one of four encodings. The sender chooses the encoding; one of the four is Python's
`marshal`.
"""

from __future__ import annotations

import marshal
import struct
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import Pyro5.api
from Pyro5 import config, protocol, serializers

from . import sockets
from .attacker import Attacker, Function, Line
from .attacks import Setting
from .bombs import packed_zeros
from .peer import PATIENCE, Call, Peer, Place, own_server

__all__ = ["PEER"]

_MANY: Final = 1000
_HEADER: Final = struct.Struct("!4sHBBHHII16sHH")
_SERPENT: Final = serializers.serializers["serpent"]
_MARSHAL, _JSON = 2, 3  # IDs of two other encodings


# --- the server ---


@Pyro5.api.expose
class Victim:
    """The object that the server exposes."""

    def echo(self, value: Any) -> Any:
        return value

    def hold(self) -> None:
        threading.Event().wait()

    def big(self) -> str:
        return "x" * 2**20

    def items(self) -> Iterator[str]:
        while True:
            yield "x" * 1024

    def fail(self, text: str) -> None:
        raise ValueError(text)

    def bad_result(self) -> object:
        return object()

    @property
    def secret(self) -> str:
        return "exposed like the methods"


def _serve(setting: Setting, directory: Path) -> None:
    if setting == "tls":
        config.SSL = True
        config.SSL_SERVERCERT = str(directory / "server.pem")
    daemon = Pyro5.api.Daemon("127.0.0.1", 0)
    daemon.register(Victim(), "victim")
    print(f"ready: pyro://{daemon.locationStr}", flush=True)
    daemon.requestLoop()


@contextmanager
def _dial(place: Place) -> Iterator[Call]:
    config.COMMTIMEOUT = PATIENCE
    if place.setting == "tls":
        config.SSL = True
        config.SSL_CACERTS = str(place.directory / "ca.pem")
    with Pyro5.api.Proxy(f"PYRO:victim@{place.host}:{place.port}") as proxy:

        def call() -> None:
            assert proxy.echo("good") == "good"

        yield call


# --- messages ---


def _message(kind: int, body: bytes, *, encoding: int = 1, flags: int = 0) -> bytes:
    return _header(kind, len(body), encoding=encoding, flags=flags) + body


def _header(kind: int, length: int, *, notes: int = 0, encoding: int = 1, flags: int = 0) -> bytes:
    version, magic = protocol.PROTOCOL_VERSION, 0x4DC5
    return _HEADER.pack(
        b"PYRO", version, kind, encoding, flags, 1, length, notes, bytes(16), 0, magic
    )


def _call(name: str, *args: Any, flags: int = 0) -> bytes:
    body = _SERPENT.dumpsCall("victim", name, args, {})
    return _message(protocol.MSG_INVOKE, bytes(body), flags=flags)


_GREETING: Final = _message(
    protocol.MSG_CONNECT, bytes(_SERPENT.dumps({"handshake": "hello", "object": "victim"}))
)
_PING: Final = _message(protocol.MSG_PING, b"attacker")


def _receive(line: Line) -> bytes:
    header = line.receive_exactly(_HEADER.size)
    length, notes = struct.unpack_from("!II", header, 12)
    return line.receive_exactly(length + notes)


def _ready(attacker: Attacker, *, deaf: bool = False) -> Line:
    line = attacker.dial(4096 if deaf else None)
    line.send(_GREETING, 0)
    _receive(line)
    return line


# --- attacks, named as in `attacks` ---


def _in_turn(*calls: bytes) -> Function:
    """Make an attack that sends calls one at a time, and waits for each answer."""

    def attack(attacker: Attacker) -> None:
        line = _ready(attacker)
        while True:
            for call in calls:
                line.send(call)
                _receive(line)

    return attack


def _bodies(*bodies: tuple[int, bytes]) -> Function:
    """Make an attack that sends each body, a pair of encoding and bytes, on its own connection."""

    def attack(attacker: Attacker) -> None:
        for encoding, body in bodies:
            line = _ready(attacker)
            line.send(_message(protocol.MSG_INVOKE, body, encoding=encoding))
        attacker.hold(0.05)

    return attack


def _flood_of(data: bytes) -> Function:
    def attack(attacker: Attacker) -> None:
        _ready(attacker, deaf=True).flood(data * _MANY, _MANY)

    return attack


def _results_unread(attacker: Attacker) -> None:
    for _ in range(10):
        _ready(attacker, deaf=True).send(_call("big") * 1000, 1000)
    attacker.hold()


def _oneway(attacker: Attacker) -> None:
    call = _call("hold", flags=protocol.FLAGS_ONEWAY)
    _ready(attacker).flood(call * 10, 10)


def _endless_messages(attacker: Attacker) -> None:
    line = _ready(attacker)
    line.send(_header(protocol.MSG_INVOKE, 2**30))
    for _ in range(2**10):
        line.send(bytes(2**20))


def _decompression_bomb(attacker: Attacker) -> None:
    flags = protocol.FLAGS_COMPRESSED
    while True:
        line = _ready(attacker)
        line.send(_message(protocol.MSG_INVOKE, packed_zeros(), flags=flags))
        attacker.sleep(0.2)


def _stalled_items(attacker: Attacker) -> None:
    line = _ready(attacker)
    for _ in range(1000):
        line.send(_call("items"))
        _receive(line)
    attacker.hold()


def _text_call(arguments: bytes) -> bytes:
    """Encode a call in Pyro's text encoding (serpent), with arguments already encoded."""
    return b"# serpent utf-8 python3.2\n('victim','echo',(" + arguments + b",),{})"


def _versions() -> list[bytes]:
    good = bytearray(_GREETING)
    return [bytes(good[:4] + number.to_bytes(2, "big") + good[6:]) for number in range(450, 550)]


_DEEP: Final = (
    (1, _text_call(b"(" * 90 + b"1" + b",)" * 90)),
    (1, _text_call(b"[" * 100_000 + b"]" * 100_000)),
    (1, _text_call(b"-" * 1_000_000 + b"1")),
    (_JSON, b'{"object":"victim","method":"echo","params":' + b"[" * 1_000_000),
    (_MARSHAL, b"\xa9\x01" * 100_000 + b"N"),
)
_LYING: Final = (
    (_MARSHAL, b"[\xff\xff\xff\x7f"),
    (_MARSHAL, b"(\xff\xff\xff\x7f"),
    (_MARSHAL, b"s\xff\xff\xff\x7f"),
    (1, _text_call(b"'x'*4000000000")),
    (1, _text_call(b"9**9**9")),
)
_MALFORMED: Final = (
    (1, b"\xff\xfe\xfd"),
    (1, b""),
    (_JSON, b"{"),
    (_MARSHAL, b"\xff"),
    (_MARSHAL, b"c" + bytes(40)),
    (_MARSHAL, marshal.dumps(compile("1", "x", "eval"))),
    (4, b"\xc1"),
    (99, b"x"),
)
_NAMES: Final = (*dir(object), "__dict__", "_private", "secret", "a\nb", "\x1b[31m", "__getattr__")
_FUNCTIONS: Final[dict[str, Function]] = {
    "peace": sockets.peace,
    "rapid cancel": _oneway,
    "refused calls": _in_turn(_call("no_such_method")),
    "ping flood": _flood_of(_PING),
    "second hello": _flood_of(_GREETING),
    "results unread": _results_unread,
    "empty frames": _flood_of(_message(protocol.MSG_INVOKE, b"")),
    "endless messages": _endless_messages,
    "length bombs": sockets.say(
        _header(protocol.MSG_INVOKE, 2**32 - 1) + b"x",
        _header(protocol.MSG_INVOKE, 2**30 - 1) + b"x",
        _header(protocol.MSG_INVOKE, 1, notes=2**30 - 2) + b"x",
        prefix=_GREETING,
        count=100,
        pause=0.5,
    ),
    "wrong protocols": sockets.wrong_protocols,
    "slow-loris": sockets.drip(_GREETING),
    "slow-loris, admitted": sockets.drip(_call("echo", "x" * 100), prefix=_GREETING, count=200),
    "idle": sockets.idle,
    "stalled items": _stalled_items,
    "broken promises": sockets.say(_call("echo", "x")[:-4], prefix=_GREETING, count=300, pause=0.5),
    "versions": sockets.say(*_versions()),
    "depth": _bodies(*_DEEP),
    "lying lengths": _bodies(*_LYING),
    "many values": _in_turn(_message(protocol.MSG_INVOKE, _text_call(b"[" + b"1," * 2**20 + b"]"))),
    "many containers": _in_turn(
        _message(protocol.MSG_INVOKE, _text_call(b"[" + b"[]," * 2**17 + b"]"))
    ),
    "keys": _in_turn(
        _message(
            protocol.MSG_INVOKE,
            _text_call(b"{" + b",".join(b"%d:1" % (n << 40) for n in range(60_000)) + b"}"),
        )
    ),
    "malformed values": _bodies(*_MALFORMED),
    "bad results": _in_turn(_call("bad_result")),
    "names": _in_turn(*(_call(name) for name in _NAMES)),
    "log flood": _in_turn(_call("fail", "two\nlines"), _call("fail", "\x1b[31mred" * 100)),
    "decompression bomb": _decompression_bomb,
    "half handshakes": sockets.half_handshakes,
    "connect and close": sockets.connect_and_close,
    "hoard": sockets.hoard(_GREETING),
    "reset storm": sockets.reset_storm(_GREETING, _GREETING + _call("big"), _GREETING[:-3]),
}

PEER: Final = Peer(
    "pyro5",
    lambda setting, directory: own_server("pyro5", setting, directory),
    _dial,
    _FUNCTIONS,
    frozenset(("plain", "tls")),
)

if __name__ == "__main__":
    _serve("tls" if sys.argv[1] == "tls" else "plain", Path(sys.argv[2]))
