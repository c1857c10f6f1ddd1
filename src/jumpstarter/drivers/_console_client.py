"""The client of a recorded console."""

from __future__ import annotations

import re
import time
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import trio

from .._util.checks import check_int, check_seconds, raise_type_error, raise_value_error
from ..client import BlockingGenerator, BlockingStream, DriverClient, RemoteGenerator, RemoteStream
from ..client.adapters import PexpectAdapter
from ..errors import Code, DriverTimeoutError
from ._record import ConsoleMark, ConsoleMatch, ConsoleOutput, ConsoleStatus, Search
from .mixins import StreamMixin

if TYPE_CHECKING:
    import click
    from pexpect.fdpexpect import fdspawn

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["ConsoleClient"]

_TIMEOUT: Final = 30.0  # seconds, as pexpect has it
# The types that clients accept as a position.
Since: TypeAlias = ConsoleMark | ConsoleMatch | int
Pattern: TypeAlias = "str | bytes | re.Pattern[bytes]"


class ConsoleClient(StreamMixin, DriverClient):
    """The client of a recorded console.

    Positions are a mark, a match, or an offset: how many bytes the exporter had recorded before.
    Each method that blocks has an `_async` form with the same arguments, for Trio code.
    """

    def cli(self) -> click.Group:
        """Return the commands of `j` for it: those of its driver, and `tail` and `wait-for`."""
        from ._commands import console_commands  # noqa: PLC0415 - it needs an extra

        return console_commands(self)

    def status(self) -> ConsoleStatus:
        """Return what the console does just now."""
        return self.call_as(ConsoleStatus, "status")

    async def status_async(self) -> ConsoleStatus:
        """Return what the console does just now. A checkpoint."""
        return await self.call_as_async(ConsoleStatus, "status")

    def mark(self) -> ConsoleMark:
        """Return the present end of the record, to read or to wait from there later."""
        return self.call_as(ConsoleMark, "mark")

    async def mark_async(self) -> ConsoleMark:
        """Return the present end of the record. A checkpoint."""
        return await self.call_as_async(ConsoleMark, "mark")

    def watch(
        self, *, since: Since | None = None, last: int | None = None, follow: bool = True
    ) -> BlockingGenerator[ConsoleOutput]:
        """Iterate over the record, and what the device says from then on.

        Best used as `with console.watch(...) as items: for item in items: ...`. A client that is
        slow holds up neither the device nor another client. If the exporter has to overwrite bytes
        that it did not take in time, `missed` of the next item is their number.

        Args:
            since: Where to begin; by default, at the present end.
            last: In place of `since`, how many of the last bytes to begin with.
            follow: False ends at the present end.

        Returns:
            A generator of `ConsoleOutput`: bytes with their offset, and the moments at which the
            device came and went.

        Raises:
            DriverInvalidArgument: (from the iteration) There is no such position.
        """
        position = _position(since)
        return self.streamingcall_as(ConsoleOutput, "watch", position, last, follow)

    def watch_async(
        self, *, since: Since | None = None, last: int | None = None, follow: bool = True
    ) -> RemoteGenerator[ConsoleOutput]:
        """Iterate over the record as `watch` does, for Trio code: `async with ... as items`."""
        position = _position(since)
        return self.streamingcall_as_async(ConsoleOutput, "watch", position, last, follow)

    def tail(self, size: int = 4096) -> bytes:
        """Return the last bytes of the record, fewer if there are not so many."""
        check_int("size", size, 0)
        with self.watch(last=size, follow=False) as items:
            return b"".join(item.data for item in items)

    async def tail_async(self, size: int = 4096) -> bytes:
        """Return the last bytes of the record. A checkpoint."""
        check_int("size", size, 0)
        async with self.watch_async(last=size, follow=False) as items:
            return b"".join([item.data async for item in items])

    def wait_for(
        self, pattern: Pattern, *, since: Since, timeout: float = _TIMEOUT
    ) -> ConsoleMatch:
        """Wait until the device has said something; it may have done so before the call.

            before = board.console.mark()
            board.power.on()
            login = board.console.wait_for("login: ", since=before)

        Args:
            pattern: The text, a str (as UTF-8) or bytes, which is found literally; or a compiled
                regular expression of bytes, whose match spans at most 64 KiB.
            since: Where to begin: a mark made before the device was told to say it, or the match
                before. 0 for all that is kept.
            timeout: Seconds to wait for it. With 0, it looks only at what was recorded already.

        Returns:
            The first match.

        Raises:
            DriverTimeoutError: It did not come in time. The text has the last bytes, and how many
                were missed.
            DriverInvalidArgument: There is no such position.
            ArgumentError: An argument cannot be used.
        """
        waiting = _Waiting(pattern, since, timeout)
        with self.watch(since=since, follow=False) as items:
            for item in items:
                if (match := waiting.feed(item)) is not None:
                    return match
        ends = time.monotonic() + timeout
        try:
            with self.watch(since=waiting.position) as items, self.timeout(timeout):
                for item in items if timeout else ():
                    if (match := waiting.feed(item)) is not None:
                        return match
        except DriverTimeoutError as exc:
            if time.monotonic() < ends:  # that of a shorter `timeout` block around this
                raise
            raise waiting.error(exc.context) from exc
        raise waiting.error("")

    async def wait_for_async(
        self,
        pattern: Pattern,
        *,
        since: Since,
        timeout: float = _TIMEOUT,  # noqa: ASYNC109 - it does not hold for what came before
    ) -> ConsoleMatch:
        """Wait until the device has said something, as `wait_for` does. A checkpoint."""
        waiting = _Waiting(pattern, since, timeout)
        async with self.watch_async(since=since, follow=False) as items:
            async for item in items:
                if (match := waiting.feed(item)) is not None:
                    return match
        if timeout:
            with trio.move_on_after(timeout):
                async with self.watch_async(since=waiting.position) as items:
                    async for item in items:
                        if (match := waiting.feed(item)) is not None:
                            return match
        raise waiting.error("")

    def write(self, data: bytes | str, *, wait: bool = False) -> None:
        """Send bytes to the device, if no other client writes.

        Args:
            data: The bytes, or text, which is sent as UTF-8.
            wait: Wait for the device, and for a client that writes, rather than fail.

        Raises:
            DriverOSError: Another client writes (EBUSY; the text names it), the device is not there
                (ENXIO), or it has gone meanwhile (EIO), and may have received some of it.
        """
        self.call("write", _encoded("data", data), wait)

    async def write_async(self, data: bytes | str, *, wait: bool = False) -> None:
        """Send bytes to the device as `write` does. A checkpoint."""
        await self.call_async("write", _encoded("data", data), wait)

    def open(
        self,
        *,
        since: Since | None = None,
        last: int | None = None,
        wait: bool = False,
        marker: bool = True,
    ) -> AbstractContextManager[BlockingStream]:
        """Open the console as a raw stream, as `connect` does, from an earlier position.

        Any number of clients may have it open. The first one that sends something is the writer
        until it closes its stream; another one that sends fails then.

        Args:
            since: Where to begin; by default, at the present end.
            last: In place of `since`, how many of the last bytes to begin with.
            wait: When something is sent, wait for the device, and for a client that writes, rather
                than fail.
            marker: Put a line in the place of bytes that this client has missed: `[jumpstarter: 123
                bytes missed]`. Without it, they are missing silently.

        Returns:
            A context manager that yields the stream.
        """
        return self.stream("connect", _position(since), last, wait, marker)

    def open_async(
        self,
        *,
        since: Since | None = None,
        last: int | None = None,
        wait: bool = False,
        marker: bool = True,
    ) -> AbstractAsyncContextManager[RemoteStream]:
        """Open the console as a raw stream as `open` does, for Trio code."""
        return self.stream_async("connect", _position(since), last, wait, marker)

    def pexpect(
        self,
        method: str = "connect",
        *,
        since: Since | None = None,
        last: int | None = None,
        wait: bool = False,
        **options: Any,
    ) -> AbstractContextManager[fdspawn[Any]]:
        """Open the console as a pexpect session, for the length of a `with` block.

        Args:
            method: Name of the `exportstream` method.
            since: As for `open`. With `since=mark`, `expect` finds what came before the session was
                opened.
            last: As for `open`.
            wait: As for `open`.
            options: As for `StreamMixin.pexpect`.

        Returns:
            A context manager that yields an `fdspawn`.
        """
        arguments = {"since": _position(since), "last": last, "wait": wait}
        return PexpectAdapter(client=self, method=method, arguments=arguments, **options)


