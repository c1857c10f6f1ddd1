"""A receive buffer returns its bytes completely and in order, and merges small pieces."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from jumpstarter._protocol.receive_buffer import ReceiveBuffer

ALL = 2**30  # bytes: more than any buffer here has


@given(st.lists(st.one_of(st.binary(min_size=1, max_size=9000), st.integers(1, 20_000))))
def test_a_receive_buffer_returns_its_bytes_in_order(steps: list[bytes | int]) -> None:
    pieces = ReceiveBuffer()
    expected = b""
    for step in steps:
        if isinstance(step, bytes):
            pieces.append(step)
            expected += step
        elif pieces:
            piece = pieces.read(step)
            assert piece
            assert type(piece) is bytes
            assert len(piece) <= step
            assert expected.startswith(piece)
            expected = expected[len(piece) :]
        assert len(pieces) == len(expected)
    if expected:
        assert pieces.read(ALL) == expected
    assert not pieces


def test_small_pieces_are_merged_and_large_ones_are_not_copied() -> None:
    pieces = ReceiveBuffer()
    for _ in range(100_000):
        pieces.append(b"x")
    assert len(pieces._pieces) <= 3
    assert pieces.read(ALL) == b"x" * 100_000
    large = bytes(100_000)
    pieces.append(large)
    assert pieces.read(ALL) is large


def test_take_returns_as_many_whole_pieces_as_fit() -> None:
    pieces = ReceiveBuffer()
    for letter in (b"a", b"b", b"c"):
        pieces.append(letter * 5000)
    assert pieces.read(14_999) == b"a" * 5000 + b"b" * 5000
    assert pieces.read(4999) == b"c" * 4999
    pieces.append(b"d" * 5000)
    assert pieces.read(5001) == b"c" + b"d" * 5000


def test_take_splits_a_piece_that_is_too_large() -> None:
    pieces = ReceiveBuffer()
    pieces.append(b"abcdef")
    pieces.append(b"g" * 5000)
    assert pieces.read(3) == b"abc"
    assert pieces.read(2) == b"de"
    assert pieces.read(5000) == b"f"
    assert pieces.read(ALL) == b"g" * 5000


def test_a_receive_buffer_can_be_cleared() -> None:
    pieces = ReceiveBuffer()
    pieces.append(b"abc")
    pieces.read(1)
    pieces.clear()
    assert len(pieces) == 0
    pieces.append(b"def")
    assert pieces.read(ALL) == b"def"
