"""The interactive console: a terminal, or a pipe, joined to a driver's raw stream.

Bytes pass unchanged in both directions. The main thread owns the terminal and handles signals; one
task of the client's loop reads what is typed, one sends it, and one writes what the device says. So
keys are sent while others are on their way, and a device that accepts nothing, or a terminal that
shows nothing, does not keep the escape keys from being read.

A conversation ends in one of these ways, the first of which counts:

    _End        caused by                                               exit code
    LEFT        the user typed the keys for it                          0
    DEVICE      the device ended its half of the stream                 0
    TIMEOUT     stdin is not a terminal, has ended, and time is up      0
    HANGUP      the terminal is gone                                    128 + SIGHUP
    FAILED      the driver or the connection failed, or stdout did      an exception

Signals end it by an exception in the main thread, see `_terminal`.
"""

from __future__ import annotations

import enum
import functools
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, Protocol

import trio

from .._io.portal import BlockingPortal
from .._protocol.frames import Kind
from ..client import DriverClient, StubDriverClient
from ..client._raw_streams import open_stream
from ..client._runner import portal_for
from ..drivers._console_client import ConsoleClient
from ..errors import ConfigurationError, DriverError
from ._console_io import TypedBytes, read_some, write_all
from ._console_view import ConsoleView
from ._escape import Command, EscapeKeys
from ._terminal import RawTerminal, signals_restore

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["run_console"]

# Bytes that were typed and not sent yet. A paste may be long, and while this much waits, nothing is
# read, not even the keys that leave.
_MAX_TYPED: Final = 1024 * 1024
_LINGER: Final = 2.0  # seconds for what was typed to reach the device, when the user leaves
_OFF_SECONDS: Final = 2.0  # seconds without power, as in `PowerClient.cycle`


def run_console(
    client: DriverClient,
    method: str = "connect",
    *,
    arguments: Sequence[Any] = (),
    keywords: Mapping[str, Any] | None = None,
    log: int | None = None,
    power: DriverClient | None = None,
    timeout: float = math.inf,
    stdin: int | None = None,
    stdout: int | None = None,
    stderr: int = 2,
    view: bool = False,
) -> int:
    """Join this process's terminal to a driver's raw stream, until either side ends it. Blocks.

    A terminal is in raw mode meanwhile, and is restored however this ends. Ctrl-B three times
    leaves, and the first line on stderr says so; `_escape` has the other keys. If stdin is no
    terminal, its bytes are sent until its end, then the stream's half is closed, and the device's
    bytes are written until the device ends too.

    Args:
        client: The driver's client, for blocking code.
        method: Name of the exported stream.
        arguments: Arguments of the method.
        keywords: Its keyword arguments.
        log: The descriptor of a file that gets all received bytes too.
        power: The client that Ctrl-B p power-cycles.
        timeout: Seconds to go on reading after the end of a stdin that is not a terminal.
        stdin: The descriptor to read from; by default the process's stdin.
        stdout: The descriptor to write to; by default the process's stdout.
        stderr: The descriptor for messages to the user.
        view: Only look at a recorded console, which needs no turn at a shared exporter; `client` is
            its client, and `method` is not used.

    Returns:
        The exit code: 0, or 129 if the terminal has gone away.

    Raises:
        DriverError: The driver could not open the stream, has failed with it, or the connection is
            lost.
        OSError: stdin cannot be read, or stdout or the log cannot be written.
        ConfigurationError: stdin or stdout is closed.
        SystemExit: SIGTERM, SIGHUP or SIGQUIT arrived in the main thread; the code is 128 + N.
        KeyboardInterrupt: SIGINT arrived. Ctrl-C in a terminal does not send it, but is sent to the
            device.
    """
    portal = portal_for(client, "run_console()", "stream_async()")
    fds = (_descriptor(stdin, sys.stdin, "stdin"), _descriptor(stdout, sys.stdout, "stdout"))
    terminal = RawTerminal(fds[0])
    with signals_restore(terminal):
        tell = functools.partial(_tell, stderr, terminal)
        stream = _open(portal, client, tell, None if view else (method, arguments, keywords or {}))
        cycle = None if power is None or view else _PowerCycle(power, tell)
        talk = _Conversation(
            stream,
            is_terminal=terminal.is_terminal,
            fds=fds,
            log=log,
            cycle=cycle,
            timeout=timeout,
            tell=tell,
            view=view,
        )
        end = _talk(portal, terminal, stream, talk)
        if not talk.stdin_ended:  # with a pipe, the end of both is what was asked for
            tell(_MESSAGES[end])
        portal.call_in_trio(_close, stream, end)
        stream.check()
        if cycle is not None:
            cycle.wait()
    return 128 + signal.SIGHUP if end is _End.HANGUP else 0


