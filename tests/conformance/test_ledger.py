"""Tests that the outcomes a client receives are true, however its exporter ends.

Every operation has an id, which the driver appends to a file before it answers. Meanwhile the test
kills the exporter, stops it for a while, or drains it, at a random moment of a mixed load. Then the
test compares the two records: no operation was executed twice, every acknowledged operation was
executed, no refused operation was executed, and every operation has an outcome.

`LEDGER_ROUNDS` sets how many exporters have to die (200 by default), and `LEDGER_SEED` sets the
seed for how they die (a random one by default). The test prints the seed.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import trio

from jumpstarter import connect_async
from jumpstarter.client import DriverClient
from jumpstarter.errors import CallCancelled, CallOutcomeUnknown, CallRefused, HandshakeError
from processes import running

ROUNDS = int(os.environ.get("LEDGER_ROUNDS", "200"))
SEED = int(os.environ.get("LEDGER_SEED", str(random.SystemRandom().randrange(10**6))))
PATIENCE = 60.0  # seconds for a round, which takes a tenth of a second
SCRIPT = Path(__file__).with_name("script_ledger.py")


class Story:
    """The operations that the clients attempted, and the outcomes that they received."""

    def __init__(self) -> None:
        self.attempted = 0
        self.outcome: dict[str, str] = {}

    def attempt(self) -> str:
        self.attempted += 1
        return f"op{self.attempted}"


class Exporters:
    """Starts exporters in forks of the script's process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def start(self, socket: Path, ledger: Path) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{socket} {ledger}\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


@pytest.fixture
def exporters(library: str) -> Iterator[Exporters]:
    command = [sys.executable, str(SCRIPT), library]
    seconds = 60.0 + ROUNDS * PATIENCE
    pipe = subprocess.PIPE
    with running(command, seconds=seconds, stdin=pipe, stdout=pipe) as process:
        yield Exporters(process)
        assert process.stdin is not None
        process.stdin.close()
        process.wait(PATIENCE)


async def call(client: DriverClient, story: Story, operation: str) -> None:
    assert await client.call_async("note", operation) == operation
    story.outcome[operation] = "acknowledged"


async def call_in_thread(client: DriverClient, story: Story, operation: str) -> None:
    assert await client.call_async("note_in_thread", operation) == operation
    story.outcome[operation] = "acknowledged"


async def iterate(client: DriverClient, story: Story, operation: str) -> None:
    async with client.streamingcall_async("note_items", operation, 20) as items:
        async for item in items:
            story.outcome[item] = "acknowledged"
    story.outcome[operation] = "over"


async def talk(client: DriverClient, story: Story, operation: str) -> None:
    async with client.stream_async("note_stream") as stream:
        for number in range(5):
            line = f"{operation}.{number}\n".encode()
            await stream.send_all(line)
            answer = b""
            while answer != line:
                answer += await stream.receive_some()
            story.outcome[f"{operation}.{number}"] = "acknowledged"
    story.outcome[operation] = "over"


KINDS: list[Callable[[DriverClient, Story, str], Awaitable[None]]] = [
    call,
    call_in_thread,
    iterate,
    talk,
]


async def load(client: DriverClient, story: Story, chance: random.Random) -> None:
    """Run random operations one after another until the exporter is lost."""
    while True:
        operation = story.attempt()
        try:
            await chance.choice(KINDS)(client, story, operation)
        except CallRefused:
            story.outcome[operation] = "refused"
            return
        except (CallOutcomeUnknown, CallCancelled, trio.BrokenResourceError):
            story.outcome[operation] = "unknown"
            return


async def end(exporter: int, chance: random.Random) -> None:
    """Kill, stop or drain an exporter at a random moment; it ends in every case."""
    await trio.sleep(chance.uniform(0, 0.05))
    match chance.choice(["kill", "stop", "stop and kill", "drain", "drain and kill"]):
        case "stop":
            os.kill(exporter, signal.SIGSTOP)
            await trio.sleep(chance.uniform(0, 0.03))
            os.kill(exporter, signal.SIGCONT)
            await trio.sleep(chance.uniform(0, 0.03))
        case "stop and kill":
            os.kill(exporter, signal.SIGSTOP)
            await trio.sleep(chance.uniform(0, 0.03))
        case "drain":
            os.kill(exporter, signal.SIGTERM)
            return
        case "drain and kill":
            os.kill(exporter, signal.SIGTERM)
            await trio.sleep(chance.uniform(0, 0.005))
    os.kill(exporter, signal.SIGKILL)


async def one_round(
    exporters: Exporters, directory: Path, story: Story, chance: random.Random
) -> None:
    socket = directory / "socket"
    exporter = exporters.start(socket, directory / "ledger")
    try:
        async with connect_async(f"unix:{socket}") as client, trio.open_nursery() as nursery:
            nursery.start_soon(end, exporter, chance)
            for _ in range(8):
                nursery.start_soon(load, client, story, chance)
    except* HandshakeError:
        pass  # the exporter ended before the client made a call


@pytest.mark.parametrize(("library", "rounds"), [("trio", ROUNDS), ("asyncio", ROUNDS // 4)])
async def test_what_a_client_was_told_is_what_has_happened(
    exporters: Exporters, tmp_path: Path, rounds: int
) -> None:
    print(f"LEDGER_SEED={SEED}")
    chance = random.Random(SEED)
    story = Story()
    (tmp_path / "ledger").touch()
    for _ in range(rounds):
        with trio.fail_after(PATIENCE):
            await one_round(exporters, tmp_path, story, chance)

    executed = Counter((tmp_path / "ledger").read_text().splitlines())
    told = Counter(story.outcome.values())
    print(f"{story.attempted} attempted, {len(executed)} executed, told: {dict(told)}")

    assert [name for name, times in executed.items() if times > 1] == []
    acknowledged = {name for name, outcome in story.outcome.items() if outcome == "acknowledged"}
    assert acknowledged - executed.keys() == set()
    refused = {name for name, outcome in story.outcome.items() if outcome == "refused"}
    assert {name for name in executed if name.split(".")[0] in refused} == set()
    attempted = {f"op{number}" for number in range(1, story.attempted + 1)}
    assert attempted - story.outcome.keys() == set()  # every operation has an outcome
    assert {name.split(".")[0] for name in executed} <= attempted
    # The test proves nothing unless each outcome occurs often enough.
    assert min(told["acknowledged"], told["refused"], told["unknown"]) > rounds / 10
