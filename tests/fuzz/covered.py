"""The function that libFuzzer calls, and its initial corpus.

`python -m fuzz.covered DIRECTORY` writes the corpus to a directory. The first byte of an input
selects the target of the other bytes and the size of the pieces that they are fed in.
"""

from __future__ import annotations

import sys
from pathlib import Path

from jumpstarter._framing import pack_frame

from . import framing
from .corpus import FRAMES, VALUES

SCAN, DECODER = 0x00, 0x87  # the decoder is fed pieces of eight bytes


def one(data: bytes) -> None:
    """Check one input. Raises if the check fails."""
    how, rest = data[:1] or b"\x00", data[1:]
    if how[0] < 0x80:
        framing.check_messages([rest])
    else:
        size = 1 + (how[0] & 0x7F)
        framing.check_stream([rest[at : at + size] for at in range(0, len(rest), size)])


def write(directory: Path) -> None:
    """Write the corpus, one file for each input."""
    directory.mkdir(parents=True, exist_ok=True)
    inputs = [bytes([SCAN]) + value for value in VALUES]
    inputs += [bytes([DECODER]) + pack_frame(*frame) for frame in FRAMES]
    for number, data in enumerate(inputs):
        (directory / f"{number:03}").write_bytes(data)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