def _open(
    portal: BlockingPortal,
    client: DriverClient,
    tell: Callable[[str], None],
    call: tuple[str, Sequence[Any], Mapping[str, Any]] | None,
) -> _Stream:
    """Open the driver's raw stream by a call; or without one, a view of a recorded console."""
    if call is None:
        return portal.call_in_trio(_view_of, client, tell)
    method, arguments, keywords = call
    request = client.channel.request(Kind.STREAM, method, tuple(arguments), dict(keywords))
    return portal.call_in_trio(open_stream, client.channel.channel, request)


def _talk(
    portal: BlockingPortal, terminal: RawTerminal, stream: _Stream, talk: _Conversation
) -> _End:
    """Talk until the end. The terminal is restored then, before anything else is written."""
    try:
        terminal.set_raw()
        end = portal.call_in_trio(talk.run)
    except BaseException:
        terminal.restore()
        with suppress(DriverError):  # it says less than the exception that is under way
            portal.call_in_trio(stream.abort)
        raise
    terminal.restore()
    return end


def _descriptor(given: int | None, stream: Any, name: str) -> int:
    # Not 0 and 1: if they were closed at the start, the connection may have their numbers.
    if given is not None:
        return given
    if stream is None:
        raise ConfigurationError(f"{name} is closed: a console needs it, or /dev/null")
    number: int = stream.fileno()
    return number


class _Stream(Protocol):
    """The interface of a raw stream, or of a view that looks like one, for a conversation."""

    async def receive_some(self) -> bytes: ...

    async def send_all(self, data: bytes, /) -> None: ...

    async def send_eof(self) -> None: ...

    async def aclose(self) -> None: ...

    async def abort(self) -> None: ...

    def check(self) -> None: ...


async def _view_of(client: DriverClient, tell: Callable[[str], None]) -> ConsoleView:
    if not isinstance(client, ConsoleClient):
        raise ConfigurationError(f"{client.channel.name} is not the client of a recorded console")
    return ConsoleView(client, tell)


async def _close(stream: _Stream, end: _End) -> None:
    """Close the stream, after waiting for a time for what was sent to be read."""
    limit = math.inf if end is _End.TIMEOUT else _LINGER  # `Limits.linger` limits it too
    with trio.move_on_after(limit):
        await stream.aclose()


class _End(enum.Enum):
    """How a conversation ends; the module's docstring has the table."""

    LEFT = enum.auto()
    DEVICE = enum.auto()
    TIMEOUT = enum.auto()
    HANGUP = enum.auto()
    FAILED = enum.auto()


_MESSAGES: Final = {
    _End.LEFT: "left the console",
    _End.DEVICE: "the device has ended the stream",
    _End.HANGUP: "the terminal is gone",
}


class _Conversation:
    """The tasks of one console, for the client's loop.

    Args:
        stream: The open stream.
        is_terminal: Whether stdin is a terminal, in which escape keys are typed.
        fds: stdin and stdout.
        log: A descriptor that gets the received bytes too.
        cycle: What Ctrl-B p does.
        timeout: Seconds to read after the end of a stdin that is not a terminal.
        tell: Writes a message to the user.
        view: The console is only looked at.

    Attributes:
        stdin_ended: Whether a stdin that is not a terminal has ended.
    """

    def __init__(
        self,
        stream: _Stream,
        *,
        is_terminal: bool,
        fds: tuple[int, int],
        log: int | None,
        cycle: _PowerCycle | None,
        timeout: float,
        tell: Callable[[str], None],
        view: bool,
    ) -> None:
        self._stream = stream
        self._is_terminal = is_terminal
        self._stdin, self._stdout = fds
        self._log = log
        self._cycle = cycle
        self._timeout = timeout
        self._tell = tell
        self._view = view
        self.stdin_ended: bool = False
        self._typed = TypedBytes(_MAX_TYPED)
        self._keys = EscapeKeys()
        self._scope = trio.CancelScope()
        self._end: _End | None = None
        self._failure: BaseException | None = None
        self._nursery: trio.Nursery

    async def run(self) -> _End:
        """Talk until the end.

        Raises:
            Exception: The failure of `_End.FAILED`.
        """
        with self._scope:
            async with trio.open_nursery() as self._nursery:
                for task in (self._read, self._send, self._receive):
                    self._nursery.start_soon(self._guard, task)
        if self._failure is not None:
            raise self._failure
        assert self._end is not None
        return self._end

    def _finish(self, end: _End, failure: BaseException | None = None) -> None:
        if self._end is None:
            self._end, self._failure = end, failure
        self._scope.cancel()

    async def _guard(self, task: Callable[[], Awaitable[None]]) -> None:
        """Run a task. Its failure ends the conversation, and leaves it without a group."""
        try:
            await task()
        except trio.BrokenResourceError as exc:  # the cause is the reason, for users
            self._finish(_End.FAILED, exc.__cause__ or exc)
        except Exception as exc:  # noqa: BLE001 - raised by `run`
            self._finish(_End.FAILED, exc)

    # -------------------------------------------------------------------------- to the device

    async def _read(self) -> None:
        while data := await read_some(self._stdin, is_terminal=self._is_terminal):
            for each in self._keys.feed(data) if self._is_terminal else (data,):
                if each is Command.LEAVE:
                    self._leave()
                    return
                if isinstance(each, bytes):
                    await self._typed.add(each)
                else:
                    self._obey(each)
        if self._is_terminal:
            self._finish(_End.HANGUP)
        self.stdin_ended = not self._is_terminal
        self._typed.end()

    def _leave(self) -> None:
        """End the conversation once all that was typed has been sent, or soon."""
        self._end = self._end or _End.LEFT
        self._typed.end()
        self._scope.deadline = trio.current_time() + _LINGER

    async def _send(self) -> None:
        try:
            while data := await self._typed.take():
                await self._stream.send_all(data)
            if self._is_terminal:  # the user has left
                self._scope.cancel()
                return
            await self._stream.send_eof()
        except trio.BrokenResourceError:
            # `_receive` still writes the device's last bytes, and then gets the reason.
            self._typed.discard()
            return
        await trio.sleep(self._timeout)
        self._finish(_End.TIMEOUT)

    def _obey(self, command: Command) -> None:
        match command:
            case Command.HELP:
                self._say(_help(sends=not self._view, has_power=self._cycle is not None))
            case Command.SUSPEND:  # pragma: no cover - tests stop other processes
                os.kill(0, signal.SIGTSTP)  # the whole job, as Ctrl-Z would: `_terminal` handles it
            case Command.POWER if self._cycle is not None:
                self._say(self._cycle.start())
            case Command.POWER if self._view:
                self._say("nothing is switched: this console is only looked at")
            case Command.POWER:
                self._say("no power driver is known here: name one by --power")
            case _:
                self._say("not a command, and nothing was sent; Ctrl-B ? lists the keys")

    # ------------------------------------------------------------------------ to the terminal

    async def _receive(self) -> None:
        if self._is_terminal:  # before the first bytes of a device that does not wait to be asked
            await self._say_in_thread(_GREETING)
        while data := await self._stream.receive_some():
            # In a thread: a terminal or pipe that takes nothing must not block the loop.
            await trio.to_thread.run_sync(self._write, data, abandon_on_cancel=True)
        self._finish(_End.DEVICE)

    def _write(self, data: bytes) -> None:
        if self._log is not None:  # first, so that it has all that was shown
            write_all(self._log, data)
        write_all(self._stdout, data)

    def _say(self, text: str) -> None:
        self._nursery.start_soon(self._say_in_thread, text)

    async def _say_in_thread(self, text: str) -> None:
        await trio.to_thread.run_sync(self._tell, text, abandon_on_cancel=True)


