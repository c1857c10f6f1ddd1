"""Run a server, its good client and its attacker in three processes, and measure them.

All three processes have ended when control leaves the block that started them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, NamedTuple

import trustme

from .attacks import Attack, Setting
from .good import INTERVALS
from .peer import PATIENCE, TOKEN, Peer

__all__ = ["Measured", "Target", "prepare"]

_HOST: Final = "127.0.0.1"
_TESTS: Final = Path(__file__).parents[1]  # where the processes find this package
_LOOK: Final = 0.005  # seconds between two samples of the memory
_WARM_UP: Final = 0.7  # seconds without an attack first, which exclude the server's normal growth
_READY: Final = 30.0  # seconds; the timeout for a process to become ready
_MIB: Final = 2**20


class Step(NamedTuple):
    """One step of the good client, as reported on one line."""

    kind: str
    due: float
    seconds: float
    failure: str


@dataclass(frozen=True)
class Measured:
    """The measurements of one attack.

    Attributes:
        frames: The number of frames sent completely.
        connections: The number of the attacker's connections.
        cuts: The number of these connections that the server has closed.
        grew: MiB from the resident set just before the attack to its maximum.
        logged: KiB added to the server's log.
        calls: Seconds of each of the good client's calls, including delays of calls not made in
            time.
        newcomers: The same for the newcomers.
        failures: The failures of calls and newcomers.
        died: Whether the server has ended.
    """

    frames: int
    connections: int
    cuts: int
    grew: float
    logged: float
    calls: list[float]
    newcomers: list[float]
    failures: list[str]
    died: bool


class _Memory(threading.Thread):
    """A thread that samples a process's resident set."""

    def __init__(self, process: int) -> None:
        super().__init__(daemon=True)
        self._statm = Path(f"/proc/{process}/statm")
        self._over = threading.Event()
        self.first = self.highest = self._look()

    def _look(self) -> int:
        try:
            pages = self._statm.read_text().split()[1]
        except (OSError, IndexError):  # the process has ended
            return 0
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def run(self) -> None:
        while not self._over.wait(_LOOK):
            self.highest = max(self.highest, self._look())

    def grown(self) -> float:
        self._over.set()
        self.join()
        return (max(self.highest, self._look()) - self.first) / _MIB


