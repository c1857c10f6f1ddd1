"""Handles hostile bytes under an audit hook, and prints what the hook has seen. Not a test.

A hook cannot be removed, so test_audit.py runs this in a process of its own:

python script_audit.py {exporter | client}
"""

from __future__ import annotations

import builtins
import json
import logging
import marshal
import os
import pickle
import random
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import trio
import trio.testing

from drivers_for_tests import Echo
from jumpstarter import Limits
from jumpstarter._api.connecting import ask_for_report
from jumpstarter._exporter.context import ServerContext
from jumpstarter._exporter.executor import DriverExecutor
from jumpstarter._exporter.session import Session
from jumpstarter._exporter.tree import DeviceTree
from jumpstarter._framing import HEADER_SIZE, FrameDecoder
from jumpstarter._protocol.codec import call_prefix, encode_call
from jumpstarter._protocol.frames import ErrorBody, FrameType, Kind
from jumpstarter._util.background import open_background
from jumpstarter.client import DriverClient
from jumpstarter.client._channel import Channel
from jumpstarter.client._tree import build_tree
from jumpstarter.driver import Driver
from jumpstarter.errors import JumpstarterException
from raw_exporter import error, hello, in_parts, node, result
from specification import EXCHANGES, VECTORS, Exchange, unhex
from wire import frame, payload, value

# Code, files, processes and other machines: nothing of this happens because a peer has said so.
WATCHED: Final = (
    *("import", "exec", "compile", "open", "code.", "cpython.", "ctypes.", "glob."),
    *(
        "marshal.",
        "os.",
        "pickle.",
        "pty.",
        "shutil.",
        "signal.",
        "socket.connect",
        "socket.getadd",
    ),
    *("subprocess.", "sys.addaudithook", "sys.set", "sys.unraisable", "tempfile.", "urllib."),
)
MUTANTS: Final = 2400
LIMITS: Final = Limits(cancel_grace=0, linger=0)
NAMES: Final = sorted(
    {*dir(object), *dir(type), *dir(Driver), *dir(DriverClient), *dir(builtins)}
    | {"os.system", "echo.__globals__", "__import__('os')", "a.b\nc", "*", "../x", "x" * 255, "%s"}
)
# None of them is allowed, or none has to be imported.
PATHS: Final = (
    *("os.system", "canary.Client", "a.b\nc", "*", "", "x" * 5000, "builtins.exec", "pickle.loads"),
    *("jumpstarter.client.DriverClient", "jumpstarter.errors.DriverError", "jumpstarter.*"),
    *("jumpstarter.client.__class__", "jumpstarter.client.os.system", "__main__.Audit"),
)
BODIES: Final = (
    *(b"", b"\xc1", b"\xa1\xff", b"\x90\x90", b"\xdd\xff\xff\xff\xff", b"\x91" * 1000 + b"\x90"),
    *(b"\x91\xc7\x08\x00cos\nsys\n", b"\x91\xd6\xff\0\0\0\0", b"\x91\x81\xcb" + bytes(8) + b"\1"),
    b"\x91\xc4\x0e" + pickle.dumps(0)[:2] + b"cos\nsystem\n.",
    b"\x91" + payload(value("__import__('os').system('true')")),
    b"\x91\x81\xa9__class__\xa9os.system",
)


class Audit:
    """What the hook has seen while it was watching."""

    def __init__(self) -> None:
        self.watching = False
        self.seen: list[str] = []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, args: tuple[object, ...]) -> None:
        if self.watching and event.startswith(WATCHED):
            self.watching = False  # to describe it may cause others
            self.seen.append(f"{event} {str(args)[:200]}")
            self.watching = True

    def take(self) -> list[str]:
        self.watching = False
        taken, self.seen = self.seen, []
        return taken


# ------------------------------------------------------------------------------- hostile bytes


def said_by(side: str, exchange: Exchange) -> bytes:
    """Give all that one side says in an exchange of the vectors."""
    before = said_by(side, EXCHANGES[exchange.after]) if exchange.after else b""
    steps = (step for step in exchange.steps if step.side == side)
    return before + b"".join(unhex(text) for step in steps for text in step.bytes)


