"""Run the framing alone in loops: bytes to frames and back, without a socket or a connection.

The loops decode several frames from one read, and encode frames one by one. The sides:

    ours    the extension
    floor   the least that plain Python can do: cut and join bytes at positions known in advance
    plain   the same framing as ours, in plain Python written for speed
    h2      HTTP/2's DATA frames, by a library that does more: it tracks the states of its streams

`run` is an end for the harness. As a script, `python -m benchmarks.framing_loops SIDE COUNT` runs
each case twice, over COUNT and over three times COUNT frames. It marks the beginning and the end of
each loop with a system call that nothing else makes; `benchmarks.framing` splits its instruction
counts at these marks.
"""

from __future__ import annotations

import gc
import os
import struct
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final

from .worker import rounds

__all__ = ["BATCH", "CASES", "MARK", "SIDES", "PlainDecoder", "mark", "run"]

Loop = Callable[[int], None]

BATCH: Final = 8  # frames in one read
CASES: Final = tuple(
    (task, size) for task in ("decode", "encode") for size in (16, 1024, 16 * 1024)
)
MARK: Final = "getpgid"  # the C function that `mark` calls
_SLOT: Final = 7
_RESULT: Final = 2
_MAX_FRAME: Final = 64 * 1024
_HEADER: Final = struct.Struct("<II")


def run(_path: str, side: str, task: str, size: str) -> None:
    loop = SIDES[side](task, int(size))
    for count in rounds():
        loop(count)


def mark() -> None:
    """Make the system call at which callgrind splits its counts."""
    os.getpgid(0)


# -------------------------------------------------------------------------------------- sides


def _ours(task: str, size: int) -> Loop:
    from jumpstarter._framing import FrameDecoder, pack_frame  # noqa: PLC0415 - absent for h2

    payload = bytes(size)
    if task == "encode":

        def encode(count: int) -> None:
            for _ in range(count):
                pack_frame(_RESULT, 0, _SLOT, payload)

        return encode
    read = pack_frame(_RESULT, 0, _SLOT, payload) * BATCH
    return _decoding(FrameDecoder(_MAX_FRAME).feed, read)


def _floor(task: str, size: int) -> Loop:
    payload = bytes(size)
    header = bytes(_HEADER.size)
    if task == "encode":

        def encode(count: int) -> None:
            for _ in range(count):
                header + payload

        return encode
    step = len(header) + size
    cuts = [slice(at + len(header), at + step) for at in range(0, BATCH * step, step)]
    return _decoding(lambda read: [read[cut] for cut in cuts], (header + payload) * BATCH)


def _plain(task: str, size: int) -> Loop:
    payload = bytes(size)
    if task == "encode":

        def encode(count: int) -> None:
            for _ in range(count):
                _HEADER.pack(len(payload) | _RESULT << 24, _SLOT) + payload

        return encode
    read = (_HEADER.pack(size | _RESULT << 24, _SLOT) + payload) * BATCH
    return _decoding(PlainDecoder().feed, read)


class PlainDecoder:
    def __init__(self) -> None:
        self._rest = b""

    def feed(self, read: bytes) -> list[tuple[int, int, int, bytes]]:
        data = self._rest + read if self._rest else read
        frames = []
        at, size = 0, len(data)
        while size - at >= 8:
            word, slot = _HEADER.unpack_from(data, at)
            length, kind, flags = word & 0xFFFFFF, word >> 24 & 0x0F, word >> 24 & 0xF0
            if length > _MAX_FRAME or kind > 10 or flags & 0x80:
                raise ValueError(word)
            end = at + 8 + length
            if end > size:
                break
            frames.append((kind, flags, slot, data[at + 8 : end]))
            at = end
        self._rest = data[at:]
        return frames


def _h2(task: str, size: int) -> Loop:
    client, server = _h2_pair()
    payload = bytes(size)
    if task == "encode":

        def encode(count: int) -> None:
            for _ in range(count):
                client.send_data(1, payload)
                client.data_to_send()
                if client.outbound_flow_control_window < _MAX_FRAME:
                    server.increment_flow_control_window(2**30)
                    server.increment_flow_control_window(2**30, 1)
                    client.receive_data(server.data_to_send())

        return encode
    for _ in range(BATCH):
        client.send_data(1, payload)
    read = client.data_to_send()

    def decode(data: bytes) -> None:
        for event in server.receive_data(data):
            server.acknowledge_received_data(event.flow_controlled_length, 1)
        server.data_to_send()

    return _decoding(decode, read)


def _h2_pair() -> tuple[Any, Any]:
    """Create two connected ends with an open stream, whose window is 1 GiB."""
    from h2.config import H2Configuration  # noqa: PLC0415 - absent for ours
    from h2.connection import H2Connection  # noqa: PLC0415

    client = H2Connection()
    server = H2Connection(H2Configuration(client_side=False))
    client.initiate_connection()
    server.initiate_connection()
    headers = {":method": "POST", ":path": "/", ":scheme": "http", ":authority": "x"}
    client.send_headers(1, headers.items())
    server.receive_data(client.data_to_send())
    server.increment_flow_control_window(2**30)
    server.increment_flow_control_window(2**30, 1)
    client.receive_data(server.data_to_send())
    server.receive_data(client.data_to_send())
    return client, server


def _decoding(feed: Callable[[bytes], object], read: bytes) -> Loop:
    def decode(count: int) -> None:
        for _ in range(0, count, BATCH):
            feed(read)

    return decode


SIDES: Final[Mapping[str, Callable[[str, int], Loop]]] = {
    "ours": _ours,
    "floor": _floor,
    "plain": _plain,
    "h2": _h2,
}


def main(side: str, count: str) -> None:
    """Run each case over two numbers of frames, with a mark before, between and after the loops."""
    frames = int(count)
    gc.disable()
    for task, size in CASES:
        loop = SIDES[side](task, size)
        loop(frames)  # warm-up: lets the interpreter specialize the bytecode
        mark()
        loop(frames)
        mark()
        loop(3 * frames)
        mark()


if __name__ == "__main__":
    main(*sys.argv[1:])
