"""Start and stop a program for any number of clients, and say how it has ended.

A `Runner` has one run at a time. Its methods may be called concurrently, by tasks and threads.
"""

from __future__ import annotations

import dataclasses
import errno
import logging
import os
import threading
from typing import Final

import trio

from ._output import Changes
from ._supervised import Program, Readiness, Run, RunState

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["Runner"]

_KILL_GRACE: Final = 5.0  # seconds for a program to disappear after SIGKILL
_SHOWN_LINES: Final = 5  # lines of output that an error and the log show
_SHOWN: Final = 500  # characters of them


class Runner:
    """Starts and stops a program.

    Args:
        program: What to run. Its environment is added to this process's, at each start.
        readiness: What shows that it is ready.
        logger: Gets a line when it is started, and when it has ended.

    Attributes:
        run: The present run, or the last one.
        starts: How many runs there have been.
        changes: Announces each change, and all output.
    """

    def __init__(self, program: Program, readiness: Readiness, logger: logging.Logger) -> None:
        self.run: Run | None = None
        self.starts: int = 0
        self.changes: Changes = Changes()
        self._program = program
        self._readiness = readiness
        self._logger = logger
        self._lock = threading.Lock()  # held while a run is begun

    @property
    def is_alive(self) -> bool:
        """True while the program, or one of its descendants, runs."""
        return self.run is not None and self.run.is_alive

    @property
    def _name(self) -> str:
        return os.path.basename(self._program.words[0])  # noqa: PTH119 - also of what is not a path

    async def start(self) -> None:
        """Start the program unless it runs, and wait until it is ready. A checkpoint.

        Raises:
            OSError: It cannot be started, or something else listens where it is to be ready.
            ChildProcessError: It ended, was stopped, or took too long before it was ready.
            PermissionError: An earlier run cannot be ended.
        """
        while True:
            run, was_stopping = await trio.to_thread.run_sync(self._begin)
            if not was_stopping:  # if it is by now, that has ended this start
                break
            await self._until_ended(run)  # and then start it again
        await self.changes.until(lambda: run.state is not RunState.STARTING)
        if not run.was_ready:
            await self._until_ended(run)
        self._check_started(run)

    async def stop(self) -> None:
        """End the program and its descendants, and wait until they have. A checkpoint.

        Raises:
            PermissionError: A process runs as another user, and cannot be ended.
        """
        run = self.run
        if run is not None and run.is_alive:
            run.stop()
            await self._until_ended(run)

    async def _until_ended(self, run: Run) -> None:
        await self.changes.until(lambda: not run.is_alive or run.denied is not None)
        if run.is_alive:
            text = "it runs as another user, so the exporter may not end it"
            raise PermissionError(errno.EPERM, text, f"process {run.denied} of {self._name}")

    async def next_run(self, after: Run | None) -> Run:
        """Wait until the program is started, and return that run. A checkpoint."""
        await self.changes.until(lambda: self.run is not after)
        assert self.run is not None
        return self.run

    def start_blocking(self) -> None:
        """Start the program as `start` does, in a worker thread."""
        run, _ = self._begin()
        self.changes.block_until(lambda: run.was_ready or not run.is_alive)
        self._check_started(run)

    def stop_blocking(self) -> None:
        """Stop the program, in a worker thread. If it does not end, the log says so."""
        run = self.run
        if run is None or not run.is_alive:
            return
        run.stop()
        if self.changes.block_until(lambda: not run.is_alive, self._program.grace + _KILL_GRACE):
            run.join()
        else:
            text = "%s does not end; process %s of it still runs"
            self._logger.warning(text, self._name, run.denied or run.pid)

    def _begin(self) -> tuple[Run, bool]:
        """Begin a run, unless one is alive. Blocks for a moment.

        Returns:
            The run, and whether it was stopping already.
        """
        with self._lock:
            if self.run is not None and self.run.is_alive:
                return self.run, self.run.state is RunState.STOPPING
            address = self._readiness.address
            if address is not None and self._readiness.can_connect():
                text = "another program listens there already; end it first"
                where = address if isinstance(address, str) else f"{address[0]}:{address[1]}"
                raise OSError(errno.EADDRINUSE, text, where)
            environment = {**os.environ, **self._program.environment}
            program = dataclasses.replace(self._program, environment=environment)
            self.run = Run(program, self._readiness, self.changes, self._log)
            self.starts += 1
            run = self.run
        self.changes.announce()
        return run, False

    def _check_started(self, run: Run) -> None:
        """Raise if a run did not become ready."""
        if run.was_ready:
            return
        if run.error is not None:
            exc, text = run.error, run.error.strerror
            if exc.errno == errno.EBUSY and exc.filename == self._program.pidfile:
                text = "another exporter runs the program: it has locked the pidfile"
            raise OSError(exc.errno, text, exc.filename)
        why = run.failure
        if not why and run.was_stopped:
            why = "it was stopped before it was ready"
        why = why or f"it ended before it was ready, {_ending(run)}"
        raise ChildProcessError(f"{self._name}: {why}{_last_words(run)}")

    def _log(self, run: Run) -> None:
        """Log the start and the end of a run. In the run's thread."""
        name = self._name
        if run.is_alive:
            self._logger.info("%s was started (process %s)", name, run.pid)
        elif run.pid is None:
            self._logger.warning("%s could not be started: %s", name, run.error or run.failure)
        elif run.was_stopped and not run.failure:
            self._logger.info("%s (process %s) was stopped, %s", name, run.pid, _ending(run))
        else:
            text = "%s (process %s) has ended by itself, %s%s"
            level = logging.INFO if run.code == 0 and not run.failure else logging.WARNING
            why = run.failure or _ending(run)
            self._logger.log(level, text, name, run.pid, why, _last_words(run))


def _ending(run: Run) -> str:
    """Say how a program has ended."""
    if run.code is None:
        return "and its exit code is unknown"
    return f"by signal {-run.code}" if run.code < 0 else f"with exit code {run.code}"


def _last_words(run: Run) -> str:
    """Show the last lines of a program's output, those of stderr if there are any."""
    for tail in (run.stderr, run.stdout):
        data, _, _ = tail.since(tail.end - _SHOWN)
        lines = data.decode(errors="replace").split("\n")
        shown = [text for line in lines if (text := _printable(line).strip())]
        if shown:
            return "; its last output was:\n" + "\n".join(shown[-_SHOWN_LINES:])
    return ""


def _printable(text: str) -> str:
    """Leave out what a terminal would take as a command."""
    return "".join(each if each.isprintable() else " " for each in text)
