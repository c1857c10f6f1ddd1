"""Fuzz target: an exporter process must stay alive and answer its good clients."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Self

import jumpstarter

from . import rules
from .mutation import Mutator

TESTS: Final = Path(__file__).parent.parent
CONNECTIONS: Final = 10  # in a batch; below the limit on concurrent connections before HELLO
PATIENCE: Final = 30.0  # seconds; each of these operations usually takes a hundredth of one


def batches(mutator: Mutator) -> Iterator[list[bytes]]:
    """Make the bytes that each connection of a batch sends, after a byte that selects its end."""
    streams = rules.to_server(mutator)
    while True:
        yield [
            bytes([mutator.random.randrange(3)]) + b"".join(next(streams))
            for _ in range(CONNECTIONS)
        ]


class ServerContext:
    """Serve `Echo` in a process, and start another process if it has died."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        directory = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        self._address = f"{directory}/socket"
        self._log = self._stack.enter_context((directory / "log").open("w+", encoding="utf-8"))
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate(timeout=PATIENCE)
        self._stack.close()

    def _start(self) -> None:
        command = [sys.executable, "-m", "jumpstarter", "serve", "drivers_for_tests:Echo"]
        self._process = subprocess.Popen(
            [*command, "--address", f"unix:{self._address}"],
            cwd=TESTS,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        assert self._process.stdout is not None
        watchdog = threading.Timer(PATIENCE, self._process.kill)
        watchdog.start()
        try:
            assert self._process.stdout.readline().startswith("ready: "), self.log()
        finally:
            watchdog.cancel()
            watchdog.join()

    def log(self) -> str:
        """Return the end of the exporter's log."""
        self._log.seek(0)
        return self._log.read()[-2000:]

    def check(self, batch: list[bytes]) -> int:
        """Send each item on its own connection, then make a good call. Returns the item count."""
        if self._process is None or self._process.poll() is not None:
            self._start()
        assert self._process is not None
        with contextlib.ExitStack() as stack:
            peers = [(stack.enter_context(self._connect()), data) for data in batch if data]
            for peer, data in peers:
                self._send(peer, data[1:])
            for peer, data in peers:
                self._end(peer, data[0])
        with jumpstarter.connect(f"unix:{self._address}") as client, client.timeout(PATIENCE):
            assert client.call("echo", len(batch)) == len(batch)
        assert self._process.poll() is None, self.log()
        return len(batch)

    def _connect(self) -> socket.socket:
        peer = socket.socket(socket.AF_UNIX)
        peer.settimeout(PATIENCE)
        peer.connect(self._address)
        return peer

    def _send(self, peer: socket.socket, data: bytes) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            peer.sendall(data)

    def _end(self, peer: socket.socket, how: int) -> None:
        """Do nothing if `how` is 0; else send EOF and read until EOF, by the byte if `how` is 1."""
        with contextlib.suppress(ConnectionResetError, OSError if how == 0 else ConnectionError):
            if how:
                peer.shutdown(socket.SHUT_WR)
                while peer.recv(1 if how == 1 else 65536):
                    pass