def of_the_vectors(side: str) -> Iterator[bytes]:
    """Give what the vectors let one side say, right and wrong."""
    other = {"client": "server", "server": "client"}[side]
    greeting = said_by(side, EXCHANGES["HELLO"])
    for exchange in VECTORS.exchanges:
        yield said_by(side, exchange)
    for breach in VECTORS.breaches:
        if breach.to == other:
            before = said_by(side, EXCHANGES[breach.after]) if breach.after else b""
            yield before + unhex(breach.bytes)
    for vector in VECTORS.frames:
        yield greeting + unhex(vector.bytes)


def mutants(corpus: Sequence[bytes], seed: int) -> Iterator[bytes]:
    """Spoil what stands in a corpus, anew each time, the greeting seldom."""
    draw = random.Random(seed)
    for _ in range(MUTANTS):
        data = bytearray(draw.choice(corpus))
        for _ in range(draw.randrange(1, 6)):
            at = draw.randrange(len(data)) if data else 0
            at = max(at, min(60, len(data) - 1)) if draw.random() < 0.9 else at
            match draw.randrange(4):
                case 0:
                    data[at : at + 1] = draw.randbytes(1)
                case 1:
                    data[at : at + draw.randrange(8)] = b""
                case 2:
                    data[at:at] = draw.randbytes(draw.randrange(1, 9))
                case _:
                    data += data[at:]
        yield bytes(data)


def calls() -> Iterator[bytes]:
    """Give CALLs of all sorts, behind a greeting."""
    greeting = said_by("client", EXCHANGES["HELLO"])
    for name in NAMES:
        for kind in Kind:
            yield greeting + frame(
                FrameType.CALL, 1, payload(encode_call(call_prefix(1, kind, name), (1,)))
            )
    counting = encode_call(call_prefix(1, Kind.GENERATOR, "count_async"), (3,))
    yield greeting + frame(FrameType.CALL, 1, payload(counting))
    for name, kind in zip(("echo_async", "count_async", "connect"), Kind, strict=True):
        head = payload(encode_call(call_prefix(1, kind, name), ()))[:-1]
        for body in BODIES:
            yield greeting + frame(FrameType.CALL, 1, head + body)


def answers() -> Iterator[bytes]:
    """Give answers of all sorts to the CALL in slot 1."""
    for name in NAMES:
        for code in (2, 3, 20):
            member = ErrorBody(name, name)
            yield error(1, code, ErrorBody(name, name, [name], name, [(code, member)] * 2))
    for body in BODIES:
        yield frame(FrameType.RESULT, 1, body)
        yield frame(FrameType.ITEM, 1, body) + result(1)
        yield frame(FrameType.ACCEPT, 1, body) + frame(FrameType.DATA, 1, body or b"x")
        yield frame(FrameType.ERROR, 1, struct.pack("<H", 20) + body)


# ------------------------------------------------------------------------------ the two sides


def cut(data: bytes) -> tuple[bytes, bytes]:
    """Give what may be a HELLO, and what follows it."""
    end = HEADER_SIZE + data[0] if data[3:4] == b"\0" else 0
    return data[:end], data[end:]


OUTCOMES: Final[Counter[str]] = Counter()  # frames that came back, or what clients have raised


async def read(stream: trio.abc.ReceiveStream) -> None:
    async for _ in stream:
        pass


async def count_frames(stream: trio.abc.ReceiveStream) -> None:
    decoder = FrameDecoder(2**24 - 1)
    async for data in stream:
        OUTCOMES.update(FrameType(type_).name for type_, *_ in decoder.feed(data))


async def to_an_exporter(inputs: Sequence[bytes]) -> None:
    """Send each input to a session of its own."""
    exporter = ServerContext(DeviceTree(Echo()), DriverExecutor(), limits=LIMITS)
    for data in inputs:
        ours, theirs = trio.testing.memory_stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Session(exporter, theirs, "hostile").run)
            nursery.start_soon(count_frames, ours)
            greeting, rest = cut(data)
            await ours.send_all(greeting)
            await trio.testing.wait_all_tasks_blocked()  # a client waits for the other HELLO
            with suppress(trio.BrokenResourceError):  # the session has had enough
                await ours.send_all(rest)
                await trio.testing.wait_all_tasks_blocked()  # what can be answered is
                await ours.send_eof()


