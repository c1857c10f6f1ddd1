"""The attacker, in a process of its own: `python -m hostile.raid PEER HOST PORT`.

Says that it is ready, reads lines of an attack's name and its seconds, in JSON, and answers each,
when its time is over, with what it came to.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import Final

from .attacker import Attacker, attack
from .peers import peer_named

_NICE: Final = 10  # it would have a machine of its own


def main(arguments: Sequence[str]) -> None:
    """Attack as asked, until the input ends."""
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
