"""Record a console for minutes while all that can happen to it happens: `make soak-console`.

A board says a boot log into a pseudo-terminal, by default 1 MB/s, which a `RecordedConsole` in an
exporter of its own records into its buffer and a file. Meanwhile

- the board is power-cycled: it is silent for a while, in the middle of a line;
- its adapter is unplugged and plugged in again: the pseudo-terminal is closed, and a new one has
  its name, into which the board speaks before the exporter has opened it;
- eight watchers come and go, each with a connection of its own. They begin at the present end, at
  the oldest byte that is kept, or a part back, and one of them is slow.

The offset determines what the board says there, so each byte that a watcher gets is compared. In
the end, the buffer and the file must have every byte that the board said.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import tty
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import PIPE
from typing import Final

import trio

from exporter_process import ExporterProcess
from jumpstarter import connect_async
from jumpstarter.drivers.console import ConsoleClient, ConsoleMark
from processes import running

__all__ = ["Plan", "Result", "console_output", "soak"]

WATCHERS: Final = 8
PATIENCE: Final = 60.0  # seconds for what takes a few milliseconds, on a busy machine
# A prime number of bytes, so that lines with the same number modulo a power of two differ.
_WORDS: Final = ("eth0: link up, mmc1: new high speed SDHC card, Run /sbin/init, " * 40)[:1009]
_LINE: Final = 96  # bytes
_STAMP: Final = len("2026-11-29T22:13:17.123Z ")


def console_output(start: int, end: int) -> bytes:
    """Return what the board says between two offsets."""
    first, last = start // _LINE, -(-end // _LINE)
    text = "".join(_line(number) for number in range(first, last))
    return text.encode()[start - first * _LINE : end - first * _LINE]


def _line(number: int) -> str:
    text = f"[{number:14d}] {_WORDS[number % 1009 :]}{_WORDS}"
    return f"{text[: _LINE - 2]}\r\n"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What happens.

    Attributes:
        seconds: How long the board speaks, at least.
        cycles: How often it is power-cycled or unplugged, at least.
        rate: How many bytes it says in a second.
        buffer_size: That of the console.
        seed: Of all that is random.
    """

    seconds: float = 0.0
    cycles: int = 0
    rate: float = 1e6
    buffer_size: int = 4 * 1024 * 1024
    seed: int = 0


@dataclass(kw_only=True)
class Result:
    """What has happened.

    Attributes:
        said: Bytes that the board has said.
        seconds: How long it took.
        cycles: How often the board was power-cycled.
        plugs: How often its adapter was plugged in again.
        sessions: How many connections each watcher has had.
        watched: Bytes that all watchers have got and compared.
        missed: Bytes that they were told they have missed.
        kept: Bytes of the buffer that were compared in the end.
        filed: Bytes of the file that were compared in the end.
    """

    said: int = 0
    seconds: float = 0.0
    cycles: int = 0
    plugs: int = 0
    sessions: list[int] = field(default_factory=lambda: [0] * WATCHERS)
    watched: int = 0
    missed: int = 0
    kept: int = 0
    filed: int = 0


class _Soak:
    """One run."""

    def __init__(self, plan: Plan, directory: Path) -> None:
        self.plan = plan
        self.result = Result()
        self.socket = directory / "socket"
        self._random = random.Random(plan.seed)
        self._port = directory / "port"
        self._end = -1  # the board's end of the pseudo-terminal
        self._control: ConsoleClient
        self._all_have_watched = trio.Event()

    # ------------------------------------------------------------------------------ the board

    def plug(self) -> None:
        """Make a pseudo-terminal, in raw mode before anything is said to it."""
        self._end, port = os.openpty()
        os.set_blocking(self._end, False)
        tty.setraw(port)
        self._port.symlink_to(os.ttyname(port))
        os.close(port)

    def unplug(self) -> None:
        """Remove it, as the system does for an adapter."""
        self._port.unlink()
        os.close(self._end)
        self._end = -1

    async def _say(self, size: int) -> None:
        begin, rate, said = trio.current_time(), self.plan.rate, 0
        while said < size:
            offset = self.result.said
            data = console_output(offset, offset + min(16_384, size - said))
            while data:
                await trio.lowlevel.wait_writable(self._end)
                with suppress(BlockingIOError):
                    count = os.write(self._end, data)
                    data, said, self.result.said = data[count:], said + count, offset + count
                    offset += count
            pause = begin + said / rate - trio.current_time()
            await trio.sleep(max(0, pause))

    async def _until_recorded(self) -> None:
        """Wait until the exporter has read all that was said: closing a port discards the rest."""
        with trio.fail_after(PATIENCE):
            async with self._control.watch_async(last=1) as items:
                async for item in items:
                    if item.end == self.result.said:
                        return

    async def _speak(self) -> None:
        """Speak, with interruptions, until the plan is fulfilled, and end with a line."""
        begin = trio.current_time()
        count = 0
        while count < self.plan.cycles or trio.current_time() < begin + self.plan.seconds:
            await self._say(self._random.randrange(1, self._burst()))
            if self._random.random() < 0.5:
                self.result.cycles += 1
                await trio.sleep(self._random.random() / 4)
            else:
                await self._until_recorded()
                mark = await self._control.mark_async()
                self.unplug()
                if self._random.random() < 0.5:
                    await self._until_gone(mark)
                self.plug()
                self.result.plugs += 1
            count += 1
        await self._say(-self.result.said % _LINE + _LINE)
        await self._until_recorded()
        self.result.seconds = trio.current_time() - begin

    def _burst(self) -> int:
        """Return how many bytes come between two interruptions, at most."""
        return int(min(4 * self.plan.rate, self.plan.buffer_size))

    async def _until_gone(self, mark: ConsoleMark) -> None:
        with trio.fail_after(PATIENCE):
            async with self._control.watch_async(since=mark) as items:
                async for item in items:
                    if item.event is not None and not item.event.present:
                        return

    # --------------------------------------------------------------------------- the watchers

    async def _watch_again_and_again(self, number: int) -> None:
        choice = random.Random(f"{self.plan.seed} {number}")
        while True:
            goal = choice.randrange(1, self._burst()) if self.result.sessions[number] else 1
            async with connect_async(f"unix:{self.socket}") as root:
                await self._watch(root.children["console"], choice, goal, slow=number == 0)
            self.result.sessions[number] += 1
            if all(self.result.sessions):
                self._all_have_watched.set()

    async def _watch(self, console: object, choice: random.Random, goal: int, slow: bool) -> None:
        """Watch until so many bytes have come, and compare them."""
        assert isinstance(console, ConsoleClient)
        first = goal == 1
        kind = 0 if first else choice.randrange(3)
        begin = ({"since": 0}, {}, {"last": choice.randrange(100_000)})[kind]
        end, got = 0 if kind == 0 else -1, 0
        async with console.watch_async(**begin) as items:  # type: ignore[arg-type]
            async for item in items:
                assert end in {-1, item.offset - item.missed}, "bytes are missing silently"
                assert item.data == console_output(item.offset, item.end), f"at {item.offset}"
                self.result.missed += item.missed if got else 0  # not what came before it began
                end, got = item.end, got + len(item.data)
                self.result.watched += len(item.data)
                if got >= goal:
                    return
                if slow:
                    await trio.sleep(0.3)

    # ------------------------------------------------------------------------------- together

    async def run(self) -> None:
        """Let it all happen, and compare what the buffer has in the end."""
        async with (
            connect_async(f"unix:{self.socket}") as root,
            trio.open_nursery() as nursery,
        ):
            control = root.children["console"]
            assert isinstance(control, ConsoleClient)
            self._control = control
            for number in range(WATCHERS):
                nursery.start_soon(self._watch_again_and_again, number)
            await self._speak()
            with trio.fail_after(PATIENCE):
                await self._all_have_watched.wait()
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True), trio.fail_after(PATIENCE):
                await self._check_end(control)

    async def _check_end(self, control: ConsoleClient) -> None:
        status = await control.status_async()
        assert status.end == self.result.said, status
        assert status.log_lost == 0, status
        kept = await control.tail_async(self.plan.buffer_size)
        assert kept == console_output(status.start, status.end), "the buffer differs"
        self.result.kept = len(kept)