async def to_a_client(answer: bytes, report: bytes, greeting: bytes) -> None:
    """Give a client a greeting, a device tree and an answer to what it calls, and hang up."""
    ours, theirs = trio.testing.memory_stream_pair()

    async def exporter() -> None:
        with suppress(trio.BrokenResourceError):  # the client has had enough
            for said in (greeting, report, answer):
                await theirs.receive_some()
                await theirs.send_all(said)
            await theirs.send_eof()
            await read(theirs)

    async with open_background() as nursery:
        nursery.start_soon(exporter)
        channel = Channel(ours, "hostile", limits=LIMITS)
        try:
            await channel.begin(nursery)
            client = build_tree(await ask_for_report(channel), channel)
            await use(client, answer)
        except (JumpstarterException, trio.BrokenResourceError) as exc:
            OUTCOMES[type(exc).__name__] += 1
        else:
            OUTCOMES["a value"] += 1
            client.close()
        await channel.aclose()


async def use(client: DriverClient, answer: bytes) -> None:
    """Call in the way in which the answer may be one."""
    match answer[3] & 15 if len(answer) > HEADER_SIZE else 0:
        case FrameType.ITEM:
            async for _ in client.streamingcall_async("m"):
                pass
        case FrameType.ACCEPT | FrameType.DATA:
            async with client.stream_async("m") as stream:
                await read(stream)
        case _:
            await client.call_async("m")


REPORT: Final = in_parts(FrameType.RESULT, 1, payload(value([node()])))


async def to_clients(inputs: Sequence[bytes]) -> None:
    """Give each input to a client: as an answer if it begins with none of the greetings."""
    for data in inputs:
        greeting, rest = cut(data)
        if greeting:
            await to_a_client(rest, REPORT, greeting)
        await to_a_client(data, REPORT, hello())
    for path in PATHS:
        report = in_parts(FrameType.RESULT, 1, payload(value([node(client=path)])))
        await to_a_client(result(1), report, hello())


# ------------------------------------------------------------------------------- the control


def misdeeds() -> None:
    """Do each of the things that the hook is to see."""
    with suppress(ImportError):
        __import__("there_is_no_such_module")
    exec(compile("pass", "<control>", "exec"))  # noqa: S102 - this is what must not happen
    Path(os.devnull).read_bytes()
    pickle.loads(b"cos\ngetpid\n.")  # noqa: S301
    marshal.loads(marshal.dumps(1))  # noqa: S302
    os.system("true")  # noqa: S605, S607
    subprocess.run([sys.executable, "-c", ""], timeout=60, check=True)


async def main(side: str) -> dict[str, Any]:
    logging.disable(logging.ERROR)  # where a log shows a traceback, Python reads the source for it
    audit = Audit()
    feed: Callable[[Sequence[bytes]], Awaitable[None]]
    if side == "exporter":
        feed, own = to_an_exporter, [*of_the_vectors("client"), *calls()]
        good = said_by("client", EXCHANGES["HELLO"]) + frame(
            FrameType.CALL, 1, payload(encode_call(call_prefix(1, Kind.UNARY, "echo"), (1,)))
        )
    else:
        feed, own, good = to_clients, [*of_the_vectors("server"), *answers()], result(1)
    inputs = [*own, *mutants(own, seed=4)]
    await feed([good])  # what the first use of anything imports, a good peer's use imports
    audit.watching = True
    await feed(inputs)
    seen = audit.take()
    audit.watching = True
    misdeeds()
    return {"inputs": len(inputs), "outcomes": OUTCOMES, "seen": seen, "control": audit.take()}


if __name__ == "__main__":
    # A client that is told of a deadline waits for its own; an exporter's threads take real time.
    clock = trio.testing.MockClock(autojump_threshold=0) if sys.argv[1] == "client" else None
    print(json.dumps(trio.run(main, sys.argv[1], clock=clock)))
