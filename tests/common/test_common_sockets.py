"""Test the listeners of `jumpstarter.common` in both kinds of loops."""

from __future__ import annotations

import socket
import stat
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest
from anyio.abc import SocketStream

from helpers import PATIENCE
from jumpstarter.common import TemporarySocket, TemporaryTcpListener, TemporaryUnixListener

each_loop = pytest.mark.parametrize("loop", ["trio", "asyncio"])


def run(loop: str, main: Callable[[], Awaitable[Any]]) -> Any:
    """Run a function in a loop of this kind, with a deadline."""

    async def in_time() -> Any:
        with anyio.fail_after(30):
            return await main()

    return anyio.run(in_time, backend=loop)


async def shout(stream: SocketStream) -> None:
    """Return what the peer says, in capitals."""
    async for data in stream:
        await stream.send(data.upper())


async def ask(stream: SocketStream) -> bytes:
    async with stream:
        await stream.send(b"hello")
        await stream.send_eof()
        return b"".join([data async for data in stream])


@each_loop
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_tcp_listener_calls_its_handler_with_each_connection(loop: str, host: str) -> None:
    async def main() -> None:
        async with TemporaryTcpListener(shout, local_host=host) as address:
            assert isinstance(address, tuple)
            for _ in range(2):
                assert await ask(await anyio.connect_tcp(*address[:2])) == b"HELLO"
        with pytest.raises(OSError, match="connect"):
            await anyio.connect_tcp(*address[:2])

    run(loop, main)


@each_loop
def test_a_unix_listener_is_private_and_removed_at_the_end(loop: str, tmp_path: Path) -> None:
    async def main() -> None:
        for path in (None, tmp_path / "socket"):
            async with TemporaryUnixListener(shout, path) as where:
                assert stat.S_IMODE(where.stat().st_mode) == 0o600
                assert where == (path or where)
                assert await ask(await anyio.connect_unix(where)) == b"HELLO"
            assert not where.exists()

    run(loop, main)


@each_loop
def test_a_handler_that_fails_is_logged_and_the_others_go_on(
    loop: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail_or_shout(stream: SocketStream) -> None:
        if await stream.receive(1) == b"!":
            raise ZeroDivisionError
        await stream.send(b"fine")
        await stream.receive()

    async def main() -> None:
        async with TemporaryTcpListener(fail_or_shout) as (host, port):
            good = await anyio.connect_tcp(host, port)
            await good.send(b"?")
            async with await anyio.connect_tcp(host, port) as bad:
                await bad.send(b"!")
                with pytest.raises(anyio.EndOfStream):
                    await bad.receive()
            assert await good.receive() == b"fine"
            await good.aclose()
        assert "ZeroDivisionError" in caplog.text

    run(loop, main)


@each_loop
def test_the_end_of_the_block_cancels_handlers_and_its_exception_is_alone(loop: str) -> None:
    ended = []

    async def wait(stream: SocketStream) -> None:
        try:
            await stream.receive()
        finally:
            ended.append(stream)

    async def main() -> None:
        async with TemporaryUnixListener(wait) as path, await anyio.connect_unix(path):
            await anyio.wait_all_tasks_blocked()
            raise ZeroDivisionError

    with pytest.raises(ExceptionGroup) as caught:
        run(loop, main)
    assert [type(each) for each in caught.value.exceptions] == [ZeroDivisionError]
    assert len(ended) == 1


# anyio 4.4 leaves the socket that it could not bind to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_port_in_use_is_refused() -> None:
    async def main() -> None:
        async with TemporaryTcpListener(shout) as (_, port):
            with pytest.raises(OSError, match="in use"):
                async with TemporaryTcpListener(shout, local_port=port):
                    raise AssertionError

    run("trio", main)


def test_a_listener_works_in_a_portal_of_anyio() -> None:
    with (
        anyio.from_thread.start_blocking_portal() as portal,
        portal.wrap_async_context_manager(TemporaryTcpListener(shout)) as address,
        socket.create_connection(address[:2], PATIENCE) as peer,
    ):
        peer.sendall(b"hello")
        assert peer.recv(5, socket.MSG_WAITALL) == b"HELLO"


def test_a_temporary_socket_is_a_path_in_a_private_directory() -> None:
    with TemporarySocket() as path:
        assert not path.exists()
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert not path.parent.exists()


def test_the_package_imports_anyio_only_for_a_listener() -> None:
    script = (
        "import sys, jumpstarter.common as c; before = 'anyio' in sys.modules; "
        "c.TemporaryTcpListener; print(before, 'anyio' in sys.modules, hasattr(c, 'nothing'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    assert done.stdout == "False True False\n"
