"""Decodes what is nested far too deeply, on a small stack. Not a test: test_bombs.py runs it.

A fault here ends the process with a signal, so this has a process of its own.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import msgspec

from drivers_for_tests import Echo
from helpers import PATIENCE
from jumpstarter import Limits, serve
from jumpstarter._protocol.codec import (
    decode_call,
    decode_error,
    decode_hello,
    decode_nodes,
    decode_value,
    encode_hello,
)
from jumpstarter._protocol.frames import Hello
from jumpstarter.errors import ArgumentError, DriverInvalidArgument

STACK: Final = 256 * 1024  # bytes
LEVELS: Final = 1_000_000
LIMITS: Final = Limits()
BOMBS: Final = [
    head * LEVELS + b"\xc0" for head in (b"\x91", b"\xdc\0\1", b"\x81\1", b"\xde\0\1\1")
]


def nested(levels: int) -> Any:
    value: Any = None
    for _ in range(levels):
        value = [value]
    return value


def decode_all() -> None:
    """Hand each bomb to everything that reads a payload."""
    about = encode_hello(Hello.of(LIMITS))[:28]
    decoders: list[Callable[[bytes], object]] = [
        lambda bomb: decode_value(bomb, LIMITS),
        lambda bomb: decode_nodes(bomb, LIMITS),
        lambda bomb: decode_hello(about + bomb),
        lambda bomb: decode_error(b"\x14\0" + bomb, LIMITS),
        lambda bomb: decode_error(b"\x14\0\x95\xa0\xa0\x90\xc0" + bomb, LIMITS),
        lambda bomb: decode_value(decode_call(bytes(7) + b"\1m" + bomb)[1], LIMITS),
    ]
    for bomb in BOMBS:
        for decode in decoders:
            with suppress(ArgumentError):
                decode(bomb)
    deepest = nested(LIMITS.max_depth)
    assert decode_value(msgspec.msgpack.encode(deepest), LIMITS) == deepest
    print("decoded")


def serve_and_call() -> None:
    """Send values through a whole exporter, whose threads have small stacks too."""
    with serve(Echo()) as client, client.timeout(PATIENCE):
        for method in ("echo", "echo_async"):
            deepest = nested(LIMITS.max_depth - 1)
            assert client.call(method, deepest) == deepest
            with suppress(DriverInvalidArgument):
                client.call(method, nested(1000))
                print("a value that is too deep has arrived")
            assert client.call(method, 1) == 1
    print("served")


def main() -> None:
    sys.setrecursionlimit(10**6)
    threading.stack_size(STACK)
    for step in (decode_all, serve_and_call):
        thread = threading.Thread(target=step)
        thread.start()
        thread.join()


if __name__ == "__main__":
    main()
