"""What libFuzzer calls, and what it begins with: `python -m fuzz.covered` writes that in files.

The first byte of an input says where the rest goes, and how it is cut.
"""

from __future__ import annotations

import sys
from pathlib import Path

from jumpstarter._framing import pack_frame

from . import framing
from .corpus import FRAMES, VALUES

SCAN, DECODER = 0x00, 0x87  # with pieces of eight bytes


def one(data: bytes) -> None:
    """Check one input; raises if something is wrong about it."""
    how, rest = data[:1] or b"\x00", data[1:]
    if how[0] < 0x80:
        framing.check_messages([rest])
    else:
        size = 1 + (how[0] & 0x7F)
        framing.check_stream([rest[at : at + size] for at in range(0, len(rest), size)])


def write(directory: Path) -> None:
    """Write the corpus, a file for each input."""
    directory.mkdir(parents=True, exist_ok=True)
    inputs = [bytes([SCAN]) + value for value in VALUES]
    inputs += [bytes([DECODER]) + pack_frame(*frame) for frame in FRAMES]
    for number, data in enumerate(inputs):
        (directory / f"{number:03}").write_bytes(data)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
