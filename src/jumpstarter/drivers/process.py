"""Run a program on the exporter, such as an emulator, and end it with the exporter.

The configuration fixes the program. Clients start and stop it, read its output and use its console,
and pass it no arguments. A program ends with its exporter, however that ends, even by `kill -9`:
each runs under a small supervisor process, which outlasts the exporter (see `_supervisor`).
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import trio

from .._util.checks import (
    check_flag,
    check_instance,
    check_int,
    check_number,
    check_path,
    check_seconds,
    check_text,
    raise_value_error,
)
from ..client import DriverClient
from ..driver import Driver, export, exportstream
from ..errors import ConfigurationError
from ._console_stream import ConsoleStream
from ._exclusive import describe_caller
from ._output import TailReader
from ._runner import Runner
from ._spawn import check_words
from ._supervised import Program, Readiness, RunState, signal_number
from .composite import Proxy
from .mixins import StreamMixin
from .power import PowerInterface, PowerReading

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["Process", "ProcessClient", "ProcessOutput", "ProcessPower", "ProcessStatus"]

_STOPPED: Final = "stopped"
_STATES: Final = {
    RunState.STARTING: "starting",
    RunState.RUNNING: "running",
    RunState.STOPPING: "stopping",
    RunState.ENDED: _STOPPED,
}
_INPUTS: Final = ("null", "pipe", "pty")
_MAX_GRACE: Final = 24 * 3600.0  # seconds; the supervisor measures them in milliseconds


@dataclass(frozen=True, kw_only=True)
class ProcessStatus:
    """Whether a program runs, or how it has ended.

    Attributes:
        state: `"stopped"`, `"starting"` until it is ready, `"running"`, or `"stopping"` until it
            and all its descendants have ended.
        pid: Its process id on the exporter, or None if it does not run.
        returncode: How its last run ended: the exit code, or -N if signal N killed it. None while
            it runs, before the first run, and if the exit code is unknown.
        starts: How often it was started.
        failure: Why it could not be started or did not become ready; empty if it did.
    """

    state: str
    pid: int | None
    returncode: int | None
    starts: int
    failure: str

    @property
    def is_running(self) -> bool:
        """True if the program runs and is ready."""
        return self.state == "running"


@dataclass(frozen=True, kw_only=True)
class ProcessOutput:
    """Output of a program.

    Attributes:
        stdout: Its standard output; on a terminal, all of its output.
        stderr: Its standard error.
        truncated: True if earlier output was dropped, because there was more than is kept.
    """

    stdout: bytes
    stderr: bytes
    truncated: bool


@dataclass(kw_only=True)
class Process(Driver):
    """A program that clients start and stop, such as an emulator.

    The program leads a session of its own. It has default signal dispositions, and only its
    standard streams open. It must stay in the foreground: when it ends, its descendants are ended
    too, even those in sessions of their own.

    `close()` stops it, and so does the exporter's end, however that happens. `reset()` stops it
    too, or starts it with `autostart`. A test's end does not stop it. If it ends by itself, the log
    says so, with its last output.

    Attributes:
        command: The program, found in PATH, and its arguments, as a list.
        env: Environment variables in addition to the exporter's own.
        cwd: Its current directory; by default, the exporter's.
        stdin: `"null"`: empty. `"pipe"`: `connect()` leads to its stdin and stdout. `"pty"`: the
            same on a terminal, which is its stderr too.
        pidfile: A file that has its process id while it runs. It is locked, so that a second
            exporter does not start the program again.
        stop_signal: The signal that asks it to end, with all its descendants.
        grace: Seconds between this signal and SIGKILL. 5 by default, since an exporter's `close()`
            has 10.
        max_output: How many bytes of stdout, and of stderr, are kept: the last ones.
        autostart: Start it when serving begins. If it does not become ready, serving does not
            begin.
        ready_output: A regular expression. The program is ready when a line of its output contains
            a match; the line need not have ended.
        ready_socket: A Unix socket. The program is ready when it accepts connections there.
        ready_port: A TCP port of `ready_host`. The same.
        ready_host: An IPv4 address or a name, by default this machine's own.
        ready_timeout: Seconds that it may take to become ready; then it is stopped. 60 by default,
            in which most emulators start.

    Raises:
        ConfigurationError: A field cannot be used.
    """

    command: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str = ""
    stdin: str = "null"
    pidfile: str = ""
    stop_signal: str = "SIGTERM"
    grace: float = 5.0
    max_output: int = 1024 * 1024
    autostart: bool = False
    ready_output: str = ""
    ready_socket: str = ""
    ready_port: int = 0
    ready_host: str = "127.0.0.1"
    ready_timeout: float = 60.0

    _runner: Runner = field(init=False, repr=False)
    _user: str = field(init=False, repr=False, default="")  # the client that has the console

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        self._check_fields()
        program = Program(
            words=list(self.command),
            environment=dict(self.env),
            directory=self.cwd,
            pidfile=self.pidfile,
            stdin=self.stdin,
            signal=signal_number(self.stop_signal, ConfigurationError),
            grace=self.grace,
            kept=self.max_output,
        )
        port = (self.ready_host, self.ready_port) if self.ready_port else None
        readiness = Readiness(
            pattern=self._pattern(),
            address=self.ready_socket or port,
            timeout=self.ready_timeout,
        )
        self._runner = Runner(program, readiness, self.logger)

    def _check_fields(self) -> None:
        error = ConfigurationError
        check_words("command of Process", self.command)
        check_instance("env of Process", self.env, dict, "a dict of texts", error)
        for name, value in self.env.items():
            check_text("the name of a variable in env of Process", name, error=error)
            check_text(f"{name} in env of Process", value, "a text, in quotes", error)
        for name in ("cwd", "pidfile", "ready_socket"):
            if getattr(self, name) != "":
                path = check_path(f"{name} of Process", getattr(self, name), error)
                setattr(self, name, path)
        if self.stdin not in _INPUTS:
            raise_value_error("stdin of Process", self.stdin, f"one of {', '.join(_INPUTS)}", error)
        check_number("grace of Process", self.grace, 0, _MAX_GRACE, error=error)
        check_seconds("ready_timeout of Process", self.ready_timeout, error=error)
        check_int("max_output of Process", self.max_output, 0, error=error)
        check_int("ready_port of Process", self.ready_port, 0, 65535, error=error)
        check_text("ready_host of Process", self.ready_host, error=error)
        check_flag("autostart of Process", self.autostart, error)
        if self.ready_socket and self.ready_port:
            raise error("a Process has either a ready_socket or a ready_port, not both")

    def _pattern(self) -> re.Pattern[bytes] | None:
        try:
            return re.compile(os.fsencode(self.ready_output)) if self.ready_output else None
        except (re.error, TypeError) as exc:
            text = f"ready_output of Process is not a regular expression: {exc}"
            raise ConfigurationError(text) from None

    @classmethod
    def client(cls) -> str:
        """Return the path of the client class."""
        return "jumpstarter.drivers.process.ProcessClient"

    @export
    async def start(self) -> ProcessStatus:
        """Start the program, and wait until it is ready. Does nothing if it runs.

        A start that is cancelled leaves the program as it is: starting.

        Raises:
            OSError: It cannot be started, or something else listens where it is to be ready.
            ChildProcessError: It ended, was stopped, or took too long before it was ready.
        """
        await self._runner.start()
        return self.status()

    @export
    async def stop(self) -> ProcessStatus:
        """End the program and all its descendants, and wait. Does nothing if it does not run.

        It gets its signal, and SIGKILL after its grace. A stop that is cancelled continues.

        Raises:
            PermissionError: A process runs as another user, and cannot be ended.
        """
        await self._runner.stop()
        return self.status()

    @export
    async def restart(self) -> ProcessStatus:
        """Stop the program if it runs, and start it.

        Raises:
            OSError: As for `stop` and `start`.
        """
        await self.stop()
        return await self.start()

    @export(read_only=True)
    def status(self) -> ProcessStatus:
        """Return what the program does, or how it has ended."""
        run = self._runner.run
        if run is None:
            return ProcessStatus(state=_STOPPED, pid=None, returncode=None, starts=0, failure="")
        return ProcessStatus(
            state=_STATES[run.state],
            pid=run.pid if run.is_alive else None,
            returncode=run.code,
            starts=self._runner.starts,
            failure=str(run.error or run.failure),
        )

    @export(strict=True, read_only=True)
    async def wait_for(self, state: str) -> ProcessStatus:
        """Wait until the program is in a state.

        Raises:
            ValueError: There is no such state.
        """
        if state not in _STATES.values():
            states = ", ".join(_STATES.values())
            raise ValueError(f"there is no state {state!r}; there are {states}")
        await self._runner.changes.until(lambda: self.status().state == state)
        return self.status()

    @export(strict=True)
    def send_signal(self, name: str) -> None:
        """Send a signal to the program's process group, by its name, such as `"SIGUSR1"`.

        Raises:
            ValueError: There is no such signal.
            ProcessLookupError: The program does not run.
        """
        number = signal_number(name, ValueError)
        run = self._runner.run
        if run is None or not run.is_alive:
            raise ProcessLookupError(errno.ESRCH, "the program does not run", self._name())
        run.send_signal(number)

    @export(read_only=True)
    def read_output(self) -> ProcessOutput:
        """Return the end of the output of its last run, or of the present one."""
        run = self._runner.run
        if run is None:
            return ProcessOutput(stdout=b"", stderr=b"", truncated=False)
        return ProcessOutput(
            stdout=run.stdout.since(0)[0],
            stderr=run.stderr.since(0)[0],
            truncated=run.stdout.dropped or run.stderr.dropped,
        )

    @export(strict=True, read_only=True)
    async def follow(self, history: bool = True) -> AsyncGenerator[ProcessOutput, None]:
        """Yield output as it comes, until the run ends. Any number of clients can.

        A client that is slow misses what was dropped meanwhile, and is told so by `truncated`.

        Args:
            history: Begin with what is kept of the present run, or of the last one. Without it,
                begin with the present run's next output. Before the first run, or without a run
                and without `history`, the next run is waited for.
        """
        run = self._runner.run
        if run is None or not (history or run.is_alive):
            run = await self._runner.next_run(after=run)
            history = True
        readers = [
            TailReader(tail, 0 if history else tail.end) for tail in (run.stdout, run.stderr)
        ]

        def has_more() -> bool:
            return any(reader.has_more for reader in readers)

        while True:
            await run.changes.until(lambda: has_more() or not run.is_alive)
            if not has_more():
                return
            (stdout, missed_out), (stderr, missed_err) = (reader.read() for reader in readers)
            truncated = missed_out or missed_err
            yield ProcessOutput(stdout=stdout, stderr=stderr, truncated=truncated)

    @export
    def close_input(self) -> None:
        """End the program's standard input. On a terminal, this types Ctrl-D."""
        run = self._runner.run
        if run is not None:
            run.close_stdin()

    @exportstream
    @asynccontextmanager
    async def connect(self) -> AsyncIterator[trio.abc.Stream]:
        """Connect to the program's stdin and stdout, for one client at a time.

        If the program does not run, the stream waits until it is started. It ends when the program
        does. It begins with the output that no client has read in this way during this run. When a
        client leaves, the program's input stays open, for the next one; `close_input` ends it.

        Raises:
            OSError: Another client has it (EBUSY), or the program has no input (`stdin`).
        """
        if self.stdin == "null":
            text = "it has no input: its driver needs stdin: pipe, or stdin: pty"
            raise OSError(errno.ENOTTY, text, self._name())
        if self._user:
            text = f"its console is in use by another client ({self._user})"
            raise OSError(errno.EBUSY, text, self._name())
        self._user = describe_caller()
        try:
            async with ConsoleStream(self._runner) as stream:
                yield stream
        finally:
            self._user = ""

    def reset(self) -> None:
        """Stop the program, or start it if `autostart` is set, and reset the drivers below."""
        if self.autostart:
            self._runner.start_blocking()
        else:
            self._runner.stop_blocking()
        super().reset()

    def close(self) -> None:
        """Stop the program, and close the drivers below."""
        self._runner.stop_blocking()
        super().close()

    def _name(self) -> str:
        return os.path.basename(self.command[0])  # noqa: PTH119 - also of what is not a path


