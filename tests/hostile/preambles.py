"""The first bytes of other protocols, whose clients may connect to the wrong port."""

from __future__ import annotations

import random
from typing import Final

__all__ = ["CLIENT_HELLO", "PREAMBLES"]

_chance: Final = random.Random(20)
_SERVER_NAME: Final = b"\x00\x00\x00\x0e\x00\x0c\x00\x00\x09localhost"
_CIPHERS: Final = b"\x00\x04\x13\x01\xc0\x2f"
_HELLO_BODY: Final = (
    b"\x03\x03" + bytes(range(32)) + b"\x00" + _CIPHERS + b"\x01\x00\x00\x12" + _SERVER_NAME
)
_HANDSHAKE: Final = b"\x01" + len(_HELLO_BODY).to_bytes(3, "big") + _HELLO_BODY

CLIENT_HELLO: Final = b"\x16\x03\x01" + len(_HANDSHAKE).to_bytes(2, "big") + _HANDSHAKE

PREAMBLES: Final = (
    b"GET / HTTP/1.1\r\nHost: exporter\r\n\r\n",
    b"POST /rpc HTTP/1.1\r\nContent-Length: 4000000000\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
    CLIENT_HELLO,
    b"SSH-2.0-OpenSSH_9.6\r\n",
    b"\x10\x0e\x00\x04MQTT\x04\x02\x00\x3c\x00\x02me",
    b"*1\r\n$4\r\nPING\r\n",
    b"\x00\x00\x00\x08\x04\xd2\x16\x2f",  # PostgreSQL, SSLRequest
    b"EHLO example.org\r\n",
    b"USER anonymous\r\n",
    b"\x03\x00\x00\x13\x0e\xe0\x00\x00\x00\x00\x00\x01\x00\x08\x00\x03\x00\x00\x00",  # RDP
    b"\x00\x00\x00\x85\xffSMBr\x00\x00\x00\x00\x18\x53\xc8",
    b"OPTIONS rtsp://host/stream RTSP/1.0\r\nCSeq: 1\r\n\r\n",
    b"\x05\x01\x00",  # SOCKS 5
    b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n",
    b"\x00\x1e\x86\x10\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00",  # DNS
    b"PYRO\x01\xf6\x01\x00\x00\x00\x00\x00\x00\x00\x00\x10",
    b"\xff\xfd\x18\xff\xfd\x20\xff\xfd\x23\xff\xfd\x27",  # telnet
    bytes(64),
    _chance.randbytes(4096),
)
