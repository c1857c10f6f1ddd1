"""Attacks on any listening server, built from a few bytes of its protocol."""

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
    """Do nothing, as the baseline for the measurements."""
    attacker.hold()
    attacker.sleep(1)


def wrong_protocols(attacker: Attacker) -> None:
    """Send other protocols' bytes; reset every other connection immediately, and hold the rest."""
    chance = random.Random()
    for number, preamble in enumerate((*PREAMBLES, chance.randbytes(chance.randrange(1, 3000)))):
        with contextlib.suppress(Cut):
            line = attacker.dial()
            line.send(preamble)
            if number % 2:
                line.reset()
    attacker.hold(0.05)


def idle(attacker: Attacker) -> None:
    """Connect and send nothing."""
    attacker.dial_many(500)
    attacker.hold()


def connect_and_close(attacker: Attacker) -> None:
    """Connect and disconnect a thousand times, with a reset every other time."""
    for number in range(1000):
        line = attacker.dial()
        if number % 2:
            line.reset()
        else:
            line.close()


def half_handshakes(attacker: Attacker) -> None:
    """Start TLS handshakes, and stop before, within or after the first message."""
    cuts = itertools.cycle((0, 3, 40, len(CLIENT_HELLO)))
    for line, cut in zip(attacker.dial_many(300), cuts, strict=False):
        with contextlib.suppress(Cut):
            line.send(CLIENT_HELLO[:cut])
    attacker.hold()


def drip(data: bytes, *, prefix: bytes = b"", count: int = 500, every: float = 0.05) -> Function:
    """Make an attack that sends data one byte at a time, on many connections concurrently.

    Args:
        data: The bytes to send slowly.
        prefix: The bytes to send first, all together.
        count: The number of connections.
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
    """Make an attack that opens 500 connections, sends a greeting on each, and holds them."""

    def attack(attacker: Attacker) -> None:
        attacker.send_each(attacker.dial_many(500), greeting)
        attacker.hold()

    return attack


def reset_storm(*openings: bytes) -> Function:
    """Make an attack that sends one of the openings, and resets the connection at random."""

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
    """Make an attack that sends each saying on its own connections, and waits to be cut.

    Args:
        sayings: Byte strings to send, each on `count` connections of its own.
        prefix: The bytes to send before each saying.
        count: The number of connections per saying.
        pause: Seconds that the server has to cut the connections, before the next round.
    """

    def attack(attacker: Attacker) -> None:
        for saying in sayings:
            for line in attacker.dial_many(count):
                with contextlib.suppress(Cut):
                    line.send(prefix + saying)
        attacker.hold(pause)

    return attack
