"""Test addresses, streams and listeners with real sockets, files and certificates."""

# ruff: noqa: ASYNC240 - a test may look at its own few files

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import os
import secrets
import shutil
import socket
import ssl
import stat
import string
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
import trio
import trio.testing
import trustme
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from jumpstarter._io import listener, sockets
from jumpstarter._io.addresses import Address, parse_address
from jumpstarter._io.sockets import (
    ListenerSet,
    SocketStream,
    open_listeners,
    open_stream,
    peer_credentials,
    private_socket_path,
)
from jumpstarter._io.tls import TlsStream
from jumpstarter.errors import ArgumentError, ConfigurationError, HandshakeError

DEADLINE = 60  # seconds; each test takes milliseconds
MAX_PATH = 107 if sys.platform == "linux" else 103
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="Linux tells the mode or the peer so")


@pytest.fixture
def directory() -> Iterator[Path]:
    """Yield a directory whose path is short enough for sockets, unlike some tmp_path."""
    path = Path(tempfile.mkdtemp(prefix="sockets-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def unix(directory: Path) -> Address:
    return Address("unix", path=str(directory / "socket"))


def dead_socket(path: str, kind: int = socket.SOCK_STREAM) -> tuple[int, int]:
    """Leave a socket without a server, as a killed server does; return its inode."""
    with socket.socket(socket.AF_UNIX, kind) as sock:
        sock.bind(path)
    status = Path(path).stat()
    return status.st_dev, status.st_ino


async def listen(
    address: Address,
    *,
    ssl_context: ssl.SSLContext | None = None,
    insecure: bool = False,
    mode: int = 0o600,
) -> ListenerSet:
    """Open listeners, within the deadline."""
    with trio.fail_after(DEADLINE):
        return await open_listeners(address, ssl_context=ssl_context, insecure=insecure, mode=mode)


@contextlib.asynccontextmanager
async def serving(listeners: ListenerSet) -> AsyncIterator[list[SocketStream]]:
    """Echo each connection's bytes; yield the accepted streams."""
    accepted: list[SocketStream] = []

    async def echo(stream: SocketStream) -> None:
        accepted.append(stream)
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async for data in stream:
                await stream.send_all(data)

    with trio.fail_after(DEADLINE):
        async with listeners, trio.open_nursery() as nursery:
            await nursery.start(trio.serve_listeners, echo, listeners.listeners)
            yield accepted
            nursery.cancel_scope.cancel()


async def assert_echo(address: Address, context: ssl.SSLContext | None = None) -> None:
    async with await open_stream(address, ssl_context=context) as stream:
        await stream.send_all(b"hello")
        assert await stream.receive_some(5) == b"hello"


# --- addresses ---

LABELS = st.text(string.ascii_letters + string.digits + "-_", min_size=1, max_size=63)
NAMES = st.lists(LABELS, min_size=1, max_size=4).map(".".join)
HOSTS = st.one_of(
    NAMES,
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(lambda ip: f"[{ip.exploded}]"),
    st.ip_addresses(v=6).map(lambda ip: f"[{ip}%eth0]"),
)
PATHS = st.text(st.characters(exclude_characters="\0"), min_size=1).filter(
    lambda path: not path.startswith("/") and not path.endswith("/")
)


@given(st.sampled_from(["tcp", "tls"]), HOSTS, st.integers(0, 65535))
def test_a_network_address_survives_the_round_trip(scheme: str, host: str, port: int) -> None:
    address = parse_address(f"{scheme}://{host}:{port}")
    assert (address.scheme, address.port, address.path) == (scheme, port, "")
    assert parse_address(str(address)) == address
    assert str(parse_address(str(address))) == str(address)


@given(PATHS)
def test_a_unix_address_keeps_its_path(path: str) -> None:
    address = parse_address(f"unix:/{path}")
    assert address == Address("unix", path=f"/{path}")
    assert str(address) == f"unix:/{path}"
    assert parse_address(f"unix:///{path}") == address


@given(st.one_of(st.text(), st.text().map("unix:".__add__), st.text().map("tcp://".__add__)))
def test_any_text_is_an_address_or_an_argument_error(text: str) -> None:
    refusal = ""
    try:
        canonical = str(parse_address(text))
    except ArgumentError as exc:
        refusal = str(exc)
    else:
        assert str(parse_address(canonical)) == canonical
    assert not refusal or repr(text) in refusal


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("tcp://Exporter.Example:080", "tcp://exporter.example:80"),
        ("tls://[0:0::1]:8080", "tls://[::1]:8080"),
        ("tcp://[FE80::1%eth0]:1", "tcp://[fe80::1%eth0]:1"),
        ("unix:///run/a b%20~", "unix:/run/a b%20~"),
    ],
)
def test_an_address_has_one_canonical_text(text: str, canonical: str) -> None:
    assert str(parse_address(text)) == canonical


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "must begin with"),
        ("/run/socket", "must begin with"),
        ("http://host:80", "must begin with"),
        ("TCP://host:80", "must begin with"),
        ("tcp:host:80", "must begin with"),
        ("unix:", "absolute"),
        ("unix:relative", "absolute"),
        ("unix://host/path", "no host"),
        ("unix:////path", "no host"),
        ("unix:@abstract", "abstract"),
        ("unix:\0abstract", "abstract"),
        ("unix:/run/", "name a socket"),
        ("unix:/", "name a socket"),
        ("unix:/a\0b", "NUL"),
        ("tcp://host", "expected host:port"),
        ("tcp://host:", "expected host:port"),
        ("tcp://:80", "expected host:port"),
        ("tcp://host:65536", "up to 65535"),
        ("tcp://host:123456", "up to 65535"),
        ("tcp://host:-1", "expected host:port"),
        ("tcp://host:٣", "expected host:port"),
        ("tcp://host:80/", "expected host:port"),
        ("tcp://user@host:80", "expected host:port"),
        ("tcp://a..b:80", "expected host:port"),
        (f"tcp://{'a' * 64}:80", "expected host:port"),
        ("tcp://::1:80", "IPv6 in brackets"),
        ("tcp://[::1]", "IPv6 in brackets"),
        ("tcp://[::1%]:80", "IPv6 in brackets"),
        ("tcp://[::g]:80", "'::g' is not an IPv6 address"),
        ("tcp://[127.0.0.1]:80", "not an IPv6 address"),
    ],
)
def test_a_bad_address_is_refused_with_examples(text: str, why: str) -> None:
    with pytest.raises(ArgumentError) as info:
        parse_address(text)
    message = str(info.value)
    assert repr(text) in message
    assert why in message
    for example in ("unix:/run/", "tcp://127.0.0.1:8080", "tcp://[::1]:8080", "tls://"):
        assert example in message


