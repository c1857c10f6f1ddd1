"""Mixins for client classes: raw streams, and files and streams that the client lends.

A mixin adds methods to a subclass of `DriverClient`, before or after it among the bases. It uses
only what every client has.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
)
from typing import TYPE_CHECKING, Any, Unpack, cast

from .._io.forward import QUIET_LIMIT
from .._util.checks import refuse_timeout
from .._util.tracebacks import hidden_contextmanager
from ..client import BlockingStream, DriverClient
from ..client import _loans as loans
from ..client._loans import LoanOptions, lend, lend_async
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

__all__ = ["LoanOptions", "ResourceMixin", "StreamMixin"]


class StreamMixin:
    """For the client of a driver that has a raw stream, such as a serial console."""

    @refuse_timeout("connect()", "use `with client.timeout(seconds):` around it")
    def connect(self, method: str = "connect") -> AbstractContextManager[BlockingStream]:
        """Open the driver's raw stream, for the length of a `with` block. Blocks.

        May be called in any thread that runs no Trio loop. Leaving the block closes the stream:
        what was sent is still delivered, and the driver's code has ended.

        Args:
            method: Name of the `exportstream` method.

        Returns:
            A context manager that yields the stream.

        Raises:
            DriverError: (on entering) The driver could not open it, or (on leaving) has failed
                with it.
        """
        return _client(self).stream(method)

    def portforward(
        self,
        method: str = "connect",
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        quiet_limit: float = QUIET_LIMIT,
    ) -> AbstractContextManager[tuple[str, int]]:
        """Forward a local TCP port to the driver's raw stream, for the length of a `with` block.

        Any program can then connect to the port. Each connection has its own raw stream, and there
        can be hundreds; half-close is passed on. A connection that fails is logged and reset. When
        a program disconnects, its raw stream ends within seconds, even if the device sends nothing.
        The end of the block ends all connections. Blocks while it is entered and left;
        `portforward_async` is for Trio code.

        Args:
            method: Name of the `exportstream` method.
            host: The address to listen on; by default, only this machine can connect.
            port: The port; by default, any free one.
            quiet_limit: Seconds without a byte in either direction after which a half-closed
                connection is ended. It only applies where this process cannot see whether the
                program still exists: it is on another machine, or this one is not Linux. 30 by
                default: an answer has begun by then, and the device is soon free for the next
                program. math.inf for no limit.

        Returns:
            A context manager that yields the address and the port.

        Raises:
            OSError: (on entering) The port cannot be listened on.
        """
        return TcpPortforwardAdapter(
            client=_client(self),
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
        """Forward a local TCP port as `portforward` does, for Trio code."""
        return tcp_portforward(
            client=_client(self),
            method=method,
            local_host=host,
            local_port=port,
            quiet_limit=quiet_limit,
        )

    def portforward_unix(
        self, method: str = "connect", *, path: str = "", quiet_limit: float = QUIET_LIMIT
    ) -> AbstractContextManager[str]:
        """Forward a local Unix socket as `portforward` does a port. Only its owner may connect.

        Args:
            method: Name of the `exportstream` method.
            path: Path of the socket; by default in a private directory.
            quiet_limit: As for `portforward`.

        Returns:
            A context manager that yields the path.

        Raises:
            OSError: (on entering) The socket cannot be created there.
        """
        return UnixPortforwardAdapter(
            client=_client(self), method=method, path=path, quiet_limit=quiet_limit
        )

    def portforward_unix_async(
        self, method: str = "connect", *, path: str = "", quiet_limit: float = QUIET_LIMIT
    ) -> AbstractAsyncContextManager[str]:
        """Forward a local Unix socket as `portforward_unix` does, for Trio code."""
        return unix_portforward(
            client=_client(self), method=method, path=path, quiet_limit=quiet_limit
        )

    def pexpect(
        self, method: str = "connect", **options: Any
    ) -> AbstractContextManager[fdspawn[Any]]:
        """Open the driver's raw stream as a pexpect session, for the length of a `with` block.

        Args:
            method: Name of the `exportstream` method.
            options: Of `pexpect.fdpexpect.fdspawn`: `timeout` in seconds, 30 by default;
                `encoding`; `logfile`.

        Returns:
            A context manager that yields an `fdspawn`, with `expect` and `sendline`. Everything
            that was sent has reached the driver when the block is left.

        Raises:
            MissingExtra: (on entering) The extra `pexpect` is not installed.
            DriverError: (on entering) The driver could not open it, or (on leaving) has failed
                with it.
        """
        return PexpectAdapter(client=_client(self), method=method, **options)


class ResourceMixin:
    """For the client of a driver that reads or writes files and streams on the client's side.

    The driver gets a handle, as an argument of one of its methods, and opens it by
    `Driver.resource`.
    """

    @hidden_contextmanager
    def local_file(
        self, path: str | os.PathLike[str], **options: Unpack[LoanOptions]
    ) -> Iterator[str]:
        """Lend a local file to the driver, for the length of a `with` block.

            with self.local_file("image.img") as handle:
                self.call("flash", handle)

        Memory use is constant for any number of bytes, and other calls can run at the same time.
        Call it in any thread that runs no Trio loop. Blocks while it is entered and left;
        `local_file_async` is for Trio code.

        Args:
            path: Of the file.
            options: Keyword arguments: `write=True` lets the driver write the file rather than read
                it; it replaces the old file once it is complete and the block was left without an
                exception. `size=`, `compress=`, `progress=` and `max_bytes=` are those of
                `LoanOptions`.

        Yields:
            The handle. It can be used once, by a call of this client to its driver.

        Raises:
            ArgumentError: An argument cannot be used.
            OSError: The file cannot be read or written, or changed while it was read. If that
                happens during the transfer, the driver gets an error too.
            DriverTimeoutError: The surrounding `timeout` ran out. It ends the block even if the
                file hangs in the operating system, after another 0.5 s; the thread is abandoned,
                and that is logged.
            DriverError: (on leaving) The driver has not written the whole file.
            MissingExtra: It takes an extra that is not installed here.
        """
        with lend(_client(self), loans.local_file(path, **options)) as handle:
            yield handle

    @asynccontextmanager
    async def local_file_async(
        self, path: str | os.PathLike[str], **options: Unpack[LoanOptions]
    ) -> AsyncIterator[str]:
        """Lend a local file as `local_file` does, with the same arguments, for Trio code.

        Entering and leaving are checkpoints. If it is cancelled, the loan is withdrawn: the
        driver's read or write fails, and a file that was to be replaced stays unchanged.
        """
        async with lend_async(_client(self), loans.local_file(path, **options)) as handle:
            yield handle

    @hidden_contextmanager
    def resource(self, stream: Any, **options: Unpack[LoanOptions]) -> Iterator[str]:
        """Lend a stream to the driver, for the length of a `with` block.

        Every client has `resource_async` for async code, with the same arguments.

        Args:
            stream: A blocking binary stream, whose `read` or `write` is called in worker threads;
                or a Trio stream. It is not closed. A `read` or `write` that still waits when the
                block is left gets 0.5 s, then its thread is abandoned, which is logged. If it reads
                a regular file that changes meanwhile, that is an error. If the block ends by an
                exception, the stream still gets the bytes that had arrived from the driver, as far
                as it takes them within `cancel_grace` (1 s).
            options: Keyword arguments, as for `local_file`.

        Yields:
            The handle. It can be used once, by a call of this client to its driver.

        Raises:
            ArgumentError: It is not such a stream, or another argument cannot be used.
            Exception: Any exception that the stream has raised.
            DriverTimeoutError: The surrounding `timeout` ran out.
            DriverError: (on leaving) The driver has not written everything.
            MissingExtra: It takes an extra that is not installed here.
        """
        with lend(_client(self), loans.resource(stream, **options)) as handle:
            yield handle


def _client(mixin: object) -> DriverClient:
    """Return the client that a mixin is part of."""
    return cast("DriverClient", mixin)
