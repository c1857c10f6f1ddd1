"""Show that the holders of a board in exclusive use never overlap, whatever happens to them.

    python tests/soak_sharing.py [ROUNDS] [SEED]

Clients claim boards, use them for some milliseconds, and claim them again. In each round something
happens to one of them, at a random moment; `ACTIONS` has the list. First an exporter is claimed as
a whole, for a quarter of the rounds. Then one has two boards that are claimed independently, by
some clients both: always the left one first.

The drivers write a ledger of each use, from its first line to the end of its `finally`, and of each
reset (`sharing_ledger`). At the end, it must show that no two uses of a board overlapped, and that
all of its drivers were reset between two clients. No process may have got an error that nothing
explains.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from sharing_clients import (
    Claims,
    PytestRun,
    fork,
    kick_one,
    serve_cable,
    use_forever,
    use_once,
)
from sharing_ledger import SUBTREES, WHOLE, Boards, Found, check

__all__ = ["main"]

TESTS: Final = Path(__file__).parent
PATIENCE: Final = 60.0  # seconds in which the ledger must grow
WAITERS: Final = 20
# Milliseconds would be shorter than the scheduling of a busy machine.
QUICK: Final = ("--limit", "ping_interval=0.3", "--limit", "ping_timeout=2")
# Each is done once in the first rounds, and then as often as it is heavy.
ACTIONS: Final = {
    "kill": 70,  # a client
    "kick": 12,  # a holder, by the operator
    "stop": 4,  # a client, and kill it
    "stop for a while": 4,  # a client, and let it go on, perhaps as a former holder
    "pull the cable": 5,  # of a client, and plug it in again
    "kill pytest": 4,
    "wait with 20": 1,
}


@contextmanager
def _exporter(directory: Path, boards: Boards) -> Iterator[str]:
    terms = [f"--exclusive={name}" if name else "--exclusive" for name in boards]
    command = [sys.executable, "-m", "jumpstarter", "serve", "sharing_drivers:bench", *terms]
    address = f"unix:{directory}/socket"
    with (
        (directory / "log").open("w") as log,
        subprocess.Popen(
            [*command, "--address", address, "--log-level", "warning", *QUICK],
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


class _Fight:
    """The clients of one exporter, and what happens to them."""

    def __init__(
        self, directory: Path, address: str, boards: Boards, chance: random.Random
    ) -> None:
        self._address = address
        self._boards = boards
        self._chance = chance
        self._ledger = directory / "ledger"
        self._faults = directory / "faults"
        one: list[Claims] = [[True]] if "" in boards else [[name] for name in boards]
        every: list[Claims] = one if len(one) == 1 else [*one, list(boards)]
        self._claims = every
        self._plan = [claims for claims in every for _ in range(6 // len(every))]
        self._clients = [self._start(claims) for claims in self._plan]
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self._cable = fork(serve_cable, listener, address.removeprefix("unix:"))
            far = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        self._far = [
            fork(use_forever, far, chance.random(), claims, self._faults, True) for claims in every
        ]
        self._pytest = PytestRun(directory, address, one[0][0])
        self.done: Counter[str] = Counter()

    def _start(self, claims: Claims) -> int:
        seed = self._chance.random()
        return fork(use_forever, self._address, seed, claims, self._faults, False)

    def play(self, action: str) -> None:
        """Do something to one of the clients."""
        time.sleep(self._chance.uniform(0, 0.1))
        self.done[action] += 1
        index = self._chance.randrange(len(self._clients))
        match action:
            case "kick":
                os.waitpid(fork(kick_one, self._address, self._chance.random()), 0)
            case "stop for a while":
                self._stop(self._clients[index])
                os.kill(self._clients[index], signal.SIGCONT)
            case "pull the cable":
                self._stop(self._cable)
                os.kill(self._cable, signal.SIGCONT)
            case "kill pytest":
                self._pytest.kill()
            case "wait with 20":
                self._wait_with_many()
            case _:
                if action == "stop":
                    self._stop(self._clients[index])
                _end(self._clients[index])
                self._clients[index] = self._start(self._plan[index])
        self._pytest.look()

    def _stop(self, pid: int) -> None:
        os.kill(pid, signal.SIGSTOP)
        time.sleep(self._chance.uniform(0, 3.5))  # the exporter waits for 2.3 s

    def _wait_with_many(self) -> None:
        """Let many clients wait, and kill some of them meanwhile. Each of the others has a turn."""
        waiting = [
            fork(
                use_once,
                self._address,
                self._chance.random(),
                self._chance.choice(self._claims),
                self._faults,
            )
            for _ in range(WAITERS)
        ]
        for pid in waiting[::4]:
            time.sleep(self._chance.uniform(0, 0.1))
            os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + PATIENCE
        try:
            while waiting:
                ended, status = os.waitpid(waiting[0], os.WNOHANG)
                if ended:
                    del waiting[0]
                    if os.waitstatus_to_exitcode(status) not in (0, -signal.SIGKILL):
                        raise ValueError("a client that has waited has failed")
                elif time.monotonic() > deadline:
                    raise TimeoutError(f"{len(waiting)} clients had no turn for {PATIENCE:g} s")
                else:
                    time.sleep(0.01)
        finally:
            for pid in waiting:
                _end(pid)

    def until_it_goes_on(self) -> None:
        """Wait until each board is used again.

        Raises:
            TimeoutError: One is not.
            ValueError: A client has got an error that nothing explains, or has ended by itself.
        """
        start, deadline = self._ledger.stat().st_size, time.monotonic() + PATIENCE
        missing = set(self._boards)
        while missing:
            if time.monotonic() > deadline:
                raise TimeoutError(f"nobody has used {sorted(missing)} for {PATIENCE:g} s")
            time.sleep(0.01)
            with self._ledger.open() as file:
                file.seek(start)
                text = f"\n{file.read()}"
            missing = {
                name
                for name in missing
                if not any(f"\n{path} begin" in text for path in self._boards[name])
            }
        self._check_processes()

    def _check_processes(self) -> None:
        if self._faults.exists():
            raise ValueError(f"clients have got wrong errors:\n{self._faults.read_text()}")
        for pid in (*self._clients, *self._far, self._cable):
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                raise ValueError(f"process {pid} has ended by itself")

    def close(self) -> Counter[str]:
        """End all processes, and return what was done."""
        self._pytest.close()
        os.kill(self._cable, signal.SIGCONT)
        for pid in (*self._clients, *self._far, self._cable):
            _end(pid)
        self.done["pytest runs to their end"] = self._pytest.done.count(0)
        return self.done


def _rounds(count: int, chance: random.Random) -> Iterator[str]:
    """Yield what to do."""
    first = list(ACTIONS)
    chance.shuffle(first)
    for index in range(count):
        [action] = chance.choices(list(ACTIONS), list(ACTIONS.values()))
        yield first[index] if index < len(first) else action


def _fight(boards: Boards, rounds: int, chance: random.Random) -> tuple[Counter[str], Found]:
    """Play the rounds with one exporter, and return what was done and what the ledger says.

    Raises:
        ValueError: The ledger is wrong, or a process has got a wrong error.
        TimeoutError: A board was never used again.
    """
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place)
        with _exporter(directory, boards) as address:
            fight = _Fight(directory, address, boards, chance)
            try:
                for number, action in enumerate(_rounds(rounds, chance)):
                    fight.play(action)
                    if not number % 10:
                        fight.until_it_goes_on()
                fight.until_it_goes_on()
            finally:
                done = fight.close()
        return done, check((directory / "ledger").read_text().splitlines(), boards)


def main(arguments: Sequence[str]) -> int:
    """Run the soak."""
    rounds = int(arguments[0]) if arguments else 1000
    seed = int(arguments[1]) if len(arguments) > 1 else random.randrange(10**6)
    print(f"{rounds} rounds, seed {seed}", flush=True)
    chance = random.Random(seed)
    for title, boards, count in (
        ("the whole exporter", WHOLE, rounds // 4),
        ("two boards", SUBTREES, rounds - rounds // 4),
    ):
        done, found = _fight(boards, count, chance)
        print(f"{title}: {', '.join(f'{number} x {action}' for action, number in done.items())}")
        print(f"{found['sessions']} sessions, {found['begin']} uses, {found['reset']} resets")
    print("no two overlap, and a reset is between any two clients")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