# --- Unix sockets ---


async def test_unix_connects_and_is_removed_on_close(unix: Address) -> None:
    listeners = await listen(unix)
    assert listeners.address == unix
    async with serving(listeners):
        await assert_echo(unix)
    assert not Path(unix.path).exists()
    await listeners.aclose()


async def test_a_unix_stream_can_half_close(unix: Address) -> None:
    async with serving(await listen(unix)):
        stream = await open_stream(unix)
        assert isinstance(stream, trio.SocketStream)
        async with stream:
            await stream.send_all(b"all of it")
            await stream.send_eof()
            assert b"".join([chunk async for chunk in stream]) == b"all of it"


@pytest.mark.parametrize("mode_from_socket", [True, False])
@pytest.mark.parametrize("umask", [0, 0o777])
async def test_unix_socket_is_private_before_a_peer_can_connect(
    unix: Address, monkeypatch: pytest.MonkeyPatch, umask: int, mode_from_socket: bool
) -> None:
    modes = []
    connects = []

    class WatchedSocket(socket.socket):
        def listen(self, backlog: int = 0) -> None:
            modes.append(stat.S_IMODE(Path(unix.path).stat().st_mode))
            with socket.socket(socket.AF_UNIX) as early:
                connects.append(early.connect_ex(unix.path))
            super().listen(backlog)

    def refuse(_fd: int, _mode: int) -> NoReturn:
        raise OSError(errno.EINVAL, "as elsewhere than on Linux")

    monkeypatch.setattr(socket, "socket", WatchedSocket)
    if not mode_from_socket:
        monkeypatch.setattr(os, "fchmod", refuse)
    before = os.umask(umask)
    try:
        with trio.fail_after(DEADLINE):
            async with await listen(unix):
                assert stat.S_IMODE(Path(unix.path).stat().st_mode) == 0o600
                assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert modes == [0o600]
    assert connects == [errno.ECONNREFUSED]


@ON_LINUX
async def test_unix_socket_is_created_private_on_linux(
    unix: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_path: Path, _mode: int) -> NoReturn:
        raise AssertionError("no chmod is needed")

    monkeypatch.setattr(Path, "chmod", refuse)
    before = os.umask(0)
    try:
        with trio.fail_after(DEADLINE):
            async with await listen(unix):
                assert stat.S_IMODE(Path(unix.path).stat().st_mode) == 0o600
    finally:
        os.umask(before)


@pytest.mark.parametrize("umask", [0, 0o077, 0o777])
async def test_unix_socket_may_have_a_wider_mode(unix: Address, umask: int) -> None:
    before = os.umask(umask)
    try:
        async with await listen(unix, mode=0o666):
            assert stat.S_IMODE(Path(unix.path).stat().st_mode) == 0o666
    finally:
        os.umask(before)


async def test_the_longest_path_works_and_one_more_byte_does_not(directory: Path) -> None:
    room = MAX_PATH - len(os.fsencode(directory)) - 1
    longest = Address("unix", path=str(directory / ("x" * room)))
    async with serving(await listen(longest)):
        await assert_echo(longest)

    # Bytes count, not characters.
    too_long = Address("unix", path=str(directory / ("x" * (room - 1) + "é")))
    for attempt in (listen, open_stream):
        with pytest.raises(ConfigurationError) as info:
            await attempt(too_long)
        assert f"has {MAX_PATH + 1} bytes" in str(info.value)
        assert f"allows {MAX_PATH}" in str(info.value)
        assert repr(too_long.path) in str(info.value)


