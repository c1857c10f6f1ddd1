"""Use one connection in every way concurrently, and compare each value and byte.

    python tests/stress.py [--seconds 60] [--over unix|tcp|tls] [--calls 1000000] [--seed 1]

Eight threads call, iterate and use streams, eight tasks call and are cancelled, and the main thread
calls while a signal handler raises at random moments. With `--calls`, the main thread does that as
often as it is told, beside fewer others, so that it does it often. The exporter runs in another
process. Prints how often each was done; raises if an answer is wrong, if something hangs, if what
the handler raised is lost, or if a slot stays busy.
"""

from __future__ import annotations

import argparse
import collections
import faulthandler
import random
import re
import signal
import ssl
import sys
import tempfile
import threading
import time
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any, Final

import pytest
import trio
import trio.testing

import jumpstarter
from drivers_for_tests import Echo
from exporter_process import exporter
from exporters_for_cli import make_certificates
from jumpstarter.client import DriverClient
from jumpstarter.driver import export
from jumpstarter.errors import DriverError, DriverTimeoutError

__all__ = ["Busy", "Stress"]

PATIENCE: Final = 120.0  # seconds for a step that takes milliseconds, on a busy machine
TASKS: Final = 8
HOURS: Final = 4  # that the exporter lives if the number of calls is what ends the run


class Interruption(Exception):
    """Raised by the signal handler.

    Attributes:
        raised: How often.
        ignored: How often the interpreter has ignored it, as it does where a finalizer runs.
    """

    raised = 0
    ignored = 0


class Busy(Echo):
    """What the stress test calls."""

    @export
    async def echo_async(self, value: object = None, seconds: float = 0) -> object:
        if seconds:
            await trio.sleep(seconds)
        return value

    @export
    async def fail(self, text: str) -> None:
        raise ValueError(text)

    @export
    async def count_async(self, stop: int, seconds: float = 0) -> AsyncGenerator[int, None]:
        for number in range(stop):
            if seconds:
                await trio.sleep(seconds)
            yield number