class _Waiting:
    """One `wait_for`: its search, and how far it has come."""

    def __init__(self, pattern: Pattern, since: Since, timeout: float) -> None:
        if isinstance(pattern, re.Pattern):
            given: Any = pattern.pattern
            if isinstance(given, str):
                accepted = "a regular expression of bytes, as re.compile(rb'...')"
                raise_value_error("pattern", given, accepted)
            self._search = Search(pattern)
        else:
            text = _encoded("pattern", pattern)
            if not text:
                raise_value_error("pattern", pattern, "a text of one character at least")
            self._search = Search(text)
        self._pattern = pattern
        self._timeout = check_seconds("timeout", timeout)
        self.position: Since = since

    def feed(self, item: ConsoleOutput) -> ConsoleMatch | None:
        self.position = item.end
        return self._search.feed(item)

    def error(self, context: str) -> DriverTimeoutError:
        pattern = self._pattern.pattern if isinstance(self._pattern, re.Pattern) else self._pattern
        text = f"{pattern!r} did not come within {self._timeout:g} s"
        if missed := self._search.missed:
            text += f"; {missed} bytes were overwritten before they could be searched"
        text += f"; the last bytes were {self._search.tail!r}"
        return DriverTimeoutError(text, code=Code.DEADLINE_EXCEEDED, context=context)


def _position(since: Since | None) -> ConsoleMark | int | None:
    """Return what the driver takes as a position."""
    if isinstance(since, ConsoleMatch):
        return since.end
    if since is not None and (isinstance(since, bool) or not isinstance(since, ConsoleMark | int)):
        raise_type_error("since", since, "a mark, a match or an offset")
    return since


def _encoded(name: str, data: Any) -> bytes:
    if isinstance(data, str):
        return data.encode()
    if not isinstance(data, bytes | bytearray | memoryview):
        raise_type_error(name, data, "a str, or bytes")
    return bytes(data)
