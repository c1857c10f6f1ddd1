"""Commands that an exporter offers: each is fixed by who has configured it, and has a name.

A client says the name, and nothing else: no argument, environment or input of its own reaches the
command, and no shell is involved. A command that is cancelled is ended, with what it has
started: its process group gets SIGTERM, and five seconds later SIGKILL.

A command starts with default signal dispositions and an empty signal mask, whatever the process
that serves ignores or blocks. Its exit code is the real one, or running it is an error.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import trio

from .._util.checks import check_int, raise_type_error
from ..client import DriverClient
from ..driver import Driver, export
from ..errors import ConfigurationError
from ._spawn import Program, spawn

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["Shell", "ShellClient", "ShellResult"]

_TERM_GRACE: Final = 5.0  # seconds between SIGTERM and SIGKILL
_LAST_WORDS: Final = 1.0  # seconds for output behind a command's end, where others hold its pipes


@dataclass(frozen=True, kw_only=True)
class ShellResult:
    """How a command has ended.

    Attributes:
        returncode: Its exit code, or -N if signal N has ended it.
        stdout: What it has written there.
        stderr: What it has written there.
        truncated: Either was longer than the driver keeps, or a second behind the command's end
            something that it has started still held it open; the rest was dropped.
    """

    returncode: int
    stdout: bytes
    stderr: bytes
    truncated: bool


@dataclass(kw_only=True)
class Shell(Driver):
    """Runs commands by their names.

    Attributes:
        commands: For each name the program and its arguments, as
            `{"reboot": ["ssh", "board", "reboot"]}`. A single string is refused: it would take a
            shell to split it.
        max_output: Bytes of each of stdout and stderr that are kept.
    """

    commands: Mapping[str, Sequence[str]] = field(default_factory=dict)
    max_output: int = 1024 * 1024

    def __post_init__(self) -> None:
        """Check the commands."""
        super().__post_init__()
        given: object = self.commands
        if not isinstance(given, Mapping):
            raise_type_error("commands of Shell", given, "a dict of lists", ConfigurationError)
        name = "max_output of Shell"
        check_int(name, self.max_output, 0, error=ConfigurationError)
        for name, command in self.commands.items():
            listed: object = command
            is_list = isinstance(listed, Sequence) and not isinstance(listed, str | bytes)
            words = list(command) if is_list else []
            if not words or not all(isinstance(word, str) for word in words):
                text = f"command {name!r} must be a list of the program and its arguments"
                raise ConfigurationError(f"{text}, not {command!r}")

    @classmethod
    def client(cls) -> str:
        """Name the client class."""
        return "jumpstarter.drivers.shell.ShellClient"

    @export
    def names(self) -> list[str]:
        """Say what can be run."""
        return list(self.commands)

    @export(strict=True)
    async def run(self, name: str) -> ShellResult:
        """Run a command to its end.

        Raises:
            ValueError: There is no such command.
            OSError: It cannot be started, or its exit code is lost.
        """
        if name not in self.commands:
            raise ValueError(f"there is no command {name!r}; there are: {', '.join(self.commands)}")
        program = await spawn(list(self.commands[name]))
        outputs = _Output(self.max_output), _Output(self.max_output)
        try:
            async with program.stdout, program.stderr, trio.open_nursery() as nursery:
                nursery.start_soon(outputs[0].read, program.stdout)
                nursery.start_soon(outputs[1].read, program.stderr)
                returncode = await program.wait()
                nursery.cancel_scope.deadline = trio.current_time() + _LAST_WORDS
        finally:
            try:
                await _end(program)
            finally:
                program.close()
        return ShellResult(
            returncode=returncode,
            stdout=bytes(outputs[0].kept),
            stderr=bytes(outputs[1].kept),
            truncated=any(output.truncated or not output.ended for output in outputs),
        )


class _Output:
    """What a command writes, up to a limit; the rest is read and dropped."""

    def __init__(self, limit: int) -> None:
        self.kept = bytearray()
        self.truncated = False
        self.ended = False
        self._limit = limit

    async def read(self, stream: trio.abc.ReceiveStream) -> None:
        async for data in stream:
            room = self._limit - len(self.kept)
            self.kept += data[:room]
            self.truncated |= len(data) > room
        self.ended = True


async def _end(program: Program) -> None:
    """See to it that a command, and all of its group, has ended."""
    if program.ended:
        return
    with trio.CancelScope(shield=True), suppress(ProcessLookupError):  # none of them is left
        os.killpg(program.pid, signal.SIGTERM)
        with trio.move_on_after(_TERM_GRACE):
            await _reap(program)
            while True:  # what it has started has no other parent who could wait for it
                os.killpg(program.pid, 0)
                await trio.sleep(_TERM_GRACE / 100)
        os.killpg(program.pid, signal.SIGKILL)
        await _reap(program)


async def _reap(program: Program) -> None:
    with suppress(ChildProcessError):  # of one that was cancelled nobody asks for the exit code
        await program.wait()


class ShellClient(DriverClient):
    """What a test has of the commands."""

    def names(self) -> list[str]:
        """Say what can be run."""
        return self.call_as(list[str], "names")

    def run(self, name: str) -> ShellResult:
        """Run a command to its end, whatever it exits with. Bound it with `timeout`.

        Raises:
            DriverInvalidArgument: There is no such command.
            DriverOSError: The exporter does not have its program.
            DriverChildProcessError: The exporter cannot learn its exit code, since the process that
                serves ignores SIGCHLD, or waits for all children elsewhere.
        """
        return self.call_as(ShellResult, "run", name)
