"""Run commands on the exporter that its configuration fixes, by name.

A client passes the name and nothing else: no argument, environment or input of the client's reaches
the command, and no shell is involved. Cancelling the call ends the command and its whole process
group: with SIGTERM, and five seconds later with SIGKILL.

A command starts with default signal dispositions and an empty signal mask, whatever the exporter's
process ignores or blocks. Its exit code is the real one, or the call fails.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import trio

from .._util.checks import check_int, raise_type_error
from ..client import DriverClient
from ..driver import Driver, export
from ..errors import ConfigurationError
from ._spawn import check_words, end_program, spawn

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["Shell", "ShellClient", "ShellResult"]

# Seconds to read on after a command has ended, if its children still hold its pipes open.
_OUTPUT_GRACE: Final = 1.0


@dataclass(frozen=True, kw_only=True)
class ShellResult:
    """The outcome of a command.

    Attributes:
        returncode: Its exit code, or -N if signal N killed it.
        stdout: Its standard output.
        stderr: Its standard error.
        truncated: True if output was dropped: it was longer than the driver keeps, or a child of
            the command still held the pipe open one second after the command's end.
    """

    returncode: int
    stdout: bytes
    stderr: bytes
    truncated: bool


@dataclass(kw_only=True)
class Shell(Driver):
    """Run configured commands by name.

    Attributes:
        commands: For each name the program and its arguments, as
            `{"reboot": ["ssh", "board", "reboot"]}`. A single string is refused, since only a shell
            could split it.
        max_output: How many bytes of stdout, and of stderr, are kept.

    Raises:
        ConfigurationError: A field cannot be used.
    """

    commands: Mapping[str, Sequence[str]] = field(default_factory=dict)
    max_output: int = 1024 * 1024

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        given: object = self.commands
        if not isinstance(given, Mapping):
            raise_type_error("commands of Shell", given, "a dict of lists", ConfigurationError)
        name = "max_output of Shell"
        check_int(name, self.max_output, 0, error=ConfigurationError)
        for name, command in self.commands.items():
            check_words(f"command {name!r}", command)

    @classmethod
    def client(cls) -> str:
        """Return the path of the client class."""
        return "jumpstarter.drivers.shell.ShellClient"

    @export
    def names(self) -> list[str]:
        """List the names of the commands."""
        return list(self.commands)

    @export(strict=True)
    async def run(self, name: str) -> ShellResult:
        """Run a command until it ends.

        Raises:
            ValueError: No command has this name.
            OSError: The command cannot be started, or its exit code is lost.
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
                nursery.cancel_scope.deadline = trio.current_time() + _OUTPUT_GRACE
        finally:
            try:
                await end_program(program, f"command {name!r}", self.logger)
            finally:
                program.close()
        return ShellResult(
            returncode=returncode,
            stdout=bytes(outputs[0].kept),
            stderr=bytes(outputs[1].kept),
            truncated=any(output.truncated or not output.ended for output in outputs),
        )


class _Output:
    """Collects a command's output up to a limit; reads and drops the rest."""

    def __init__(self, limit: int) -> None:
        self.kept: bytearray = bytearray()
        self.truncated: bool = False
        self.ended: bool = False
        self._limit = limit

    async def read(self, stream: trio.abc.ReceiveStream) -> None:
        async for data in stream:
            free = self._limit - len(self.kept)
            self.kept += data[:free]
            self.truncated |= len(data) > free
        self.ended = True


class ShellClient(DriverClient):
    """The client of `Shell`."""

    def names(self) -> list[str]:
        """List the names of the commands."""
        return self.call_as(list[str], "names")

    def run(self, name: str) -> ShellResult:
        """Run a command until it ends, whatever its exit code. Limit its time with `timeout`.

        Args:
            name: One of `names()`.

        Returns:
            The exit code and the output.

        Raises:
            DriverInvalidArgument: No command has this name.
            DriverOSError: The exporter does not have its program.
            DriverChildProcessError: The exporter cannot learn its exit code, since the process that
                serves ignores SIGCHLD, or waits for all children elsewhere.
        """
        return self.call_as(ShellResult, "run", name)
