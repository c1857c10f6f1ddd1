"""Tell the user of a shell when it is about to lose its session, and when it has lost it.

The shell has the terminal then, and a program may have switched it to another mode. But without a
line, the user would find out with the next command only, and the board may be another client's.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final

from .._util.background import open_background
from .._util.fork import close_without_fork
from .._util.stderr_log import Descriptor, start_daemon_thread, write_pieces
from .._util.text import escape_text
from ..client import DriverClient

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["ending_told", "write_notice"]

_MAX_REASON: Final = 1000  # characters
_NEXT: Final = "exit, and start a new shell"


def write_notice(number: int, text: str) -> None:
    """Write a line from a thread of its own, since a terminal or a pipe may take nothing.

    Args:
        number: The file descriptor. It may be closed afterwards.
        text: The line. On a terminal it begins below the prompt.
    """
    try:
        copy = Descriptor.copy_of(number)
    except OSError:  # this process has too many
        return
    line = f"\r\n{text}\r\n" if os.isatty(number) else f"{text}\n"

    def write() -> None:
        with suppress(OSError):  # nobody reads it
            for _ in write_pieces(copy.fileno(), line.encode(errors="backslashreplace")):
                pass
        close_without_fork(copy)

    start_daemon_thread(write, "notice")


@asynccontextmanager
async def ending_told(client: DriverClient, tell: Callable[[str], None]) -> AsyncIterator[None]:
    """Tell when the connection of a client ends in the block, and why. In the client's loop."""
    channel = client.channel.channel

    async def watch() -> None:
        await channel.connection.finished.wait()
        # The end itself may be a broken connection, if both sides were about to say something.
        goaway = channel.connection.goaway
        said = "" if goaway is None else escape_text(goaway.goaway.text[:_MAX_REASON])
        tell(f"the session at {channel.name} is over: {said or channel.ended}; {_NEXT}")

    async with open_background() as nursery:
        nursery.start_soon(watch)
        yield