async def test_running_server_is_never_replaced(unix: Address) -> None:
    async with serving(await listen(unix)):
        with pytest.raises(ConfigurationError, match="a server is listening there"):
            await listen(unix)
        await assert_echo(unix)


async def test_running_server_with_a_full_backlog_is_not_replaced(unix: Address) -> None:
    with contextlib.ExitStack() as stack, trio.fail_after(DEADLINE):
        server = stack.enter_context(socket.socket(socket.AF_UNIX))
        server.bind(unix.path)
        fill_backlog(stack, server, unix.path)
        with pytest.raises(ConfigurationError, match="a server is listening there"):
            await listen(unix)
        assert Path(unix.path).exists()


async def test_a_dead_socket_is_replaced(unix: Address) -> None:
    dead_socket(unix.path)
    async with serving(await listen(unix)):
        await assert_echo(unix)


@pytest.mark.parametrize("kind", ["file", "directory", "fifo", "symlink", "dangling symlink"])
async def test_file_that_is_not_a_socket_is_kept_and_refused(unix: Address, kind: str) -> None:
    path = Path(unix.path)
    if kind == "file":
        path.write_text("precious")
    elif kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to(path.with_name("target"))
    if kind == "symlink":
        dead_socket(str(path.with_name("target")))
    before = path.lstat()
    with pytest.raises(ConfigurationError) as info:
        await listen(unix)
    assert str(unix) in str(info.value)
    assert "other than a socket" in str(info.value)
    assert path.lstat() == before


async def test_live_socket_of_another_type_is_refused(unix: Address) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other, trio.fail_after(DEADLINE):
        other.bind(unix.path)
        with pytest.raises(ConfigurationError, match="may be in use"):
            await listen(unix)
        with pytest.raises(HandshakeError, match=str(unix)):
            await open_stream(unix)
        assert Path(unix.path).is_socket()


@AS_ROOT
async def test_dead_socket_of_another_user_is_refused(unix: Address) -> None:
    dead_socket(unix.path)
    os.chown(unix.path, 12345, -1)
    with pytest.raises(ConfigurationError, match="uid 12345"):
        await listen(unix)
    assert Path(unix.path).is_socket()


async def test_a_missing_directory_is_named(directory: Path) -> None:
    address = Address("unix", path=str(directory / "missing" / "socket"))
    with pytest.raises(ConfigurationError) as info:
        await listen(address)
    assert str(address) in str(info.value)
    assert "No such file or directory. Create the socket's directory first" in str(info.value)


