"""Open Trio streams and listeners for addresses. This module does not know frames or calls.

Addresses are `unix:/path`, `tcp://host:port` or `tls://host:port`. The rules:

- A Unix socket has its mode, by default 0600, before anyone can connect to it. Only a dead socket
  of the same user is replaced; anything else in its place is an error.
- Cleartext TCP stays on this machine unless the caller says that the network is trusted.
- An error names the address, the system's reason, and what to do about it.

The caller sets deadlines.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import ipaddress
import os
import secrets
import shutil
import socket
import ssl
import stat
import struct
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

import trio

from .._util.fork import (
    FORK_TRIES,
    close_in_children,
    close_without_fork,
    fork_count,
    is_child,
    no_fork,
)
from .._util.tracebacks import strip_tracebacks
from .._util.wording import worded
from ..errors import ArgumentError, ConfigurationError, HandshakeError
from .addresses import Address
from .listener import SocketListener, bind_all
from .tls import TlsListener, TlsStream

__all__ = [
    "ListenerSet",
    "SocketStream",
    "listen_at_host",
    "open_listeners",
    "open_stream",
    "open_tcp_stream",
    "open_unix_stream",
    "peer_credentials",
    "private_socket_path",
]

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

SocketStream: TypeAlias = trio.SocketStream | TlsStream

# sun_path has 108 bytes on Linux and 104 on macOS and the BSDs, one of them for the closing NUL.
_MAX_PATH: Final = (108 if sys.platform == "linux" else 104) - 1
_BACKLOG: Final = 4096  # the cap of Linux: a thousand clients may connect concurrently
_LOCK_PATIENCE: Final = 5.0  # seconds; another server keeps the lock for less than a millisecond
_PORT_TRIES: Final = 8  # to find a port that is free at each address of a host
_UCRED: Final = struct.Struct("=iII")  # pid, uid, gid

_LISTEN_HINTS: Final = {
    errno.EACCES: ". Choose a directory that this user may write to, or a port from 1024 up",
    errno.EADDRINUSE: ". Stop the server that is there, or choose another (port 0: any free one)",
    errno.EADDRNOTAVAIL: ". Choose an address of this machine",
    errno.ENOENT: ". Create the socket's directory first",
}


async def open_stream(
    address: Address, *, ssl_context: ssl.SSLContext | None = None
) -> SocketStream:
    """Connect to a server, and over `tls` shake hands and check its certificate.

    A checkpoint. Waits without limit for the network, a full backlog and the peer's handshake: the
    caller sets a deadline. Cancelling it closes the connection. Any Trio task may call it.

    Args:
        address: Where the server listens; its port is not 0.
        ssl_context: For `tls` only. None trusts the system's authorities. The server's certificate
            must be valid for the address's host.

    Raises:
        HandshakeError: No server listens there, or we may not connect, or TLS failed.
        ConfigurationError: The context does not fit the address, or the path is too long.
        ArgumentError: The port is 0.
    """
    _check_tls(address, ssl_context, server_side=False)
    try:
        if address.scheme == "unix":
            _check_path_length(address.path)
            return await open_unix_stream(address.path)
        if address.port == 0:
            raise ArgumentError(f"cannot connect to {address}: port 0 is for listeners only")
        stream = await open_tcp_stream(address.host, address.port)
    except OSError as exc:
        why = "not a socket" if _is_no_socket(address, exc) else _words(exc)
        raise HandshakeError(
            f"cannot connect to {address}: {why}. Is the exporter running there, and reachable for "
            "this user? `python -m jumpstarter serve` starts one"
        ) from strip_tracebacks(exc)
    if address.scheme == "tcp":
        return stream
    return await _start_tls(stream, address, ssl_context or ssl.create_default_context())


async def open_tcp_stream(host: str, port: int) -> trio.SocketStream:
    """Connect as `trio.open_tcp_stream` does; forked children close their copy of the socket.

    A fork can happen after the socket was made and before it is registered for that. Then the
    connection is made again, up to ten times in all.
    """
    tries = FORK_TRIES
    while True:
        before = fork_count()
        stream = await trio.open_tcp_stream(host, port)
        close_in_children(stream.socket)
        tries -= 1
        if fork_count() == before or not tries:
            return stream
        # Ends the connection for the child's copy too; `close` alone would not.
        with contextlib.suppress(OSError):  # ENOTCONN: the peer has reset it already
            stream.socket.shutdown(socket.SHUT_RDWR)
        close_without_fork(stream.socket)


async def open_unix_stream(path: str) -> trio.SocketStream:
    """Connect to a Unix socket; forked children close their copy of it.

    A checkpoint. Waits while the server's queue of pending connections is full. Cancelling it
    closes the socket.

    Raises:
        OSError: The connection failed.
    """
    await trio.lowlevel.checkpoint()
    with no_fork():
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        close_in_children(sock)
    delay = 0.001
    try:
        sock.setblocking(False)
        while True:
            # Not trio's connect: it treats EAGAIN (a full backlog) as a connection in progress, and
            # returns a socket that is not connected. No event reports free space, so we poll.
            with contextlib.suppress(BlockingIOError):
                sock.connect(path)
                return trio.SocketStream(trio.socket.from_stdlib_socket(sock))
            await trio.sleep(delay)
            delay = min(2 * delay, 0.1)
    except BaseException:
        close_without_fork(sock)
        raise


async def _start_tls(
    stream: trio.SocketStream, address: Address, context: ssl.SSLContext
) -> TlsStream:
    host = address.host.partition("%")[0]
    try:
        secure = TlsStream(stream, context, host)
        await secure.do_handshake()
    except BaseException as exc:
        close_without_fork(stream.socket)
        if not isinstance(exc, trio.BrokenResourceError):
            raise
        why = f"no TLS handshake ({exc.__cause__ or 'hung up'}). Does it listen with tls://?"
        if isinstance(exc.__cause__, ssl.SSLCertVerificationError):
            why = (
                f"{exc.__cause__.verify_message.rstrip('.')}. Connect by a name that the "
                f"certificate has, and {worded('trust its authority in the ssl_context')}"
            )
        raise HandshakeError(f"cannot connect to {address}: {why}") from strip_tracebacks(exc)
    return secure


def _check_tls(address: Address, context: ssl.SSLContext | None, *, server_side: bool) -> None:
    wrong = ssl.PROTOCOL_TLS_CLIENT if server_side else ssl.PROTOCOL_TLS_SERVER
    if address.scheme != "tls":
        if context is not None:
            advice = worded("an ssl_context is for tls://")
            raise ConfigurationError(f"{address} is not encrypted: {advice}")
    elif (context is None and server_side) or (context is not None and context.protocol == wrong):
        side = "a server's, with its certificate" if server_side else "a client's"
        purpose = "CLIENT_AUTH" if server_side else "SERVER_AUTH"
        raise ConfigurationError(
            f"{address} needs {side}, as ssl_context: begin one with "
            f"ssl.create_default_context(ssl.Purpose.{purpose})"
        )


def _check_path_length(path: str) -> None:
    if (size := len(os.fsencode(path))) > _MAX_PATH:
        raise ConfigurationError(
            f"the socket path {path!r} has {size} bytes, and this system allows {_MAX_PATH}: "
            "choose a shorter one"
        )


def _is_no_socket(address: Address, exc: OSError) -> bool:
    # Linux reports the same error for a file that is not a socket and for one without a server.
    suspect = exc.errno in (errno.ECONNREFUSED, errno.ENOTSOCK)
    return address.scheme == "unix" and suspect and not Path(address.path).is_socket()


def _words(exc: OSError, hints: dict[int, str] | None = None) -> str:
    # Trio raises one error for a host, and groups the errors of its addresses under it.
    group = exc.__cause__
    members = group.exceptions if isinstance(group, ExceptionGroup) else (exc,)
    errors = [member for member in members if isinstance(member, OSError)]
    words = "; ".join(dict.fromkeys(error.strerror or str(error) for error in errors))
    return words + (hints or {}).get(errors[0].errno or 0, "")


@dataclasses.dataclass(eq=False)
class ListenerSet(trio.abc.AsyncResource):
    """The listeners of one address: accept from its `listeners`, then close it.

    Attributes:
        address: Where clients connect, with the real port.
        listeners: One for each address of the host. A `tls` one accepts before the handshake, which
            happens when the stream is first read or written, or by its `do_handshake()`.
        exposed: True if other machines may be able to connect.
    """

    address: Address
    listeners: Sequence[trio.abc.Listener[SocketStream]]
    exposed: bool = False
    _identity: tuple[int, ...] = ()
    _owner: int = dataclasses.field(default_factory=os.getpid)

    async def aclose(self) -> None:
        """Close the listeners, and remove the Unix socket if it is still the one we made.

        A checkpoint; closes everything even when cancelled. Closing again does nothing. A forked
        child does not remove the Unix socket, which belongs to its parent.
        """
        if self._identity and not is_child(self._owner):
            # Before closing: while it listens, no other server replaces it, so the path is still
            # ours when it is unlinked.
            _unlink_own(Path(self.address.path), self._identity)
            self._identity = ()
        with trio.CancelScope(shield=True):
            for listener in self.listeners:
                await listener.aclose()
        await trio.lowlevel.checkpoint()


async def open_listeners(
    address: Address,
    *,
    ssl_context: ssl.SSLContext | None = None,
    insecure: bool = False,
    mode: int = 0o600,
) -> ListenerSet:
    """Listen at an address.

    A checkpoint; cancelling it closes everything. Any Trio task may call it. A Unix socket is made
    in a worker thread that holds a lock on the directory: without it, two servers that start
    together could each regard the other's socket as dead. Waits up to 5 s for the lock.

    Args:
        address: Where to listen. Port 0 takes any free port.
        ssl_context: For `tls` only, and required there: a server's, with its certificate.
        insecure: Allow `tcp` beyond loopback: in cleartext, for anyone who can reach the host.
        mode: The mode of a Unix socket. With a wider one than 0600, the caller must check the
            `peer_credentials` of each stream.

    Returns:
        The listeners. The caller closes them.

    Raises:
        ConfigurationError: The address is in use, not ours or not allowed, the path too long, its
            directory missing or locked, or the context does not fit the address.
    """
    _check_tls(address, ssl_context, server_side=True)
    try:
        if address.scheme == "unix":
            return await _listen_unix(address, mode)
        opened = await listen_at_host(address, anywhere=insecure or address.scheme == "tls")
    except OSError as exc:
        text = f"cannot listen at {address}: {_words(exc, _LISTEN_HINTS)}"
        raise ConfigurationError(text) from exc
    address = dataclasses.replace(address, port=opened[0].socket.getsockname()[1])
    bound = (ipaddress.ip_address(each.socket.getsockname()[0]) for each in opened)
    exposed = not all(host.is_loopback for host in bound)
    if ssl_context is not None:
        secure = [TlsListener(each, ssl_context) for each in opened]
    return ListenerSet(address, opened if ssl_context is None else secure, exposed)


async def listen_at_host(address: Address, *, anywhere: bool) -> list[SocketListener]:
    """Listen at every address of a host, all on one port. A checkpoint.

    Args:
        address: The host and port; port 0 takes any free port.
        anywhere: Allow addresses that other machines can reach.

    Raises:
        ConfigurationError: Other machines could connect, and `anywhere` is False.
        OSError: Listening failed.
    """
    found = await trio.socket.getaddrinfo(address.host, 0, type=socket.SOCK_STREAM)
    # Bind the addresses that are checked here: the name could resolve differently next time.
    hosts = list(dict.fromkeys(_numeric_host(entry[4]) for entry in found))
    exposed = [host for host in hosts if not ipaddress.ip_address(host).is_loopback]
    if exposed and not anywhere:
        raise ConfigurationError(
            f"cannot listen at {address}: other machines reach {', '.join(exposed)}, and tcp:// "
            "neither encrypts nor checks who is there. Listen at 127.0.0.1 or [::1], use tls:// "
            f"with a certificate, {worded('or insecure=True if that network is trusted')}"
        )
    for _ in range(_PORT_TRIES - 1):
        try:
            return bind_all(hosts, address.port, _BACKLOG)
        except OSError as exc:
            if exc.errno != errno.EADDRINUSE or address.port != 0:
                raise
    return bind_all(hosts, address.port, _BACKLOG)


def _numeric_host(sockaddr: Sequence[object]) -> str:
    zone = sockaddr[3] if len(sockaddr) == 4 else 0  # of IPv6: host, port, flow, zone
    return f"{sockaddr[0]}%{zone}" if zone else str(sockaddr[0])


async def _listen_unix(address: Address, mode: int) -> ListenerSet:
    _check_path_length(address.path)
    with trio.move_on_after(_LOCK_PATIENCE):
        while True:
            try:
                path = Path(address.path)
                sock, identity = await trio.to_thread.run_sync(_bind_unix, path, mode)
            except BlockingIOError:
                await trio.sleep(0.02)
                continue
            return ListenerSet(address, [SocketListener(sock)], _identity=identity)
    raise ConfigurationError(
        f"cannot listen at {address}: another process keeps its directory locked (flock). End "
        "that, or choose another directory"
    )


def _bind_unix(path: Path, mode: int) -> tuple[socket.socket, tuple[int, ...]]:
    """Make a listening socket; raise BlockingIOError if another process locks the directory."""
    with no_fork():  # a child would keep the lock, and the socket
        return _bind_unix_here(path, mode)


def _bind_unix_here(path: Path, mode: int) -> tuple[socket.socket, tuple[int, ...]]:
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _remove_dead_socket(path)
        # On Linux the file gets the socket's mode. On other systems chmod sets it in time, since
        # no peer can connect before listen(). The umask would affect all threads.
        with contextlib.suppress(OSError):
            os.fchmod(sock.fileno(), mode)
        sock.bind(os.fspath(path))
        if stat.S_IMODE(path.lstat().st_mode) != mode:
            path.chmod(mode)
        sock.listen(_BACKLOG)
        close_in_children(sock)
        return sock, _identity(path)
    except BaseException:
        sock.close()
        raise
    finally:
        os.close(directory)


def _remove_dead_socket(path: Path) -> None:
    """Remove our own socket without a server; raise ConfigurationError for anything else."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        if not stat.S_ISSOCK(status.st_mode):
            why = "something other than a socket is there. Remove it"
        elif status.st_uid != os.geteuid():
            why = f"the socket there belongs to uid {status.st_uid}. Remove it as that user"
        elif (code := probe.connect_ex(os.fspath(path))) == errno.ECONNREFUSED:
            path.unlink()
            return
        elif code in (0, errno.EAGAIN):
            why = "a server is listening there. Stop it"
        else:
            why = f"the socket there may be in use ({os.strerror(code)}). Remove it"
    raise ConfigurationError(f"cannot listen at unix:{path}: {why}, or choose another path")


