"""Attacks on anything that listens, made from a few bytes of its protocol."""

from __future__ import annotations

import contextlib
import itertools
import random

from .attacker import Attacker, Cut, Function
from .preambles import CLIENT_HELLO, PREAMBLES

__all__ = [
    "connect_and_close",
    "drip",
    "half_handshakes",
    "hoard",
    "idle",
    "peace",
    "reset_storm",
    "say",
    "wrong_protocols",
]


def peace(attacker: Attacker) -> None:
    """Do nothing."""
    attacker.hold()
    attacker.sleep(1)


def wrong_protocols(attacker: Attacker) -> None:
    """Speak other protocols; every other time hang up at once, else wait to be cut."""
    chance = random.Random()
    for number, preamble in enumerate((*PREAMBLES, chance.randbytes(chance.randrange(1, 3000)))):
        with contextlib.suppress(Cut):
            line = attacker.dial()
            line.send(preamble)
            if number % 2:
                line.reset()
    attacker.hold(0.05)


def idle(attacker: Attacker) -> None:
    """Connect and say nothing."""
    attacker.dial_many(500)
    attacker.hold()


def connect_and_close(attacker: Attacker) -> None:
    """Connect and hang up, a thousand times."""
    for number in range(1000):
        line = attacker.dial()
        if number % 2:
            line.reset()
        else:
            line.close()


def half_handshakes(attacker: Attacker) -> None:
    """Begin to shake hands, and stop: after nothing, a part, or the first message."""
    cuts = itertools.cycle((0, 3, 40, len(CLIENT_HELLO)))
    for line, cut in zip(attacker.dial_many(300), cuts, strict=False):
        with contextlib.suppress(Cut):
            line.send(CLIENT_HELLO[:cut])
    attacker.hold()


def drip(data: bytes, *, prefix: bytes = b"", count: int = 500, every: float = 0.05) -> Function:
    """Make an attack that says something a byte at a time, on many connections at once.

    Args:
        data: What.
        prefix: Is said at once.
        count: Connections.
        every: Seconds between two bytes.
    """

    def attack(attacker: Attacker) -> None:
        lines = attacker.dial_many(count)
        attacker.send_each(lines, prefix)
        for byte in data:
            attacker.send_each(lines, bytes((byte,)), 0)
            attacker.sleep(every)
        attacker.hold()

    return attack


def hoard(greeting: bytes) -> Function:
    """Make an attack of 500 connections that greet, and stay."""

    def attack(attacker: Attacker) -> None:
        attacker.send_each(attacker.dial_many(500), greeting)
        attacker.hold()

    return attack


def reset_storm(*openings: bytes) -> Function:
    """Make an attack of connections that begin something, and are reset at any moment."""

    def attack(attacker: Attacker) -> None:
        chance = random.Random()
        for _ in range(100):
            line = attacker.dial()
            with contextlib.suppress(Cut):
                line.send(chance.choice(openings))
                attacker.sleep(chance.random() * 0.004)
            line.reset()

    return attack


def say(*sayings: bytes, prefix: bytes = b"", count: int = 1, pause: float = 0.05) -> Function:
    """Make an attack of connections that each say one thing, and wait for the answer.

    Args:
        sayings: What there is to be said; each on `count` connections of its own.
        prefix: Comes before it.
        count: Connections.
        pause: Seconds that the server has to cut them, before all is said again.
    """

    def attack(attacker: Attacker) -> None:
        for saying in sayings:
            for line in attacker.dial_many(count):
                with contextlib.suppress(Cut):
                    line.send(prefix + saying)
        attacker.hold(pause)

    return attack