async def test_a_failure_after_the_bind_leaves_no_descriptor(
    unix: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    class DeafSocket(socket.socket):
        def listen(self, backlog: int = 0) -> None:
            raise OSError(errno.ENOBUFS, f"no room for {backlog}")

    monkeypatch.setattr(socket, "socket", DeafSocket)
    for _ in range(2):  # the second finds a dead socket
        before = open_descriptors()
        with pytest.raises(ConfigurationError, match="no room for"):
            await listen(unix)
        assert open_descriptors() == before


def open_descriptors() -> list[str]:
    # Both lists contain the descriptor of the listing itself.
    return sorted(each.name for each in Path("/dev/fd").iterdir())


@pytest.mark.parametrize("successor", ["another server", "a file", "nothing"])
async def test_close_keeps_a_file_that_it_did_not_make(unix: Address, successor: str) -> None:
    listeners = await listen(unix)
    path = Path(unix.path)
    path.unlink()
    if successor == "another server":
        dead_socket(unix.path)
    elif successor == "a file":
        path.write_text("precious")
    await listeners.aclose()
    assert path.exists() == (successor != "nothing")


async def test_close_keeps_a_new_file_that_reuses_the_inode(unix: Address) -> None:
    # Some file systems reuse the inode once the listener is closed.
    listeners = await listen(unix)
    await listeners.listeners[0].aclose()
    Path(unix.path).unlink()
    dead_socket(unix.path)
    os.utime(unix.path, ns=(0, 0))
    await listeners.aclose()
    assert Path(unix.path).is_socket()


async def test_a_second_close_leaves_the_next_server_alone(unix: Address) -> None:
    first = await listen(unix)
    made = Path(unix.path).stat().st_mtime_ns
    await first.aclose()
    async with serving(await listen(unix)):
        os.utime(unix.path, ns=(made, made))  # as if both had been made within one clock tick
        await first.aclose()
        await assert_echo(unix)


async def test_a_socket_with_a_new_mode_is_still_removed(unix: Address) -> None:
    async with await listen(unix):
        Path(unix.path).chmod(0o660)
    assert not Path(unix.path).exists()


async def test_close_does_its_work_when_cancelled(unix: Address) -> None:
    trio.socket.set_custom_hostname_resolver(Resolver("127.0.0.1", "127.0.0.2"))
    for address in (unix, Address("tcp", host="both.example")):
        listeners = await listen(address)
        with trio.CancelScope() as scope:
            scope.cancel()
            await listeners.aclose()
        assert scope.cancelled_caught
        assert not Path(unix.path).exists()
        for each in listeners.listeners:
            with trio.fail_after(DEADLINE), pytest.raises(trio.ClosedResourceError):
                await each.accept()


async def test_of_servers_that_start_together_one_wins(unix: Address) -> None:
    opened: list[ListenerSet] = []
    refused: list[str] = []

    async def start() -> None:
        try:
            opened.append(await listen(unix))
        except ConfigurationError as exc:
            refused.append(str(exc))

    for _ in range(20):
        dead_socket(unix.path)
        with trio.fail_after(DEADLINE):
            async with trio.open_nursery() as nursery:
                for _ in range(4):
                    nursery.start_soon(start)
        assert len(opened) == 1
        assert len(refused) == 3
        assert all("a server is listening there" in text for text in refused)
        async with serving(opened.pop()):
            await assert_echo(unix)
        refused.clear()


async def test_a_locked_directory_is_waited_for(
    unix: Address, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[ListenerSet] = []
    tries: list[Path] = []
    really_bind = sockets._bind_unix

    def counted(path: Path, mode: int) -> tuple[socket.socket, tuple[int, ...]]:
        tries.append(path)
        return really_bind(path, mode)

    async def start() -> None:
        opened.append(await listen(unix))

    monkeypatch.setattr(sockets, "_bind_unix", counted)
    handle = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH)
        with trio.fail_after(DEADLINE):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(start)
                while len(tries) < 3:
                    await trio.lowlevel.checkpoint()
                assert not opened
                assert not Path(unix.path).exists()
                fcntl.flock(handle, fcntl.LOCK_UN)
    finally:
        os.close(handle)
    async with serving(opened[0]):
        await assert_echo(unix)


async def test_a_directory_locked_for_good_is_an_error(
    unix: Address, directory: Path, autojump_clock: MockClock
) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        start = autojump_clock.current_time()
        with pytest.raises(ConfigurationError, match="locked") as info:
            await open_listeners(unix)
        assert autojump_clock.current_time() - start == pytest.approx(sockets._LOCK_PATIENCE)
        assert str(directory) in str(info.value)
    finally:
        os.close(handle)


# --- connecting to a Unix socket ---


def assert_says(info: pytest.ExceptionInfo[HandshakeError], address: Address, why: str) -> None:
    assert isinstance(info.value, ConnectionError)
    assert str(info.value).startswith(f"cannot connect to {address}: {why}")
    assert "python -m jumpstarter serve" in str(info.value)


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("nothing", "No such file or directory"),
        ("dead", "Connection refused"),
        ("file", "not a socket"),
        ("directory", "not a socket"),
    ],
)
async def test_no_server_at_a_unix_path(unix: Address, kind: str, why: str) -> None:
    path = Path(unix.path)
    if kind == "dead":
        dead_socket(unix.path)
    elif kind == "file":
        path.touch()
    elif kind == "directory":
        path.mkdir()
    with trio.fail_after(DEADLINE), pytest.raises(HandshakeError) as info:
        await open_stream(unix)
    assert_says(info, unix, why)


CONNECT_AS_NOBODY = """
import os, sys, trio
from jumpstarter._io.addresses import parse_address
from jumpstarter._io.sockets import open_stream
from jumpstarter.errors import HandshakeError
os.setgid(65534)
os.setuid(65534)
try:
    trio.run(open_stream, parse_address(sys.argv[1]))
except HandshakeError as exc:
    print(exc)
"""


@AS_ROOT
@pytest.mark.parametrize("directory_mode", [0o755, 0o700])
async def test_another_user_may_not_connect(
    unix: Address, directory: Path, directory_mode: int
) -> None:
    directory.chmod(directory_mode)
    async with serving(await listen(unix)) as accepted:
        command = [sys.executable, "-c", CONNECT_AS_NOBODY, str(unix)]
        with trio.fail_after(DEADLINE):
            done = await trio.run_process(command, capture_stdout=True)
        assert b"Permission denied" in done.stdout
        assert str(unix).encode() in done.stdout
        assert not accepted


def fill_backlog(stack: contextlib.ExitStack, server: socket.socket, path: str) -> None:
    server.listen(0)
    while True:
        client = stack.enter_context(socket.socket(socket.AF_UNIX))
        client.setblocking(False)
        try:
            client.connect(path)
        except BlockingIOError:
            return


@ON_LINUX
async def test_a_full_backlog_is_waited_for(unix: Address) -> None:
    streams: list[SocketStream] = []

    async def connect() -> None:
        streams.append(await open_stream(unix))

    with contextlib.ExitStack() as stack, trio.fail_after(DEADLINE):
        server = stack.enter_context(socket.socket(socket.AF_UNIX))
        server.bind(unix.path)
        fill_backlog(stack, server, unix.path)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connect)
            await wait_all_tasks_blocked()
            assert not streams
            while not streams:
                server.settimeout(0)
                with contextlib.suppress(BlockingIOError):
                    stack.enter_context(server.accept()[0])
                await trio.lowlevel.checkpoint()
        async with streams[0] as stream:
            await stream.send_all(b"truly connected")


@ON_LINUX
async def test_waiting_for_a_backlog_can_be_cancelled(
    unix: Address, autojump_clock: MockClock
) -> None:
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.socket(socket.AF_UNIX))
        server.bind(unix.path)
        fill_backlog(stack, server, unix.path)
        before = open_descriptors()
        with trio.move_on_after(60) as scope:
            await open_stream(unix)
        assert scope.cancelled_caught
        assert open_descriptors() == before
    assert autojump_clock.current_time() >= 60