def _identity(path: Path) -> tuple[int, ...]:
    # The inode alone is not enough: some file systems reuse its number immediately.
    status = path.lstat()
    return status.st_dev, status.st_ino, status.st_mtime_ns


def _unlink_own(path: Path, identity: tuple[int, ...]) -> None:
    with contextlib.suppress(OSError):  # a socket left behind is dead: the next server replaces it
        if _identity(path) == identity:
            path.unlink()


@contextlib.contextmanager
def private_socket_path() -> Iterator[Path]:
    """Make a directory that only this user can enter, and yield a socket's path in it.

    The directory is in `$XDG_RUNTIME_DIR` if only this user can enter that, else in the temporary
    directory, or in `/tmp` if the path would be too long. Leaving removes it with its content; a
    forked child does not. Not a checkpoint; any thread may use it.

    Yields:
        The path.

    Raises:
        ConfigurationError: Making the directory failed; gives the reason for each place tried.
    """
    directory = _make_private_directory()
    owner = os.getpid()
    try:
        yield directory / "socket"
    finally:
        if not is_child(owner):
            # Leftovers are harmless, and an error here would hide the exception of the body.
            shutil.rmtree(directory, ignore_errors=True)


def _make_private_directory() -> Path:
    runtime = Path(os.environ.get("XDG_RUNTIME_DIR", ""))
    bases = [Path("/tmp")]  # noqa: S108 - our directory there is 0700
    with contextlib.suppress(FileNotFoundError):  # no temporary directory is writable
        bases.insert(0, Path(tempfile.gettempdir()))
    problems = []
    for base in dict.fromkeys([runtime, *bases] if _is_ours_alone(runtime) else bases):
        directory = base / f"jumpstarter-{secrets.token_hex(6)}"
        try:
            _check_path_length(os.fspath(directory / "socket"))
            directory.mkdir(0o700)
        except (ConfigurationError, OSError) as exc:
            problems.append(str(exc))
        else:
            return directory
    raise ConfigurationError(f"no place for a private socket: {'; '.join(problems)}")


def _is_ours_alone(directory: Path) -> bool:
    try:
        status = directory.lstat()
    except OSError:
        return False
    kept = status.st_uid == os.geteuid() and status.st_mode == stat.S_IFDIR | 0o700
    return directory.is_absolute() and kept


class Credentials(NamedTuple):
    """The process at the other end of a Unix socket, as the system reports it."""

    pid: int
    uid: int
    gid: int


def peer_credentials(stream: trio.abc.Stream) -> Credentials | None:
    """Return the process that connected, or listens, at the other end. Not a checkpoint.

    Returns:
        Its ids, for a Unix socket on Linux. None for TCP, TLS and on other systems.

    Raises:
        OSError: The stream is closed.
    """
    if sys.platform != "linux" or not isinstance(stream, trio.SocketStream):
        return None
    if stream.socket.family != socket.AF_UNIX:
        return None
    credentials = stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    return Credentials(*_UCRED.unpack(credentials))
