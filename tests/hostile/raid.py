"""The attacker, in a process of its own: `python -m hostile.raid PEER HOST PORT`.

It prints "ready", then reads JSON lines, each with an attack's name and its duration in seconds. It
runs each attack, and when its time is over prints a JSON line with its counters: frames,
connections and cuts.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import Final

from .attacker import Attacker, attack
from .peers import peer_named

_NICE: Final = 10  # a real attacker would not compete for the server's CPU


def main(arguments: Sequence[str]) -> None:
    """Run the requested attacks until the input ends."""
    name, host, port = arguments
    functions = peer_named(name).functions
    os.nice(_NICE)
    print("ready", flush=True)
    for line in sys.stdin:
        what, seconds = json.loads(line)
        attacker = Attacker((host, int(port)), seconds)
        attack(functions[what], attacker)
        print(json.dumps([attacker.frames, attacker.connections, attacker.cuts]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
