"""A decoder may raise any exception: the caller always gets the error of this project."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from jumpstarter._protocol.decoding import decode_checked
from jumpstarter.errors import ArgumentError

NONE = (64, 100, 100)

# Functions written in C, like those of msgspec: their exceptions have no frame of their own.
REFUSING: dict[str, Any] = {
    "DecodeError": msgspec.msgpack.Decoder().decode,
    "ValidationError": msgspec.msgpack.Decoder(int).decode,
    "UnicodeDecodeError": bytes.decode,
    "ValueError": int,
    "KeyError": {}.__getitem__,
    "TypeError": [].__getitem__,
}


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("decode", REFUSING.values(), ids=REFUSING)
def test_any_exception_of_a_decoder_becomes_our_error(decode: Callable[[bytes], Any]) -> None:
    with pytest.raises(Exception) as expected:  # noqa: PT011 - any class
        decode(b"\xa1\xff")
    with pytest.raises(ArgumentError) as caught:
        decode_checked(SimpleNamespace(decode=decode), b"\xa1\xff", NONE, "that")  # type: ignore[arg-type]
    assert str(caught.value).startswith("that: ")
    assert type(caught.value.__cause__) is expected.type


@pytest.fixture
def _handler() -> Iterator[None]:
    def interrupt(*_: object) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGUSR1, interrupt)
    yield
    signal.signal(signal.SIGUSR1, before)


@pytest.mark.usefixtures("_handler")
def test_an_exception_of_a_signal_handler_passes_through_a_decoder() -> None:
    def decode(_: bytes) -> None:
        signal.raise_signal(signal.SIGUSR1)

    with pytest.raises(Interrupted):
        decode_checked(SimpleNamespace(decode=decode), b"\x01", NONE, "that")  # type: ignore[arg-type]