async def test_opening_is_a_checkpoint(unix: Address) -> None:
    with trio.fail_after(DEADLINE):
        listeners = []
        with trio.testing.assert_checkpoints():
            listeners.append(await listen(unix))
        with trio.testing.assert_checkpoints():
            stream = await open_stream(unix)
        with trio.testing.assert_checkpoints():
            await listeners[0].aclose()
        await stream.aclose()


# --- TCP ---


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.1"])
async def test_tcp_takes_a_free_port_and_reports_it(host: str) -> None:
    listeners = await listen(Address("tcp", host=host))
    assert listeners.address.host == host
    assert listeners.address.port > 0
    async with serving(listeners):
        await assert_echo(listeners.address)


async def test_both_ends_of_tcp_send_small_writes_immediately() -> None:
    with trio.fail_after(DEADLINE):
        async with await listen(Address("tcp", host="127.0.0.1")) as listeners:
            stream = await open_stream(listeners.address)
            accepted = await listeners.listeners[0].accept()
            for end in (stream, accepted):
                assert isinstance(end, trio.SocketStream)
                assert end.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                await end.aclose()


async def test_a_port_in_use_is_refused_and_one_in_time_wait_is_not() -> None:
    listeners = await listen(Address("tcp", host="127.0.0.1"))
    async with serving(listeners) as accepted:
        with pytest.raises(ConfigurationError, match="Address already in use") as info:
            await listen(listeners.address)
        assert str(listeners.address) in str(info.value)
        stream = await open_stream(listeners.address)
        await stream.send_all(b"x")
        await stream.receive_some(1)
        await accepted[0].aclose()  # the end that closes first stays in TIME_WAIT
        assert await stream.receive_some(1) == b""
        await stream.aclose()
    async with serving(await listen(listeners.address)):
        await assert_echo(listeners.address)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "0", "192.0.2.1", "fe80::1%lo"])  # noqa: S104
async def test_cleartext_stays_on_this_machine(host: str) -> None:
    address = Address("tcp", host=host, port=8080)
    with pytest.raises(ConfigurationError) as info:
        await listen(address)
    assert f"cannot listen at {address}" in str(info.value)
    for way_out in ("127.0.0.1", "tls://", "insecure=True"):
        assert way_out in str(info.value)


@pytest.mark.parametrize(
    ("host", "exposed"),
    [("127.0.0.1", False), ("::1", False), ("0.0.0.0", True), ("::", True)],  # noqa: S104
)
async def test_exposed_is_true_if_other_machines_can_connect(host: str, exposed: bool) -> None:
    address = Address("tcp", host=host)
    async with await listen(address, insecure=True) as listeners:
        assert listeners.exposed is exposed


async def test_cleartext_beyond_loopback_if_the_network_is_trusted() -> None:
    listeners = await listen(Address("tcp", host="0.0.0.0"), insecure=True)  # noqa: S104
    async with serving(listeners):
        await assert_echo(dataclasses.replace(listeners.address, host="127.0.0.1"))


