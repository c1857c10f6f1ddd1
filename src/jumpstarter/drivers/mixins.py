"""What client classes are put together from.

A mixin adds methods to a subclass of `DriverClient`, on either side of it among the bases: raw
stream connections, or sharing what is on the client's side. It uses what every client has, and
knows nothing of connections.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
)
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from .._io.forward import QUIET_LIMIT
from .._io.transfer import MAX_BYTES
from .._util.checks import check_flag, check_path, check_size_hint
from .._util.tracebacks import block
from ..client import BlockingStream, DriverClient
from ..client._lending import COLLECTED, Lending, file_sink, file_source, sink_of, source_of
from ..client._progress import Progress
from ..client.adapters import (
    PexpectAdapter,
    TcpPortforwardAdapter,
    UnixPortforwardAdapter,
    tcp_portforward,
    unix_portforward,
)

if TYPE_CHECKING:
    from pexpect.fdpexpect import fdspawn

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["ResourceMixin", "StreamMixin"]


class _Streaming(Protocol):
    """What a mixin needs of the client that it is part of."""

    def stream(
        self, method: str = ..., *args: Any, **kwargs: Any
    ) -> AbstractContextManager[BlockingStream]: ...


class _Lender(Protocol):
    """The same, of one that lends."""

    def _lend(self, lending: Lending) -> AbstractContextManager[str]: ...

    def _lend_async(self, lending: Lending) -> AbstractAsyncContextManager[str]: ...


class StreamMixin:
    """For the client of a driver that has a raw stream, as a serial console has."""

    def connect(
        self: _Streaming, method: str = "connect"
    ) -> AbstractContextManager[BlockingStream]:
        """Open the driver's raw stream for the length of a `with` block. Blocks.

        From any thread that runs no Trio loop. Leaving the block closes the stream: what was sent
        is still delivered, and the driver's code has ended.

        Args:
            method: Name of the `exportstream` method.

        Returns:
            A context manager that gives the stream.

        Raises:
            DriverError: (on entering) The driver could not open it, or (on leaving) has failed
                with it.
        """
        return self.stream(method)

    def portforward(
        self,
        method: str = "connect",
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        quiet_limit: float = QUIET_LIMIT,
    ) -> AbstractContextManager[tuple[str, int]]:
        """Let any program reach the driver's raw stream by a local TCP port, for a `with` block.

        Each connection has a raw stream of its own, hundreds at once if need be; half-close is
        passed on. One that fails is logged, and ends in a reset. One whose program has gone is
        ended within seconds, even if the device says nothing. The end of the block ends them all.
        Blocks while it is entered and left; `portforward_async` is the same for Trio code.

        Args:
            method: Name of the `exportstream` method.
            host: Where to listen; by default nobody but this machine can connect.
            port: By default, any that is free.
            quiet_limit: Seconds without a byte either way until a connection is ended whose program
                has ended its half, where nobody can tell whether the program is still there: it is
                on another machine, or this one is not Linux. 30 by default: an answer has begun by
                then, and the device is soon free for the next program. math.inf for no limit.

        Returns:
            A context manager that gives the address and the port.

        Raises:
            OSError: (on entering) The port cannot be listened on.
        """
        client = cast("DriverClient", self)
        return TcpPortforwardAdapter(
            client=client,
            method=method,
            local_host=host,
            local_port=port,
            quiet_limit=quiet_limit,
        )

    def portforward_async(
        self,
        method: str = "connect",
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        quiet_limit: float = QUIET_LIMIT,
    ) -> AbstractAsyncContextManager[tuple[str, int]]:
        """Do as `portforward`, for Trio code."""
        client = cast("DriverClient", self)
        return tcp_portforward(
            client=client,
            method=method,
            local_host=host,
            local_port=port,
            quiet_limit=quiet_limit,
        )

    def portforward_unix(
        self, method: str = "connect", *, path: str = "", quiet_limit: float = QUIET_LIMIT
    ) -> AbstractContextManager[str]:
        """The same with a Unix socket, for its owner alone.

        Args:
            method: Name of the `exportstream` method.
            path: Where; by default in a private directory.
            quiet_limit: As for `portforward`.

        Returns:
            A context manager that gives the path.

        Raises:
            OSError: (on entering) The socket cannot be made there.
        """
        client = cast("DriverClient", self)
        return UnixPortforwardAdapter(
            client=client, method=method, path=path, quiet_limit=quiet_limit
        )

    def portforward_unix_async(
        self, method: str = "connect", *, path: str = "", quiet_limit: float = QUIET_LIMIT
    ) -> AbstractAsyncContextManager[str]:
        """Do as `portforward_unix`, for Trio code."""
        client = cast("DriverClient", self)
        return unix_portforward(client=client, method=method, path=path, quiet_limit=quiet_limit)

    def pexpect(
        self, method: str = "connect", **options: Any
    ) -> AbstractContextManager[fdspawn[Any]]:
        """Open the driver's raw stream as a pexpect session, for the length of a `with` block.

        Args:
            method: Name of the `exportstream` method.
            options: Of `pexpect.fdpexpect.fdspawn`: `timeout` in seconds, 30 by default;
                `encoding`; `logfile`.

        Returns:
            A context manager that gives an `fdspawn`, with `expect` and `sendline`. What was typed
            has reached the driver when the block is left.

        Raises:
            MissingExtra: (on entering) The extra `pexpect` is not installed.
            DriverError: (on entering) The driver could not open it, or (on leaving) has failed
                with it.
        """
        return PexpectAdapter(client=cast("DriverClient", self), method=method, **options)


class ResourceMixin:
    """For the client of a driver that reads or writes what is on the client's side.

    The driver gets a handle, as an argument of a method, and opens it by `Driver.resource`.
    """

    @block
    def local_file(
        self: _Lender,
        path: str | os.PathLike[str],
        *,
        write: bool = False,
        size: int | None = None,
        compress: bool = False,
        progress: Progress = None,
        max_bytes: int = MAX_BYTES,
    ) -> Iterator[str]:
        """Lend a local file to the driver, for the length of a `with` block.

            with self.local_file("image.img") as handle:
                self.call("flash", handle)

        Any number of bytes passes in constant memory, beside other calls. Blocks while it is
        entered and left, from any thread that runs no Trio loop; `local_file_async` is the same for
        Trio code.

        Args:
            path: Of the file.
            write: The driver writes it, rather than reads. It is there, under its name and in place
                of what was there, once it is complete and the block was left well.
            size: How many bytes the driver will write, for the progress. Of what is read, the file
                itself tells.
            compress: Let zstd make the bytes fewer on their way; an extra, at both ends. It pays
                where the network is slower than about 200 MB/s.
            progress: What is called with the bytes that have passed and with how many there will be
                (None if nobody knows), in the client's own thread, so it must be quick; or True for
                a bar on stderr, False for none. By default there is a bar if stderr is a terminal,
                the extra `progress` is installed, and the transfer takes longer than a second.
            max_bytes: How many the driver may write, once expanded. 64 GiB.

        Yields:
            The handle. It can be used once, by a call of this client to its driver.

        Raises:
            ArgumentError: An argument cannot be used.
            OSError: The file cannot be read or written, or changed while it was read. If that
                happens meanwhile, the driver is told, and this is what leaves the block.
            DriverTimeoutError: A `timeout` is over. It ends the block though the file hangs in the
                operating system, after another 0.5 s; the thread is left behind, and logged.
            DriverError: (on leaving) The driver has not written the whole file.
            MissingExtra: It takes an extra that is not installed here.
        """
        lending = _of_file(
            path, write, size, compress=compress, progress=progress, max_bytes=max_bytes
        )
        with self._lend(lending) as handle:
            yield handle

    @asynccontextmanager
    async def local_file_async(
        self: _Lender,
        path: str | os.PathLike[str],
        *,
        write: bool = False,
        size: int | None = None,
        compress: bool = False,
        progress: Progress = None,
        max_bytes: int = MAX_BYTES,
    ) -> AsyncIterator[str]:
        """Do as `local_file`, for Trio code."""
        lending = _of_file(
            path, write, size, compress=compress, progress=progress, max_bytes=max_bytes
        )
        async with self._lend_async(lending) as handle:
            yield handle

    @block
    def resource(
        self: _Lender,
        stream: Any,
        *,
        write: bool = False,
        size: int | None = None,
        compress: bool = False,
        progress: Progress = None,
        max_bytes: int = MAX_BYTES,
    ) -> Iterator[str]:
        """Lend a stream to the driver, for the length of a `with` block.

        Args:
            stream: A blocking binary stream, with `read` or `write`, which are called in worker
                threads; or a Trio stream. It is not closed. A `read` or `write` that waits when
                the block is left is waited for up to 0.5 s, and then left to itself and logged.
                A regular file that changes while it is read is an error.
            write: The driver writes to it, rather than reads from it.
            size: How many bytes it will give, or be given, for the progress.
            compress: As for `local_file`.
            progress: As for `local_file`.
            max_bytes: As for `local_file`.

        Yields:
            The handle. It can be used once, by a call of this client to its driver.

        Raises:
            ArgumentError: It is no such stream.
            Exception: What the stream has raised.
            DriverError: (on leaving) The driver has not written all.
            MissingExtra: It takes an extra that is not installed here.
        """
        lending = _of_stream(
            stream, write, size, compress=compress, progress=progress, max_bytes=max_bytes
        )
        with self._lend(lending) as handle:
            yield handle

    @asynccontextmanager
    async def resource_async(
        self: _Lender,
        stream: Any,
        *,
        write: bool = False,
        size: int | None = None,
        compress: bool = False,
        progress: Progress = None,
        max_bytes: int = MAX_BYTES,
    ) -> AsyncIterator[str]:
        """Do as `resource`, for Trio code."""
        lending = _of_stream(
            stream, write, size, compress=compress, progress=progress, max_bytes=max_bytes
        )
        async with self._lend_async(lending) as handle:
            yield handle


def _of_file(
    path: str | os.PathLike[str], write: bool, size: int | None, **options: Any
) -> Lending:
    path = Path(check_path("path", path))
    check_size_hint("size", size)
    if check_flag("write", write):
        sink = file_sink(path)
        return Lending(title=path.name, sink=sink, size=size, collect=COLLECTED, **options)
    return Lending(title=path.name, source=file_source(path), **options)


def _of_stream(stream: Any, write: bool, size: int | None, **options: Any) -> Lending:
    check_size_hint("size", size)
    title = str(getattr(stream, "name", "stream"))
    if check_flag("write", write):
        return Lending(title=title, sink=sink_of(stream), size=size, **options)
    return Lending(title=title, source=source_of(stream, size), **options)
