"""Checks of which event loop runs in the calling thread."""

from __future__ import annotations

import sys

import trio

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["check_trio_loop", "no_trio_loop"]


def check_trio_loop(what: str, instead: str) -> None:
    """Refuse a call that needs a Trio loop, in a thread that runs none.

    Args:
        what: What was called, as `"connect_async()"`.
        instead: What an asyncio program does instead.

    Raises:
        RuntimeError: No Trio loop runs here.
    """
    if not trio.lowlevel.in_trio_run():
        raise no_trio_loop(what, instead)


def no_trio_loop(what: str, instead: str) -> RuntimeError:
    """Make the error for a call that needs a Trio loop, in a thread that runs none.

    Args:
        what: What was called, as `"connect_async()"`.
        instead: What an asyncio program does instead.
    """
    asyncio = sys.modules.get("asyncio")  # a thread runs its loop only if somebody has imported it
    in_asyncio = asyncio is not None and asyncio._get_running_loop() is not None  # noqa: SLF001 - get_running_loop() raises where there is none
    place = "an asyncio loop runs in this thread" if in_asyncio else "no Trio loop runs here"
    return RuntimeError(
        f"{what} runs in a Trio loop only, and {place}. In an asyncio program, {instead}; "
        "otherwise start the program by trio.run()"
    )
