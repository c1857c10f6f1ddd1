"""Read docs/protocol.md and docs/vectors.json as values, without importing the package."""

from __future__ import annotations

import re
from itertools import dropwhile, takewhile
from pathlib import Path
from typing import Any, Final

import msgspec

DOCS: Final = Path(__file__).parent.parent / "docs"
TEXT: Final = (DOCS / "protocol.md").read_text(encoding="utf-8")

FLAGS: Final = {"END": 0x10, "MORE": 0x20, "ACK": 0x40}


class Message(msgspec.Struct, forbid_unknown_fields=True):
    """A message as fields, and the actions by which its sender causes it."""

    type: str
    fields: dict[str, Any] = {}
    id: int = 0
    flags: list[str] = []
    read: int = 0  # CREDIT: bytes that the application has read
    abandons: bool = False  # ERROR: frames that are queued before it in the slot are dropped
    refuses: bool = False  # GOAWAY: instead of a HELLO


class Frame(Message):
    name: str = ""
    bytes: str = ""
    read_only: bool = False  # receivers accept this form, and senders write another


class Step(msgspec.Struct, forbid_unknown_fields=True):
    """One side sends messages, and the other side receives them."""

    side: str = msgspec.field(name="from")
    bytes: list[str]
    says: list[Message] = []
    answers: list[Message] = []
    hears: list[dict[str, Any]] | None = None
    raw: bool = False
    crosses: bool = False


class Exchange(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    steps: list[Step]
    after: str = ""


class Breach(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    after: str
    to: str
    bytes: str
    code: int


class Vectors(msgspec.Struct, forbid_unknown_fields=True):
    notation: list[str]
    frames: list[Frame]
    exchanges: list[Exchange]
    breaches: list[Breach]


def unhex(text: str) -> bytes:
    """Convert the hexadecimal notation of the vectors, in which `78*3` is `787878`."""
    pieces = [token.partition("*") for token in text.split()]
    return b"".join(bytes.fromhex(digits) * int(count or 1) for digits, _, count in pieces)


def value_of(notation: Any) -> Any:
    """Convert the JSON that represents a MessagePack value to that value."""
    match notation:
        case {"$bytes": str(digits)}:
            return unhex(digits)
        case {"$float": str(digits)}:
            return float(digits)
        case {"$text": str(text), "$times": int(count)}:
            return text * count
        case dict():
            return {key: value_of(value) for key, value in notation.items()}
        case list():
            return [value_of(value) for value in notation]
        case _:
            return notation


def table(heading: str, number: int = 0) -> list[dict[str, str]]:
    """Read a table of a section of docs/protocol.md, without the backticks.

    Args:
        heading: The heading of the section.
        number: The position of the table in the section, from 0.
    """
    section = re.split(rf"^#+ {re.escape(heading)}$", TEXT, flags=re.MULTILINE)
    assert len(section) == 2, f"{heading!r} is the heading of {len(section) - 1} sections"
    lines = iter(section[1].splitlines())
    for _ in range(number + 1):
        rest = dropwhile(lambda line: not line.startswith("|"), lines)
        table_lines = list(takewhile(lambda line: line.startswith("|"), rest))
    rows = [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in table_lines]
    return [dict(zip(rows[0], row, strict=True)) for row in rows[2:]]


def examples() -> list[tuple[str, list[str]]]:
    """Return the blocks that show a vector: its name, and its lines without comments."""
    blocks = re.findall(r"^```vector (.+)\n((?:.*\n)+?)```$", TEXT, flags=re.MULTILINE)
    return [
        (name, [line.partition("#")[0].strip() for line in body.splitlines()])
        for name, body in blocks
    ]


VECTORS: Final = msgspec.json.decode((DOCS / "vectors.json").read_bytes(), type=Vectors)
EXCHANGES: Final = {exchange.name: exchange for exchange in VECTORS.exchanges}
