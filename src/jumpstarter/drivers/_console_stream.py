"""The stdin and stdout of a program as a stream that waits for the program to be started."""

from __future__ import annotations

from typing import Final

import trio

from .._util.fork import close_in_children, no_fork
from ._runner import Runner
from ._supervised import Run

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["ConsoleStream"]

_SIZE: Final = 64 * 1024  # bytes that are passed on in one step


class ConsoleStream(trio.abc.Stream):
    """A program's stdin and stdout. It waits for the program to be started.

    Args:
        runner: Starts the program.
    """

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._run: Run | None = None
        self._stdin: trio.lowlevel.FdStream | None = None

    async def _started(self) -> Run:
        if self._run is None:
            await self._runner.changes.until(lambda: self._runner.is_alive)
            self._run = self._runner.run
            assert self._run is not None
        return self._run

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Receive output. A checkpoint."""
        run = await self._started()
        await run.changes.until(lambda: run.stdout.end > run.read or not run.is_alive)
        data, run.read, _ = run.stdout.since(run.read, min(max_bytes or _SIZE, _SIZE))
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send all data to stdin, as fast as the program reads it. A checkpoint.

        Raises:
            BrokenResourceError: The program has closed its input, or has ended.
        """
        run = await self._started()
        if self._stdin is None:
            try:
                with no_fork():
                    self._stdin = trio.lowlevel.FdStream(run.open_stdin())
                    close_in_children(self._stdin)
            except OSError as exc:
                raise trio.BrokenResourceError(str(exc)) from exc
        await self._stdin.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the program is started. A checkpoint."""
        await self._started()

    async def aclose(self) -> None:
        """Close this way to the program's input, and leave the input itself open. A checkpoint."""
        if self._stdin is not None:
            await self._stdin.aclose()
        await trio.lowlevel.checkpoint()