@dataclass(kw_only=True)
class ProcessPower(PowerInterface, Driver):
    """The power switch of an emulated device: on starts its program, and off stops it.

    So tests that switch a device on and off run on an emulator. Its child `process` is the
    `Process`, or a `Proxy` of one elsewhere in the tree.
    """

    @export
    async def on(self) -> None:
        """Start the program, and wait until it is ready. Does nothing if it runs."""
        await self._process().start()

    @export
    async def off(self) -> None:
        """Stop the program, and wait until it has ended. Does nothing if it does not run."""
        await self._process().stop()

    @export
    async def read(self, interval: float) -> AsyncGenerator[PowerReading, None]:
        """Raise an error: an emulated device draws no current.

        Raises:
            NotImplementedError: Always.
        """
        for reading in self._readings(interval):
            yield reading

    def _readings(self, interval: float) -> list[PowerReading]:
        del interval
        raise NotImplementedError("an emulated device has no supply whose current can be measured")

    def reset(self) -> None:
        """Check that there is a program to switch, and reset it."""
        self._process()
        super().reset()

    def _process(self) -> Process:
        """Return the driver of the program.

        Raises:
            ConfigurationError: There is none.
        """
        child: Driver | None = self.children.get("process")
        if isinstance(child, Proxy):
            child = child.target
        if not isinstance(child, Process):
            text = "a ProcessPower needs a child 'process', which is a Process or refers to one"
            raise ConfigurationError(text)
        return child


