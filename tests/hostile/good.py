"""The good client, in a process of its own: `python -m hostile.good PEER HOST PORT SETTING DIR`.

One thread makes a call every 10 ms on one connection. Another connects every 100 ms, makes a call
and disconnects. Each writes a JSON line for each step: the thread's kind, the time at which the
step was due, its duration, and the failure, if any. A thread that is cut off connects again. The
process ends at the end of its input.
"""

from __future__ import annotations

import json
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from .attacks import Setting
from .peer import Peer, Place
from .peers import peer_named

__all__ = ["INTERVALS"]

INTERVALS: Final = {"call": 0.01, "newcomer": 0.1}  # seconds between two steps

_PAUSE: Final = 0.1  # seconds before a thread reconnects after a failure

_speaking: Final = threading.Lock()


def main(arguments: Sequence[str]) -> None:
    """Run both threads until the input ends."""
    name, host, port, setting, directory = arguments
    place = Place(host, int(port), _setting(setting), Path(directory))
    for kind, work in (("call", _stay), ("newcomer", _come_and_go)):
        args = (kind, work, peer_named(name), place)
        threading.Thread(target=_for_ever, args=args, daemon=True).start()
    sys.stdin.read()


def _setting(text: str) -> Setting:
    known: dict[str, Setting] = {"plain": "plain", "token": "token", "tls": "tls"}
    return known[text]


def _for_ever(
    kind: str, work: Callable[[Peer, Place], Iterator[None]], peer: Peer, place: Place
) -> None:
    """Run a step of the work whenever one is due, and report its result."""
    interval = INTERVALS[kind]
    due = time.monotonic()
    steps = work(peer, place)
    while True:
        time.sleep(max(0.0, due - time.monotonic()))
        try:
            next(steps)
            failure = ""
        except Exception as exc:  # noqa: BLE001 - every failure is counted
            failure = " ".join(f"{type(exc).__name__}: {exc}".split())
            steps = work(peer, place)
        now = time.monotonic()
        _tell(kind, due, now - due, failure)
        pause = _PAUSE if failure else 0
        due += interval * max(1, math.ceil((now + pause - due) / interval))


def _stay(peer: Peer, place: Place) -> Iterator[None]:
    with peer.dial(place) as call:
        while True:
            call()
            yield


def _come_and_go(peer: Peer, place: Place) -> Iterator[None]:
    while True:
        with peer.dial(place) as call:
            call()
        yield


def _tell(kind: str, due: float, seconds: float, failure: str) -> None:
    line = json.dumps([kind, due, seconds, failure[:300]])
    with _speaking:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