class Resolver(trio.abc.HostnameResolver):
    """A name server that answers only once: the first answer must be used."""

    def __init__(self, *hosts: str) -> None:
        self.hosts = list(hosts)

    async def getaddrinfo(  # noqa: PLR0917 - trio's signature
        self,
        host: bytes | None,
        port: bytes | str | int | None,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> list[Any]:
        assert host == b"both.example"
        hosts, self.hosts = self.hosts, []
        flags |= socket.AI_NUMERICHOST
        return [socket.getaddrinfo(each, port, family, type, proto, flags)[0] for each in hosts]

    async def getnameinfo(self, sockaddr: object, flags: int) -> NoReturn:
        raise AssertionError(f"nobody needs the name of {sockaddr} ({flags})")


async def test_a_name_with_one_address_beyond_loopback_is_refused() -> None:
    trio.socket.set_custom_hostname_resolver(Resolver("127.0.0.1", "192.0.2.1"))
    with pytest.raises(ConfigurationError, match=r"192\.0\.2\.1, and"):
        await listen(Address("tcp", host="both.example"))


async def test_every_address_of_a_name_gets_the_same_port() -> None:
    trio.socket.set_custom_hostname_resolver(Resolver("127.0.0.1", "127.0.0.2", "127.0.0.1"))
    listeners = await listen(Address("tcp", host="both.example"))
    assert listeners.address.host == "both.example"
    async with serving(listeners) as accepted:
        for host in ("127.0.0.1", "127.0.0.2"):
            await assert_echo(dataclasses.replace(listeners.address, host=host))
        assert len(accepted) == len(listeners.listeners) == 2


async def test_an_address_that_this_machine_lacks_is_left_out() -> None:
    trio.socket.set_custom_hostname_resolver(Resolver("192.0.2.1", "127.0.0.1"))
    listeners = await listen(Address("tcp", host="both.example"), insecure=True)
    async with serving(listeners):
        await assert_echo(dataclasses.replace(listeners.address, host="127.0.0.1"))


@pytest.mark.parametrize(("collisions", "port"), [(1, 0), (100, 0), (1, 1)])
async def test_free_port_is_chosen_again_if_taken_at_another_address(
    monkeypatch: pytest.MonkeyPatch, collisions: int, port: int
) -> None:
    trio.socket.set_custom_hostname_resolver(Resolver("127.0.0.1", "127.0.0.2"))
    opened: list[listener.SocketListener] = []
    really_bind = listener.bind_tcp

    def sometimes_taken(host: str, _port: int, backlog: int) -> listener.SocketListener:
        nonlocal collisions
        if host == "127.0.0.2" and collisions:
            collisions -= 1
            raise OSError(errno.EADDRINUSE, "Address already in use")
        opened.append(really_bind(host, 0, backlog))
        return opened[-1]

    monkeypatch.setattr(listener, "bind_tcp", sometimes_taken)
    address = Address("tcp", host="both.example", port=port)
    with trio.fail_after(DEADLINE):
        if (collisions, port) == (1, 0):
            async with await listen(address):
                assert [each.socket.fileno() < 0 for each in opened] == [True, False, False]
        else:
            with pytest.raises(ConfigurationError, match="already in use"):
                await listen(address)
            assert len(opened) == (1 if port else 8)
    assert all(each.socket.fileno() < 0 for each in opened)


@pytest.mark.parametrize(
    ("host", "why"),
    [("192.0.2.1", "Choose an address of this machine"), ("nosuch.invalid", "Name or service")],
)
async def test_listening_at_an_address_of_another_machine_fails(host: str, why: str) -> None:
    address = Address("tcp", host=host, port=8080)
    with pytest.raises(ConfigurationError) as info:
        await listen(address, insecure=True)
    assert str(info.value).startswith(f"cannot listen at {address}: ")
    assert why in str(info.value)


async def test_connecting_to_a_port_without_a_server_fails() -> None:
    with socket.socket() as reserved:
        # Bound but not listening: it refuses connections, and no other process can take the port.
        reserved.bind(("127.0.0.1", 0))
        address = Address("tcp", host="127.0.0.1", port=reserved.getsockname()[1])
        with trio.fail_after(DEADLINE), pytest.raises(HandshakeError) as info:
            await open_stream(address)
    assert_says(info, address, "Error connecting to ('127.0.0.1',")
    assert "Connection refused" in str(info.value)


async def test_error_lists_every_failed_address_of_a_name() -> None:
    with socket.socket() as reserved:
        reserved.bind(("0.0.0.0", 0))  # noqa: S104 - never listens
        trio.socket.set_custom_hostname_resolver(Resolver("127.0.0.1", "127.0.0.2"))
        address = Address("tcp", host="both.example", port=reserved.getsockname()[1])
        with trio.fail_after(DEADLINE), pytest.raises(HandshakeError) as info:
            await open_stream(address)
    assert "'127.0.0.1'" in str(info.value)
    assert "'127.0.0.2'" in str(info.value)


async def test_error_names_an_unknown_host() -> None:
    address = Address("tcp", host="nosuch.invalid", port=8080)
    with trio.fail_after(DEADLINE), pytest.raises(HandshakeError) as info:
        await open_stream(address)
    assert str(address) in str(info.value)


@pytest.mark.parametrize("scheme", ["tcp", "tls"])
async def test_port_0_cannot_be_connected_to(scheme: str) -> None:
    with pytest.raises(ArgumentError, match="for listeners only"):
        await open_stream(parse_address(f"{scheme}://127.0.0.1:0"))


# --- TLS ---


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="session")
def server_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)
    return context


@pytest.fixture(scope="session")
def client_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


