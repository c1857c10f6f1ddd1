"""Show that the holders of an exporter in exclusive use never overlap, whatever happens to them.

    python tests/soak_sharing.py [ROUNDS] [SEED]

Five clients claim the board, use it for some milliseconds, and claim it again. In each round one
of them is killed, stopped and killed, or kicked, at a random moment. The driver writes a ledger of
each use, from its first line to the end of its `finally`, and of each reset. At the end of all
rounds, the ledger must show that no two uses overlapped, and that a reset was between two clients.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from jumpstarter import connect
from jumpstarter.errors import JumpstarterException

__all__ = ["Found", "check", "main"]

TESTS: Final = Path(__file__).parent
CLIENTS: Final = 5
PATIENCE: Final = 60.0  # seconds in which the ledger must grow
# Milliseconds would be shorter than the scheduling of a busy machine.
QUICK: Final = ("--limit", "ping_interval=0.3", "--limit", "ping_timeout=1")
ACTIONS: Final = {"kill": 80, "kick": 15, "stop": 5}


class Found(Counter[str]):
    """How often something was found in a ledger."""


def check(lines: Sequence[str]) -> Found:
    """Check a ledger.

    Raises:
        ValueError: Two uses overlap, or two clients have used the board without a reset between.
    """
    found, user, owner = Found(), "", ""
    for number, line in enumerate(lines, 1):
        what, _, client = line.partition(" ")
        found[what] += 1
        fault = ""
        if what == "begin":
            if user:
                fault = f"{client} begins while {user} uses the board"
            elif owner not in ("", client):
                fault = f"{client} begins after {owner}, without a reset"
            elif not owner:
                found["sessions"] += 1
            user = owner = client
        elif what == "end":
            fault = "" if user == client else f"{client} ends, and {user or 'nobody'} has begun"
            user = ""
        elif user:
            fault = f"a reset while {user} uses the board"
        else:
            owner = ""
        if fault:
            raise ValueError(f"line {number} of the ledger: {fault}")
    if user:
        raise ValueError(f"{user} has never ended")
    return found


# ------------------------------------------------------------------------------------ processes


def _fork(function: Callable[..., None], *args: object) -> int:
    """Run a function in a forked process, which starts sooner than a new Python."""
    pid = os.fork()
    if pid:
        return pid
    try:  # pragma: no cover - in the child
        for number in (1, 2):
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
        function(*args)
    finally:
        os._exit(0)


def _use(address: str, seed: float) -> None:  # pragma: no cover - in a child
    """Use the board again and again."""
    chance = random.Random(seed)
    while True:
        try:
            with connect(address, name=f"client {os.getpid()}") as board:
                for _ in range(chance.randint(1, 3)):
                    board.call(chance.choice(["use", "use_async"]), chance.uniform(0, 0.02))
        except JumpstarterException:  # it was kicked
            continue


def _kick(address: str) -> None:  # pragma: no cover - in a child
    from jumpstarter.cli._exclusive import kick, list_claims  # noqa: PLC0415 - it needs an extra

    try:
        with connect(address, claim=False) as watcher:
            for row in list_claims(watcher)[:1]:
                kick(watcher, row["connection"])
    except JumpstarterException:
        pass  # the holder has left by itself


@contextmanager
def _exporter(directory: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "jumpstarter", "serve", "sharing_drivers:Ledger"]
    address = f"unix:{directory}/socket"
    with (
        (directory / "log").open("w") as log,
        subprocess.Popen(
            [*command, "--address", address, "--exclusive", "--log-level", "warning", *QUICK],
            env={**os.environ, "LEDGER": f"{directory}/ledger"},
            cwd=TESTS,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        ) as process,
    ):
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("ready: "), (directory / "log").read_text()
            yield address
            process.terminate()
            assert process.wait(PATIENCE) == 0, (directory / "log").read_text()
        finally:
            process.kill()


def _end(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


class _Board:
    """The clients of one exporter."""

    def __init__(self, address: str, ledger: Path, chance: random.Random) -> None:
        self._address = address
        self._ledger = ledger
        self._chance = chance
        self._clients = [self._start() for _ in range(CLIENTS)]
        self.done: Counter[str] = Counter()

    def _start(self) -> int:
        return _fork(_use, self._address, self._chance.random())

    def play(self) -> None:
        """Do something to one of the clients."""
        time.sleep(self._chance.uniform(0, 0.1))
        [action] = self._chance.choices(list(ACTIONS), list(ACTIONS.values()))
        self.done[action] += 1
        if action == "kick":
            os.waitpid(_fork(_kick, self._address), 0)
            return
        index = self._chance.randrange(CLIENTS)
        if action == "stop":
            os.kill(self._clients[index], signal.SIGSTOP)
            time.sleep(self._chance.uniform(0, 2))
        _end(self._clients[index])
        self._clients[index] = self._start()

    def until_it_goes_on(self) -> None:
        """Wait until the board is used again."""
        size, deadline = self._ledger.stat().st_size, time.monotonic() + PATIENCE
        while self._ledger.stat().st_size == size:
            if time.monotonic() > deadline:
                raise TimeoutError(f"nobody has used the board for {PATIENCE:g} s")
            time.sleep(0.01)

    def close(self) -> None:
        """End all clients."""
        for pid in self._clients:
            _end(pid)


def run(rounds: int, seed: int) -> Any:
    """Play the rounds, and return what was done and what the ledger says.

    Raises:
        ValueError: The ledger is wrong.
        TimeoutError: The board was never used again.
    """
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place)
        ledger = directory / "ledger"
        with _exporter(directory) as address:
            board = _Board(address, ledger, random.Random(seed))
            try:
                for _ in range(rounds):
                    board.play()
                    if not sum(board.done.values()) % 10:
                        board.until_it_goes_on()
                board.until_it_goes_on()
            finally:
                board.close()
        return board.done, check(ledger.read_text().splitlines())


def main(arguments: Sequence[str]) -> int:
    """Run the soak."""
    rounds = int(arguments[0]) if arguments else 1000
    seed = int(arguments[1]) if len(arguments) > 1 else random.randrange(10**6)
    print(f"{rounds} rounds, seed {seed}", flush=True)
    done, found = run(rounds, seed)
    print(", ".join(f"{count} x {action}" for action, count in sorted(done.items())))
    print(f"{found['sessions']} sessions, {found['begin']} uses, {found['reset']} resets:")
    print("no two overlap, and a reset is between any two clients")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
