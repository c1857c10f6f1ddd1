"""The library's clients in everyday situations: a call while other things go on.

The *company* of a call is one of

    quiet     nothing else is open
    open      a console is open, says nothing, and is not being read
    read      the same, and another thread or task waits for it to say something
    chatter   a console says 1 MB/s in pieces of 1 KiB, and another thread or task reads them
    chunks    the same in pieces of 64 KiB
"""

from __future__ import annotations

import functools
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Final

import trio

import jumpstarter
from jumpstarter.client import BlockingStream, DriverClient

from .certificates import address_at, certificate_of
from .ends import on_trio
from .loops import repeat, repeat_timed
from .payloads import CHATTER, VALUE, encode_order
from .worker import rounds

__all__ = [
    "async_call",
    "blocking_call",
    "blocking_call_as",
    "blocking_call_over_tls",
    "blocking_call_timed",
]

_SAYS: Final = {**dict.fromkeys(CHATTER, "console"), "open": "bytes_back", "read": "bytes_back"}
_OFF: Final = encode_order(0)


def _on(company: str) -> bytes:
    """Return what switches the console of such a company on."""
    return encode_order(CHATTER.get(company, 0))


@contextmanager
def _company(client: DriverClient, company: str) -> Iterator[Callable[[bytes], object]]:
    """Keep a blocking call company while the block runs. Yields what switches a console."""
    if company == "quiet":
        yield bool
        return
    with client.open_stream(_SAYS[company]) as stream:
        if company == "open":
            yield bool
            return
        reader = threading.Thread(target=_read, args=(stream,))
        reader.start()
        yield stream.send if company in CHATTER else bool
        stream.close()
        reader.join()


def _read(stream: BlockingStream) -> None:
    with suppress(trio.ClosedResourceError):  # the rounds are over
        while stream.receive():
            pass


def blocking_call(path: str, method: str, company: str = "quiet") -> None:
    with (
        jumpstarter.connect(f"unix:{path}") as client,
        _company(client, company) as switch,
    ):
        for count in rounds():
            switch(_on(company))
            for _ in range(count):
                client.call(method, VALUE)
            switch(_OFF)


def blocking_call_as(path: str, method: str) -> None:
    with jumpstarter.connect(f"unix:{path}") as client:
        repeat(functools.partial(client.call_as, bytes, method, VALUE))


def blocking_call_timed(path: str, method: str, beside: str = "nothing") -> None:
    with jumpstarter.connect(f"unix:{path}") as client:
        repeat_timed(functools.partial(client.call, method, VALUE), beside)


def blocking_call_over_tls(path: str, method: str) -> None:
    context = ssl.create_default_context(cafile=certificate_of(path))
    with jumpstarter.connect(address_at(path), ssl_context=context) as client:
        repeat(functools.partial(client.call, method, VALUE))


@asynccontextmanager
async def _company_async(
    client: DriverClient, company: str
) -> AsyncIterator[Callable[[bytes], Awaitable[object]]]:
    """Keep an async call company while the block runs. Yields what switches a console."""
    if company == "quiet":
        yield _switch_nothing
        return
    async with client.stream_async(_SAYS[company]) as stream, trio.open_nursery() as nursery:
        if company != "open":
            nursery.start_soon(_read_async, stream)
        yield stream.send_all if company in CHATTER else _switch_nothing
        nursery.cancel_scope.cancel()


async def _switch_nothing(_to: bytes) -> None:
    pass


async def _read_async(stream: trio.abc.ReceiveStream) -> None:
    async for _ in stream:
        pass


@on_trio
async def async_call(path: str, method: str, company: str = "quiet") -> None:
    async with (
        jumpstarter.connect_async(f"unix:{path}") as client,
        _company_async(client, company) as switch,
    ):
        for count in rounds():
            await switch(_on(company))
            for _ in range(count):
                await client.call_async(method, VALUE)
            await switch(_OFF)