ANY_TLS = Address("tls", host="localhost")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_tls_carries_bytes_both_ways(
    host: str, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    listeners = await listen(Address("tls", host=host), ssl_context=server_context)
    assert str(listeners.address).startswith(f"tls://{host}:")
    async with serving(listeners) as accepted:
        await assert_echo(listeners.address, client_context)
        assert isinstance(accepted[0], TlsStream)


async def test_tls_may_listen_beyond_loopback(server_context: ssl.SSLContext) -> None:
    address = Address("tls", host="0.0.0.0")  # noqa: S104
    async with await listen(address, ssl_context=server_context) as listeners:
        assert len(listeners.listeners) == 1


async def test_an_unknown_authority_is_refused(server_context: ssl.SSLContext) -> None:
    listeners = await listen(ANY_TLS, ssl_context=server_context)
    async with serving(listeners):
        with pytest.raises(HandshakeError) as info:  # no context: trusts the system's authorities
            await open_stream(listeners.address)
        assert str(listeners.address) in str(info.value)
        assert isinstance(info.value.__cause__, trio.BrokenResourceError)
        assert "certificate. Connect by a name that the certificate has" in str(info.value)


async def test_a_certificate_for_another_host_is_refused(
    authority: trustme.CA, client_context: ssl.SSLContext
) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("elsewhere.example").configure_cert(context)
    listeners = await listen(ANY_TLS, ssl_context=context)
    async with serving(listeners):
        before = open_descriptors()
        with pytest.raises(HandshakeError, match="not valid for 'localhost'"):
            await open_stream(listeners.address, ssl_context=client_context)
        await wait_all_tasks_blocked()  # the server has closed its end too
        assert open_descriptors() == before


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
async def test_error_reports_a_server_without_tls(
    answer: bytes, client_context: ssl.SSLContext
) -> None:
    async def handler(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(answer)
        await stream.aclose()

    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            opened = await nursery.start(trio.serve_tcp, handler, 0)
            address = Address("tls", host="localhost", port=opened[0].socket.getsockname()[1])
            with pytest.raises(HandshakeError, match="Does it listen with tls://") as info:
                await open_stream(address, ssl_context=client_context)
            assert str(address) in str(info.value)
            nursery.cancel_scope.cancel()


async def test_a_handshake_can_be_cancelled(client_context: ssl.SSLContext) -> None:
    async with await listen(Address("tcp", host="127.0.0.1")) as silent:
        address = dataclasses.replace(silent.address, scheme="tls")
        with trio.fail_after(DEADLINE):
            async with trio.open_nursery() as nursery:

                async def connect() -> None:
                    await open_stream(address, ssl_context=client_context)

                nursery.start_soon(connect)
                stream = await silent.listeners[0].accept()
                assert await stream.receive_some()  # the client's part of the handshake
                nursery.cancel_scope.cancel()
            assert await stream.receive_some() == b""
            await stream.aclose()


async def test_closing_tls_never_waits_for_a_silent_peer(server_context: ssl.SSLContext) -> None:
    async with await listen(ANY_TLS, ssl_context=server_context) as listeners:
        silent = dataclasses.replace(listeners.address, scheme="tcp")
        with trio.fail_after(DEADLINE):
            async with await open_stream(silent):
                stream = await listeners.listeners[0].accept()
                await stream.aclose()


async def test_a_cut_tls_connection_ends_as_tcp_does(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    listeners = await listen(ANY_TLS, ssl_context=server_context)
    async with (
        serving(listeners) as accepted,
        await open_stream(listeners.address, ssl_context=client_context) as stream,
    ):
        await stream.send_all(b"x")
        assert await stream.receive_some(1) == b"x"
        assert isinstance(accepted[0], TlsStream)
        await trio.aclose_forcefully(accepted[0].transport_stream)
        assert await stream.receive_some(1) == b""


async def test_a_context_is_for_tls_only(
    unix: Address, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    for address in (unix, Address("tcp", host="127.0.0.1", port=1)):
        with pytest.raises(ConfigurationError, match="not encrypted"):
            await listen(address, ssl_context=server_context)
        with pytest.raises(ConfigurationError, match="not encrypted"):
            await open_stream(address, ssl_context=client_context)


async def test_a_tls_server_needs_its_own_context(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    for wrong in (None, client_context):
        with pytest.raises(ConfigurationError, match="CLIENT_AUTH"):
            await listen(ANY_TLS, ssl_context=wrong)
    with pytest.raises(ConfigurationError, match="SERVER_AUTH"):
        await open_stream(ANY_TLS, ssl_context=server_context)


# --- private paths ---


@pytest.fixture
def runtime(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = directory / "runtime"
    path.mkdir(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(path))
    return path


def use_temporary_directory(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(path))


async def test_private_path_is_accessible_to_its_owner_only_and_removed_afterwards(
    runtime: Path,
) -> None:
    before = os.umask(0)
    try:
        with private_socket_path() as path:
            assert path.parent.parent == runtime
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
            assert not path.exists()
            async with serving(await listen(Address("unix", path=str(path)))):
                await assert_echo(Address("unix", path=str(path)))
    finally:
        os.umask(before)
    assert list(runtime.iterdir()) == []


def test_private_paths_differ(runtime: Path) -> None:
    with private_socket_path() as one, private_socket_path() as other:
        assert one != other
        assert len(list(runtime.iterdir())) == 2


@pytest.mark.parametrize("kind", ["directory", "symlink", "dangling symlink", "file"])
def test_existing_file_at_a_private_path_is_never_used(
    runtime: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Another user has guessed the name: another directory is used, and the file is kept."""
    monkeypatch.setattr(secrets, "token_hex", lambda _: "guessed")
    use_temporary_directory(monkeypatch, runtime.parent)
    trap, target = runtime / "jumpstarter-guessed", runtime / "target"
    if kind == "directory":
        trap.mkdir()
    elif kind == "file":
        trap.touch()
    else:
        trap.symlink_to(target)
    if kind == "symlink":
        target.mkdir()
    before = trap.lstat()
    with private_socket_path() as path:
        assert path.parent == runtime.parent / "jumpstarter-guessed"
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert trap.lstat() == before


@pytest.mark.parametrize("inside", ["error", "removed", "left behind"])
def test_private_directory_is_removed_with_any_content(runtime: Path, inside: str) -> None:
    with contextlib.suppress(KeyError), private_socket_path() as path:
        if inside == "error":
            raise KeyError
        if inside == "removed":
            path.parent.rmdir()
        else:
            dead_socket(str(path))
            (path.parent / "nested").mkdir()
            (path.parent / "nested" / "file").touch()
    assert list(runtime.iterdir()) == []


def test_a_forked_child_leaves_the_directory_alone(runtime: Path) -> None:
    with private_socket_path() as path:
        code = (
            "import os, sys\n"
            "from jumpstarter._io.sockets import private_socket_path\n"
            "with private_socket_path() as path:\n"
            "    child = os.fork()\n"
            "    if not child:\n"
            "        raise SystemExit(3)\n"
            "    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3\n"
            "    assert path.parent.is_dir()\n"
        )
        subprocess.run([sys.executable, "-c", code], check=True, timeout=DEADLINE)
        assert list(runtime.iterdir()) == [path.parent]


@pytest.mark.parametrize(
    "fault", ["unset", "relative", "missing", "file", "symlink", "group may read"]
)
def test_runtime_directory_that_others_can_enter_is_not_used(
    runtime: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    temporary = runtime.with_name("temporary")
    temporary.mkdir()
    use_temporary_directory(monkeypatch, temporary)
    if fault == "unset":
        monkeypatch.delenv("XDG_RUNTIME_DIR")
    elif fault == "relative":
        monkeypatch.chdir(runtime.parent)
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime.name)
    elif fault == "group may read":
        runtime.chmod(0o750)
    else:
        runtime.rmdir()
    if fault == "file":
        runtime.touch(0o700)
    elif fault == "symlink":
        temporary.chmod(0o700)
        runtime.symlink_to(temporary)
    with private_socket_path() as path:
        assert path.parent.parent == temporary


@AS_ROOT
def test_runtime_directory_of_another_user_is_not_used(
    runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_temporary_directory(monkeypatch, runtime.parent)
    os.chown(runtime, 12345, -1)
    with private_socket_path() as path:
        assert path.parent.parent == runtime.parent


def test_shorter_directory_is_used_if_the_path_would_be_too_long(
    runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = runtime / ("x" * MAX_PATH)
    deep.mkdir(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(deep))
    with private_socket_path() as path:
        assert path.parent.parent == Path(tempfile.gettempdir())
    use_temporary_directory(monkeypatch, deep)
    with private_socket_path() as path:
        assert path.parent.parent == Path("/tmp")  # noqa: S108 - the system's directory
        assert len(os.fsencode(path)) <= MAX_PATH
    assert not path.parent.exists()


def test_error_lists_the_directories_tried_for_a_private_path(
    runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, _mode: int) -> NoReturn:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(ConfigurationError) as info, private_socket_path():
        pass
    assert str(runtime) in str(info.value)
    assert "Permission denied" in str(info.value)


# --- peers ---


@ON_LINUX
async def test_both_ends_of_a_unix_socket_know_the_peer(unix: Address) -> None:
    with trio.fail_after(DEADLINE):
        async with await listen(unix) as listeners:
            stream = await open_stream(unix)
            accepted = await listeners.listeners[0].accept()
            ours = (os.getpid(), os.geteuid(), os.getegid())
            assert peer_credentials(stream) == peer_credentials(accepted) == ours
            await stream.aclose()
            assert peer_credentials(accepted) == ours
            await accepted.aclose()
    with pytest.raises(OSError, match="Bad file descriptor"):
        peer_credentials(stream)


@ON_LINUX
@AS_ROOT
async def test_credentials_of_another_user_are_known_even_after_it_closed(unix: Address) -> None:
    with trio.fail_after(DEADLINE):
        async with await listen(unix) as listeners:
            Path(unix.path).chmod(0o666)
            Path(unix.path).parent.chmod(0o755)
            await trio.run_process([sys.executable, "-c", CONNECT_AS_NOBODY, str(unix)])
            async with await listeners.listeners[0].accept() as stream:
                credentials = peer_credentials(stream)
                assert credentials is not None
                assert credentials.uid == 65534


async def test_other_peers_have_no_uid(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    tcp = await listen(Address("tcp", host="127.0.0.1"))
    async with serving(tcp), await open_stream(tcp.address) as stream:
        assert peer_credentials(stream) is None
    tls = await listen(ANY_TLS, ssl_context=server_context)
    async with (
        serving(tls),
        await open_stream(tls.address, ssl_context=client_context) as secure,
    ):
        assert peer_credentials(secure) is None


async def test_a_connection_that_is_made_again_after_a_fork_may_have_been_reset(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with trio.fail_after(DEADLINE), socket.create_server(("127.0.0.1", 0)) as server:
        connect, made = trio.open_tcp_stream, 0

        async def connect_and_be_reset(host: str, port: int) -> trio.SocketStream:
            nonlocal made
            stream = await connect(host, port)
            made += 1
            peer, _ = server.accept()
            if made == 1:
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes([1, *bytes(7)]))
                peer.close()
                with pytest.raises(trio.BrokenResourceError):
                    await stream.receive_some()
                _fork_once()
            peer.close()
            return stream

        monkeypatch.setattr(trio, "open_tcp_stream", connect_and_be_reset)
        stream = await sockets.open_tcp_stream(*server.getsockname())
        assert await stream.receive_some() == b""
        assert made == 2
        await stream.aclose()


def _fork_once() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