class ProcessClient(StreamMixin, DriverClient):
    """The client of a `Process`. `connect`, `pexpect` and `portforward` lead to its console."""

    def start(self) -> ProcessStatus:
        """Start the program, and wait until it is ready. Does nothing if it runs.

        Raises:
            DriverOSError: It cannot be started.
            DriverChildProcessError: It ended, was stopped, or took too long before it was ready.
        """
        return self.call_as(ProcessStatus, "start")

    def stop(self) -> ProcessStatus:
        """End the program and its descendants, and wait. Does nothing if it does not run.

        Raises:
            DriverPermissionError: A process runs as another user, and cannot be ended.
        """
        return self.call_as(ProcessStatus, "stop")

    def restart(self) -> ProcessStatus:
        """Stop the program if it runs, and start it.

        Raises:
            DriverOSError: As for `stop` and `start`.
        """
        return self.call_as(ProcessStatus, "restart")

    def status(self) -> ProcessStatus:
        """Return what the program does, or how it has ended."""
        return self.call_as(ProcessStatus, "status")

    def wait_for(self, state: str) -> ProcessStatus:
        """Wait until the program is in a state. Limit the time with `timeout`.

        Args:
            state: One of those of `ProcessStatus`.
        """
        return self.call_as(ProcessStatus, "wait_for", state)

    def send_signal(self, name: str) -> None:
        """Send a signal to the program's process group.

        Args:
            name: Its name, such as `"SIGUSR1"`.

        Raises:
            DriverInvalidArgument: There is no such signal.
            DriverProcessLookupError: The program does not run.
        """
        self.call("send_signal", name)

    def close_input(self) -> None:
        """End the program's standard input. On a terminal, this types Ctrl-D."""
        self.call("close_input")

    def read_output(self) -> ProcessOutput:
        """Return the end of the output of the present run, or of the last one."""
        return self.call_as(ProcessOutput, "read_output")

    def follow(self, *, history: bool = True) -> Generator[ProcessOutput, None, None]:
        """Yield output as it comes, until the program ends. Closing the generator is enough.

        Args:
            history: Begin with what is kept of the present run, or of the last one.
        """
        with self.streamingcall_as(ProcessOutput, "follow", history) as outputs:
            yield from outputs
