"""The processes of `soak_sharing`: clients, an operator, a cable, and runs of pytest.

They are forked, which starts them sooner than a new Python, except for pytest. A client that gets
an error that nothing explains writes it to a file.
"""

from __future__ import annotations

import os
import random
import re
import selectors
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from jumpstarter import Limits, connect
from jumpstarter.client import DriverClient
from jumpstarter.errors import HandshakeError, JumpstarterException

__all__ = ["Claims", "PytestRun", "fork", "kick_one", "serve_cable", "use_forever", "use_once"]

Claims = Sequence[bool | str]  # what a client claims, by a connection for each
PATIENCE: Final = 60.0  # seconds for a process that was killed
LIMITS: Final = Limits(ping_interval=0.3, ping_timeout=2)
# The exporter ends sessions; and on a busy machine a client may seem to be silent.
EXPLAINED: Final = re.compile(
    r"the session was ended by uid \d+|closed the connection|no sign of life|connection .* broke"
)
WAYS: Final = ("use", "use_async", "use_slowly")
TEST: Final = """
import os
import pytest


@pytest.mark.parametrize("number", range(5))
def test_using_the_board(device, number):
    board = device.children[os.environ.get("JMP_CLAIM", "left")]
    board.call("use", 0.01)
"""


def fork(function: Callable[..., None], *args: object) -> int:
    """Run a function in a forked process, and return its pid."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        for number in (1, 2):
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
        function(*args)
        code = 0
    finally:
        os._exit(code)


@contextmanager
def _held(address: str, claims: Claims) -> Iterator[list[DriverClient]]:
    """Claim boards, always in the same order, and yield their clients."""
    with ExitStack() as stack:
        boards: list[DriverClient] = []
        for claim in claims:
            name = f"client {os.getpid()}"
            client = stack.enter_context(connect(address, claim=claim, limits=LIMITS, name=name))
            named = [client.children[claim]] if isinstance(claim, str) else client.children.values()
            boards.extend(named)
        yield boards


def _use(board: DriverClient, chance: random.Random) -> None:
    """Use one of the drivers of a board in one of the ways."""
    driver = chance.choice([board, board.children["part"]])
    way, seconds = chance.choice(WAYS), chance.uniform(0, 0.02)
    if way != "use_slowly":
        driver.call(way, seconds)
        return
    with closing(driver.streamingcall(way, seconds)) as items:
        for _ in items:
            if chance.random() < 0.2:
                break  # the driver's generator is closed at a `yield`


def use_forever(
    address: str, seed: float, claims: Claims, faults: Path, is_behind_cable: bool
) -> None:
    """Claim boards, use them some times, leave, and begin again."""
    chance = random.Random(seed)
    while True:
        try:
            with _held(address, claims) as boards:
                for _ in range(chance.randint(1, 3)):
                    _use(chance.choice(boards), chance)
        except JumpstarterException as exc:
            _judge(exc, faults, is_behind_cable=is_behind_cable)


def use_once(address: str, seed: float, claims: Claims, faults: Path) -> None:
    """Claim boards, and use each once."""
    try:
        with _held(address, claims) as boards:
            for board in boards:
                _use(board, random.Random(seed))
    except JumpstarterException as exc:
        _judge(exc, faults)


def _judge(exc: Exception, faults: Path, *, is_behind_cable: bool = False) -> None:
    """Write down an error that the client should not have got."""
    is_unreachable = is_behind_cable and isinstance(exc, HandshakeError)
    if not (is_unreachable or EXPLAINED.search(str(exc))):
        with faults.open("a") as file:
            file.write(f"{type(exc).__name__}: {exc}\n")


def kick_one(address: str, seed: float) -> None:
    """End the session of one of the holders."""
    from jumpstarter.cli._exclusive import kick, list_claims  # noqa: PLC0415 - it needs an extra

    with suppress(JumpstarterException), connect(address, claim=False) as watcher:
        holders = [row for row in list_claims(watcher) if row["state"] == "holds"]
        if holders:  # which may have left by itself when it is to be kicked
            kick(watcher, random.Random(seed).choice(holders)["connection"])


def serve_cable(listener: socket.socket, target: str) -> None:
    """Forward TCP connections to a Unix socket. To pull the cable, stop this process."""
    peers: dict[socket.socket, socket.socket] = {}
    with selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                source: Any = key.fileobj
                if source is listener:
                    ends = listener.accept()[0], socket.socket(socket.AF_UNIX)
                    ends[1].connect(target)
                    peers.update([ends, ends[::-1]])
                    for end in ends:
                        selector.register(end, selectors.EVENT_READ)
                elif source in peers and not _forward(source, peers[source]):
                    for end in (source, peers.pop(source)):
                        selector.unregister(end)
                        peers.pop(end, None)
                        end.close()


def _forward(source: socket.socket, sink: socket.socket) -> bool:
    """Forward what has come. Return False at the end of either side."""
    try:
        data = source.recv(65536)
        sink.sendall(data)
    except OSError:
        return False
    return bool(data)


class PytestRun:
    """A run of pytest that uses a board.

    Args:
        directory: Where it runs.
        address: The exporter's address.
        claim: The board that it claims.
    """

    def __init__(self, directory: Path, address: str, claim: bool | str) -> None:
        self._file = directory / "use_the_board.py"
        self._file.write_text(TEST)
        self._output = directory / "pytest.log"
        self._environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        self._environment["JUMPSTARTER_HOST"] = address
        if isinstance(claim, str):
            self._environment["JMP_CLAIM"] = claim
        self.done: list[int] = []  # the exit codes
        self._start()

    def _start(self) -> None:
        options = ("-q", "-p", "jumpstarter", "-p", "no:cacheprovider", "--rootdir", ".")
        with self._output.open("w") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "pytest", *options, str(self._file)],
                cwd=self._file.parent,
                env=self._environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def kill(self) -> None:
        """Kill the run, and start another one."""
        self._process.kill()
        self._process.wait(PATIENCE)
        self.look()

    def look(self) -> None:
        """If the run has ended, check how, and start another one.

        Raises:
            ValueError: It has failed without a reason.
        """
        code = self._process.poll()
        if code is None:
            return
        self.done.append(code)
        said = self._output.read_text()
        if code not in (0, -signal.SIGKILL) and not EXPLAINED.search(said):
            raise ValueError(f"pytest has ended with {code}:\n{said}")
        self._start()

    def close(self) -> None:
        """End the run."""
        self._process.kill()
        self._process.wait(PATIENCE)