def soak(plan: Plan, directory: Path) -> Result:
    """Record a console in an exporter of its own, and compare the record.

    Args:
        plan: What happens.
        directory: An empty directory for the socket, the port and the file.

    Raises:
        AssertionError: A byte is missing or wrong.
    """
    run = _Soak(plan, directory)
    log = directory / "console.log"
    (directory / "lab.py").write_text(
        "from jumpstarter.drivers.composite import Composite\n"
        "from jumpstarter.drivers.console import RecordedConsole\n"
        f"console = RecordedConsole(source='pty:{directory}/port', log_path='{log}', log_size=0,"
        f" buffer_size={plan.buffer_size})\n"
        "tree = Composite(children={'console': console})\n"
    )
    run.plug()
    command = [sys.executable, "-m", "jumpstarter", "serve", "lab:tree"]
    command += ["--address", f"unix:{run.socket}"]
    seconds = 3 * plan.seconds + 4 * PATIENCE
    try:
        with running(command, seconds=seconds, cwd=directory, stdout=PIPE, stderr=PIPE) as process:
            exporter = ExporterProcess(process)
            trio.run(run.run)
            exporter.send(signal.SIGTERM)
            assert exporter.wait() == 0, exporter.rest_of_log()
    finally:
        run.unplug()
    for data in _recovered(log):
        end = run.result.filed + len(data)
        assert data == console_output(run.result.filed, end), f"the file differs before {end}"
        run.result.filed = end
    assert run.result.filed == run.result.said, "the file has not all"
    return run.result


def _recovered(log: Path) -> Iterator[bytes]:
    """Yield what the console has said, from its file, a line at a time."""
    pending = b""  # a line's end, which a note has added if the line goes on behind it
    with log.open("rb") as file:
        for line in file:
            sign, text = line[_STAMP : _STAMP + 2], line[_STAMP + 2 :]
            assert sign in {b"| ", b": ", b"# "}, line
            if sign != b"# ":
                if sign == b"| ":
                    yield pending
                yield text.removesuffix(b"\n")
                pending = b"\n"
    yield pending


def main() -> int:
    """Run it for a time, and print what has happened."""
    parser = argparse.ArgumentParser(prog="python -m console_soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--rate", type=float, default=1e6, help="bytes in a second")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**9))
    options = parser.parse_args()
    print(f"{options.seconds:g} s at {options.rate / 1e6:g} MB/s, seed {options.seed}", flush=True)
    plan = Plan(seconds=options.seconds, rate=options.rate, seed=options.seed)
    with tempfile.TemporaryDirectory(prefix="soak-console-") as directory:
        result = soak(plan, Path(directory))
    print(f"the board said {result.said:,} bytes in {result.seconds:.0f} s")
    print(f"{result.cycles} power cycles; plugged in again {result.plugs} times")
    print(f"{sum(result.sessions)} sessions of watchers, at least {min(result.sessions)} of each")
    print(f"{result.watched:,} bytes watched and compared; {result.missed:,} reported as missed")
    print(f"exact: {result.kept:,} bytes of the buffer, {result.filed:,} bytes of the file")
    return 0


if __name__ == "__main__":
    sys.exit(main())