class Target:
    """A server under attack.

    Args:
        server: The server's process.
        log: The server's log file.
        raid: The attacker's process.
        steps: The steps that the good client has reported; another thread appends to the list.
    """

    def __init__(
        self,
        server: subprocess.Popen[str],
        log: Path,
        raid: subprocess.Popen[str],
        steps: list[Step],
    ) -> None:
        self.alive = True
        self._server = server
        self._log = log
        self._raid = raid
        self._steps = steps

    @classmethod
    @contextmanager
    def running(cls, peer: Peer, setting: Setting, directory: Path) -> Iterator[Target]:
        """Run a server, its good client and its attacker for the duration of a block.

        The block starts after the good client's first calls have succeeded.

        Raises:
            RuntimeError: The server does not start, or does not answer the good client.
        """
        log = directory / f"{peer.name}.log"
        with ExitStack() as stack:
            errors = stack.enter_context(log.open("w"))
            server = stack.enter_context(_process(peer.command(setting, directory), errors))
            line = _first_line(server)
            if not line.startswith("ready: "):
                raise RuntimeError(f"{peer.name} is not ready: {line!r}; {log.read_text()}")
            port = line.strip().rpartition(":")[2]
            good = _ours("good", peer.name, _HOST, port, setting, str(directory))
            client = stack.enter_context(_process(good, None))
            steps: list[Step] = []
            listener = threading.Thread(target=_listen, args=(client, steps))
            listener.start()
            stack.callback(_end, client, listener)
            raid = stack.enter_context(_process(_ours("raid", peer.name, _HOST, port), None))
            _first_line(raid)
            target = cls(server, log, raid, steps)
            if missing := target._until_told(time.monotonic(), _READY):
                raise RuntimeError(f"{peer.name} does not serve: {missing}; {log.read_text()}")
            time.sleep(_WARM_UP)
            yield target

    def attacked(self, what: Attack, seconds: float) -> Measured:
        """Attack the server, then wait until the good client has finished its current steps.

        Args:
            what: The attack, whose setting must be the server's.
            seconds: The duration of the attack.
        """
        logged = self._log.stat().st_size
        begin = time.monotonic()
        memory = _Memory(self._server.pid)
        memory.start()
        frames, connections, cuts = self._attack(what.name, seconds)
        end = time.monotonic()
        silent = self._until_told(end, 2 * PATIENCE)
        grew = memory.grown()
        self.alive = self._server.poll() is None
        steps = [step for step in self._steps if begin <= step.due <= end]
        return Measured(
            frames=frames,
            connections=connections,
            cuts=cuts,
            grew=grew,
            logged=(self._log.stat().st_size - logged) / 1024,
            calls=_waited(steps, "call"),
            newcomers=_waited(steps, "newcomer"),
            failures=[f"{step.kind}: {step.failure}" for step in steps if step.failure] + silent,
            died=not self.alive,
        )

    def log(self) -> str:
        """Return the server's log so far."""
        return self._log.read_text(errors="replace")

    def kill(self) -> None:
        """Kill the server."""
        self._server.kill()

    def _attack(self, name: str, seconds: float) -> list[int]:
        assert self._raid.stdin is not None
        assert self._raid.stdout is not None
        self._raid.stdin.write(f"{json.dumps([name, seconds])}\n")
        self._raid.stdin.flush()
        counts: list[int] = json.loads(self._raid.stdout.readline())
        return counts

    def _until_told(self, since: float, patience: float) -> list[str]:
        """Wait until both kinds of good client have finished a step that was due after `since`.

        Returns:
            A failure for each kind that has not.
        """
        until = time.monotonic() + patience
        while missing := set(INTERVALS) - {s.kind for s in list(self._steps) if s.due >= since}:
            if time.monotonic() > until or self._server.poll() is not None:
                break
            time.sleep(_LOOK)
        return [f"{kind}: no answer in {patience:g} s" for kind in sorted(missing)]


def _waited(steps: list[Step], kind: str) -> list[float]:
    """Return the duration of each step, and the delays of steps that it kept from starting."""
    interval = INTERVALS[kind]
    waited = []
    for step in steps:
        if step.kind == kind and not step.failure:
            waited.append(step.seconds)
            missed = int(step.seconds / interval)
            waited += [step.seconds - interval * number for number in range(1, missed + 1)]
    return waited


def _ours(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", f"hostile.{module}", *arguments]


def _process(command: list[str], errors: IO[str] | None) -> subprocess.Popen[str]:
    return _Killed(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        cwd=_TESTS,
    )


class _Killed(subprocess.Popen[str]):
    """A process that is killed at the end of its block."""

    def __exit__(self, *exc: object) -> None:
        self.kill()
        super().__exit__(None, None, None)


def _first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    watchdog = threading.Timer(_READY, process.kill)
    watchdog.start()
    try:
        return process.stdout.readline()
    finally:
        watchdog.cancel()
        watchdog.join()


def _listen(client: subprocess.Popen[str], steps: list[Step]) -> None:
    assert client.stdout is not None
    steps.extend(Step(*json.loads(line)) for line in client.stdout)


def _end(client: subprocess.Popen[str], listener: threading.Thread) -> None:
    client.kill()
    listener.join()


def prepare(directory: Path) -> None:
    """Write the token and the certificates, for servers and clients of all settings."""
    (directory / "token").write_text(TOKEN)
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(directory / "ca.pem"))
    certificate = authority.issue_cert(_HOST, "localhost")
    certificate.private_key_and_cert_chain_pem.write_to_path(str(directory / "server.pem"))