_GREETING: Final = "connected; Ctrl-B three times leaves, Ctrl-B ? lists more keys"


def _help(*, sends: bool, has_power: bool) -> str:
    """Return the list of the keys that do something here."""
    keys = {
        "q, or Ctrl-B twice": "leave",
        "b": "send Ctrl-B" if sends else "",
        "z": "suspend this program, until `fg`",
        "?": "show this list",
        "p": "power-cycle the device" if has_power else "",
    }
    lines = [f"  {key:20} {text}" for key, text in keys.items() if text]
    return "\n".join(["keys after Ctrl-B:", *lines])


class _PowerCycle:
    """Power-cycles a device in a thread of its own, once at a time.

    Not in a task: one that was begun must be completed, also after the console has been left.

    Args:
        client: The power switch's client, for blocking code.
        tell: Writes a message to the user.
    """

    def __init__(self, client: DriverClient, tell: Callable[[str], None]) -> None:
        self._client = client
        self._tell = tell
        self._thread: threading.Thread | None = None

    @property
    def running(self) -> bool:
        """Whether it is under way."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> str:
        """Begin, and return what to tell the user. Does not block."""
        if self.running:
            return "a power-cycle is under way"
        self._thread = threading.Thread(target=self._run, name="power-cycle", daemon=True)
        self._thread.start()
        return "power-cycle begins"

    def wait(self) -> None:
        """Wait until it has ended, if it is under way. Ctrl-C ends the wait."""
        if self._thread is not None and self._thread.is_alive():
            self._tell("waiting for the power-cycle to end")
            self._thread.join()

    def _run(self) -> None:
        try:
            # A class that is missing here may have had a `cycle`.
            is_stub = isinstance(self._client, StubDriverClient)
            if not is_stub and callable(cycle := getattr(self._client, "cycle", None)):
                cycle()
            else:
                self._client.call("off")
                time.sleep(_OFF_SECONDS)
                self._client.call("on")
        except Exception as exc:  # noqa: BLE001 - of a client class; the console goes on
            self._tell(f"power-cycle has failed: {exc}")
        else:
            self._tell("power-cycle has ended")


def _tell(fd: int, terminal: RawTerminal, text: str) -> None:
    """Write a message to the user, on lines of its own, in raw mode too."""
    newline = "\r\n" if terminal.raw else "\n"  # otherwise the terminal adds the return
    with suppress(OSError):  # it is closed, or its terminal is gone
        write_all(fd, f"\n[{text}]\n".replace("\n", newline).encode())