def pattern(start: int, size: int) -> bytes:
    """Return the bytes of an endless pattern that has no short period."""
    return b"".join(i.to_bytes(4, "big") for i in range(start // 4, (start + size) // 4 + 1))[
        start % 4 : start % 4 + size
    ]


class Stress:
    """The workers of one run.

    Args:
        client: The client of a `Busy`.
        seconds: How long they work.
        seed: Of their random choices.
        calls: How often the main thread calls, which then ends the run instead of `seconds`.
    """

    def __init__(self, client: DriverClient, seconds: float, seed: int, calls: int = 0) -> None:
        self.client = client
        self.counts: collections.Counter[str] = collections.Counter()
        self._until = time.monotonic() + seconds
        self._calls = calls
        self._seed = seed
        self._failure: BaseException | None = None

    @property
    def is_over(self) -> bool:
        if self._failure is not None:
            return True
        if self._calls:
            return self.counts["be_interrupted"] >= self._calls
        return time.monotonic() >= self._until

    def run(self) -> None:
        """Work until the time is up, and check that nothing is left."""
        kinds = [self._call, self._tick, self._ping]
        if not self._calls:
            kinds += [self._call, self._time_out, self._fail, self._iterate, self._transfer]
        threads = [
            threading.Thread(target=self._work, args=(kind, random.Random(self._seed * 100 + i)))
            for i, kind in enumerate(kinds)
        ]
        for thread in threads:
            thread.start()
        assert self.client.portal is not None
        tasks = self.client.portal.start_task_soon(self._run_tasks)
        self._work(self._be_interrupted, random.Random(self._seed))
        for thread in threads:
            thread.join(PATIENCE)
            assert not thread.is_alive(), f"{thread} hangs"
        tasks.result(PATIENCE)
        if self._failure is not None:
            raise self._failure
        connection = self.client.channel.channel.connection
        give_up = time.monotonic() + PATIENCE
        while connection.rules.busy_slots or connection.handlers:
            assert time.monotonic() < give_up, "a slot stays busy"
            time.sleep(0.01)

    def _work(self, kind: Callable[[random.Random], None], rng: random.Random) -> None:
        try:
            while not self.is_over:
                kind(rng)
                self.counts[kind.__name__.strip("_")] += 1
        except BaseException as exc:  # noqa: BLE001 - raised in the main thread
            self._failure = self._failure or exc

    def _call(self, rng: random.Random) -> None:
        value = rng.choice([rng.random(), "x" * rng.randrange(200), [1, 2.5, None]])
        if rng.random() < 0.02:
            value = rng.randbytes(100_000)
        assert self.client.call(rng.choice(["echo", "echo_async"]), value) == value

    def _time_out(self, rng: random.Random) -> None:
        value = rng.random()
        try:
            with self.client.timeout(rng.random() * 0.02 + 0.0005):
                assert self.client.call("echo_async", value, rng.random() * 0.02) == value
        except DriverTimeoutError:
            self.counts["timed out"] += 1

    def _fail(self, rng: random.Random) -> None:
        text = str(rng.random())
        with pytest.raises(DriverError, match=re.escape(text)):
            self.client.call("fail", text)

    def _iterate(self, rng: random.Random) -> None:
        total, wanted = rng.randrange(1, 300), rng.randrange(1, 400)
        items = self.client.streamingcall(rng.choice(["count", "count_async"]), total)
        taken = [item for item, _ in zip(items, range(wanted), strict=False)]
        items.close()
        assert taken[:wanted] == list(range(min(total, wanted)))

    def _tick(self, _rng: random.Random) -> None:
        assert list(self.client.streamingcall("count_async", 20, 0.002)) == list(range(20))

    def _transfer(self, rng: random.Random) -> None:
        total = rng.randrange(1, 1_000_000)
        with self.client.stream() as stream:

            def send() -> None:
                sent = 0
                while sent < total:
                    size = min(rng.randrange(1, 70_000), total - sent)
                    stream.send(pattern(sent, size))
                    sent += size
                stream.send_eof()

            sender = threading.Thread(target=send)
            sender.start()
            received = 0
            for data in stream:
                assert data == pattern(received, len(data)), f"wrong bytes at {received}"
                received += len(data)
            sender.join(PATIENCE)
            assert received == total

    def _ping(self, rng: random.Random) -> None:
        with self.client.stream() as stream:
            for _ in range(50):
                sent, received = rng.randbytes(rng.randrange(1, 300)), b""
                stream.send(sent)
                while len(received) < len(sent):
                    received += stream.receive()
                assert received == sent

    def _be_interrupted(self, rng: random.Random) -> None:
        """Call in the main thread while a signal handler raises."""
        within = rng.choice((0.0, 0.0002, 0.001, 0.004))
        before, told = Interruption.raised - Interruption.ignored, 0
        try:
            if within:
                signal.setitimer(signal.ITIMER_REAL, rng.random() * within + 1e-5)
            rng.choices((self._call, self._list, self._say), (18, 1, 1))[0](rng)
            signal.setitimer(signal.ITIMER_REAL, 0)
        except Interruption:
            told = 1
        except DriverError as exc:
            if "cannot be sent" not in str(exc):  # the handler has interrupted the encoder
                raise
            told = 1
        self.counts["interruptions"] += told
        raised = Interruption.raised - Interruption.ignored - before
        assert raised == told, "what a signal handler raised was lost"

    def _list(self, rng: random.Random) -> None:
        total = rng.randrange(30)
        assert list(self.client.streamingcall("count_async", total)) == list(range(total))

    def _say(self, rng: random.Random) -> None:
        sent, received = rng.randbytes(rng.randrange(1, 300)), b""
        with self.client.stream() as stream:
            stream.send(sent)
            while len(received) < len(sent):
                received += stream.receive()
        assert received == sent

    async def _run_tasks(self) -> None:
        async def work(rng: random.Random) -> None:
            while not self.is_over:
                value = rng.random()
                with trio.move_on_after(rng.random() * 0.02) as scope:
                    seconds = rng.random() * 0.02
                    assert await self.client.call_async("echo_async", value, seconds) == value
                self.counts["cancelled" if scope.cancelled_caught else "async"] += 1

        async with trio.open_nursery() as nursery:
            for i in range(TASKS):
                nursery.start_soon(work, random.Random(self._seed * 1000 + i))


def interrupt(*_: object) -> None:
    """Handle SIGALRM."""
    Interruption.raised += 1
    raise Interruption


def options_over(scheme: str, directory: Path) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Return the exporter's options for a kind of address, and those of `connect`."""
    if scheme == "tls":
        serve, access = make_certificates(directory)
        context = ssl.create_default_context(cafile=access[1])
        return serve, {"ssl_context": context, "token": Path(access[3]).read_text()}
    return (("--address", "tcp://127.0.0.1:0"), {}) if scheme == "tcp" else ((), {})


def run(
    seconds: float, seed: int, *, over: str = "unix", calls: int = 0
) -> collections.Counter[str]:
    """Run the stress test in the main thread, and return how often each was done."""
    before, hook = signal.signal(signal.SIGALRM, interrupt), sys.unraisablehook

    def ignore(unraisable: sys.UnraisableHookArgs) -> None:
        if isinstance(unraisable.exc_value, Interruption):
            Interruption.ignored += 1
        else:
            hook(unraisable)

    sys.unraisablehook = ignore
    patience = 3600.0 * HOURS if calls else seconds + PATIENCE
    try:
        with tempfile.TemporaryDirectory() as name:
            options, access = options_over(over, Path(name))
            with (
                exporter(Path(name), *options, driver="stress:Busy", seconds=patience) as process,
                jumpstarter.connect(process.address, **access) as client,
            ):
                # Its log has each failure, and would fill the pipe.
                threading.Thread(target=process.rest_of_log, daemon=True).start()
                stress = Stress(client, seconds, seed, calls)
                stress.run()
                return stress.counts
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        sys.unraisablehook = hook


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--over", choices=["unix", "tcp", "tls"], default="unix")
    parser.add_argument("--calls", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    patience = 3600.0 * HOURS if options.calls else options.seconds + 2 * PATIENCE
    faulthandler.dump_traceback_later(patience, exit=True)
    started = time.monotonic()
    counts = run(options.seconds, options.seed, over=options.over, calls=options.calls)
    counts["in a finalizer"] = Interruption.ignored
    counts["seconds"] = round(time.monotonic() - started)
    sys.stdout.write("".join(f"{name:16}{count:>9}\n" for name, count in sorted(counts.items())))


if __name__ == "__main__":
    main()
