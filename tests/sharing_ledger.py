"""Check the ledger that the drivers of `sharing_drivers:bench` write while clients fight.

A line is `PATH begin CLIENT`, `PATH end CLIENT` or `PATH reset`, with the path of a driver and the
number of a connection.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

__all__ = ["SUBTREES", "WHOLE", "Boards", "Found", "check"]

Boards = Mapping[str, frozenset[str]]  # what is claimed by itself, and its drivers
WHOLE: Final[Boards] = {"": frozenset({"left", "left.part", "right", "right.part"})}
SUBTREES: Final[Boards] = {
    "left": frozenset({"left", "left.part"}),
    "right": frozenset({"right", "right.part"}),
}


class Found(Counter[str]):
    """How often something was found in a ledger."""


@dataclass
class _Board:
    """A board, as far as the ledger was read.

    Attributes:
        drivers: The paths of its drivers.
        user: The client that uses it now.
        owner: The client that used it last, unless all drivers were reset since.
        clean: The drivers that were reset since.
    """

    drivers: frozenset[str]
    user: str = ""
    owner: str = ""
    clean: set[str] = field(default_factory=set)

    def begin(self, client: str, found: Found) -> str:
        """Note that a use begins, and return what is wrong with that."""
        if self.user:
            return f"{client} begins while {self.user} uses the board"
        if self.owner not in ("", client):
            missing = ", ".join(sorted(self.drivers - self.clean))
            return f"{client} begins after {self.owner}, without a reset of {missing}"
        if self.owner == client and self.clean:
            return f"{client} goes on after a reset"
        found["sessions"] += not self.owner
        self.user = self.owner = client
        self.clean.clear()
        return ""

    def end(self, client: str, found: Found) -> str:
        """Note that a use ends, and return what is wrong with that."""
        del found
        fault = (
            "" if self.user == client else f"{client} ends, and {self.user or 'nobody'} has begun"
        )
        self.user = ""
        return fault

    def reset(self, path: str) -> str:
        """Note that a driver is reset, and return what is wrong with that."""
        if self.user:
            return f"a reset while {self.user} uses the board"
        self.clean.add(path)
        if self.clean >= self.drivers:
            self.owner = ""
            self.clean.clear()
        return ""


def check(lines: Sequence[str], boards: Boards) -> Found:
    """Check a ledger.

    Raises:
        ValueError: Two uses of a board overlap, or two clients have used it without a reset of all
            its drivers between.
    """
    found = Found()
    states = {name: _Board(drivers) for name, drivers in boards.items()}
    board_of = {path: states[name] for name, drivers in boards.items() for path in drivers}
    for number, line in enumerate(lines, 1):
        path, what, *clients = line.split()
        board = board_of[path]
        found[what] += 1
        if what == "reset":
            fault = board.reset(path)
        else:
            fault = (board.begin if what == "begin" else board.end)(clients[0], found)
        if fault:
            raise ValueError(f"line {number} of the ledger, {path}: {fault}")
    for name, board in states.items():
        if board.user:
            raise ValueError(f"{board.user} has never ended its use of {name or 'the board'}")
    return found
