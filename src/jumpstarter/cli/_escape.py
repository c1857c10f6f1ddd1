"""Find the console's commands among the bytes that a user types.

Ctrl-B is the escape key. The rules see single bytes, so they work for any encoding, and for keys
that arrive in several pieces:

    state      Ctrl-B             the key of a command   any other byte
    TYPING     ESCAPED            sent                   sent
    ESCAPED    TWICE              done: TYPING           Command.UNKNOWN: TYPING
    TWICE      LEAVE: TYPING      done: TYPING           Command.UNKNOWN: TYPING

An unknown key sends nothing: a mistyped command must not reach the device.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import Final

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["ESCAPE", "Command", "EscapeKeys"]

ESCAPE: Final = 0x02  # Ctrl-B


class Command(enum.Enum):
    """A command that a user gives to the console. The value is the key after Ctrl-B."""

    LEAVE = "q"
    HELP = "?"
    POWER = "p"
    SUSPEND = "z"
    SEND_ESCAPE = "b"
    UNKNOWN = ""


class _State(enum.Enum):
    """How many escape keys were typed last; the module's docstring has the table."""

    TYPING = 0
    ESCAPED = 1
    TWICE = 2


_KEYS: Final = {ord(each.value): each for each in Command if each.value}
_NEXT: Final = {_State.TYPING: _State.ESCAPED, _State.ESCAPED: _State.TWICE}


class EscapeKeys:
    """The state machine. Feed it all bytes that are typed, in order."""

    def __init__(self) -> None:
        self._state = _State.TYPING

    def feed(self, data: bytes) -> Iterator[bytes | Command]:
        """Yield the bytes to send and the commands, in the order in which they were typed.

        `Command.SEND_ESCAPE` is yielded as the byte that it sends.
        """
        begin = 0  # of the bytes that were not yielded yet
        for index, byte in enumerate(data):
            if self._state is _State.TYPING and byte != ESCAPE:
                continue
            if begin < index:
                yield data[begin:index]
            begin = index + 1
            if (command := self._step(byte)) is Command.SEND_ESCAPE:
                yield bytes([ESCAPE])
            elif command is not None:
                yield command
        if begin < len(data):
            yield data[begin:]

    def _step(self, byte: int) -> Command | None:
        """Process an escape key, or the byte after one."""
        if byte == ESCAPE and self._state in _NEXT:
            self._state = _NEXT[self._state]
            return None
        self._state = _State.TYPING
        if byte == ESCAPE:
            return Command.LEAVE
        return _KEYS.get(byte, Command.UNKNOWN)
