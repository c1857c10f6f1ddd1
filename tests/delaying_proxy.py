"""A TCP proxy that delays all bytes, as a long line does, and can hold back the answers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial

import trio

from jumpstarter.portal import BlockingPortal, start_blocking_portal

__all__ = ["DelayingProxy", "delaying_proxy"]


class DelayingProxy:
    """Forwards connections to a local port. Its methods are for other threads than its own.

    Attributes:
        port: The port to connect to.
    """

    def __init__(self, portal: BlockingPortal, target: int, seconds: float) -> None:
        self._portal = portal
        self._target = target
        self._seconds = seconds
        self._answers = trio.Event()
        self._answers.set()
        _, self.port = portal.start_task(self._serve)

    def hold_answers(self) -> None:
        """Keep what the server sends from now on."""
        self._portal.call(setattr, self, "_answers", trio.Event())

    def release_answers(self) -> None:
        """Pass on what was kept, and all that follows."""
        self._portal.call(self._answers.set)

    async def _serve(self, *, task_status: trio.TaskStatus[int]) -> None:
        async with trio.open_nursery() as nursery:
            serve = partial(trio.serve_tcp, self._connected, 0, host="127.0.0.1")
            listeners = await nursery.start(serve)
            task_status.started(listeners[0].socket.getsockname()[1])

    async def _connected(self, client: trio.SocketStream) -> None:
        server = await trio.open_tcp_stream("127.0.0.1", self._target)
        async with client, server, trio.open_nursery() as nursery:
            nursery.start_soon(self._forward, client, server, False)
            nursery.start_soon(self._forward, server, client, True)

    async def _forward(
        self, source: trio.SocketStream, sink: trio.SocketStream, answers: bool
    ) -> None:
        """Forward one direction. Bytes are under way concurrently, each for the same time."""
        under_way, arriving = trio.open_memory_channel[tuple[float, bytes]](10_000)

        async def read() -> None:
            async with under_way:
                async for data in source:
                    await under_way.send((trio.current_time() + self._seconds, bytes(data)))

        with suppress(OSError, trio.BrokenResourceError):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read)
                async for due, data in arriving:
                    await trio.sleep_until(due)
                    if answers:
                        await self._answers.wait()
                    await sink.send_all(data)
                await sink.send_eof()


@contextmanager
def delaying_proxy(target: int, seconds: float) -> Iterator[DelayingProxy]:
    """Run a proxy, for the length of a block.

    Args:
        target: The local port that it forwards to.
        seconds: How long each byte is under way, in either direction.
    """
    with start_blocking_portal(name="proxy") as portal:
        yield DelayingProxy(portal, target, seconds)
