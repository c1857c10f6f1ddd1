"""One end of a side, in a process of its own: `python -m benchmarks.worker CORE FUNCTION ARG...`.

FUNCTION is a dotted name, called with the socket's path and the ARGs. The harness speaks to it over
the process's standard streams, one line at a time:

    path ->           begin: serve there, or connect
    <- ready          it serves, or is connected
    count ->          (client) do so many operations
    <- seconds        it has, and took so long
    end of input ->   end

The end of input comes even if the harness is killed, so nothing is left behind. This file needs
nothing but the standard library: the end may live in an environment that has nothing of ours.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Iterator

__all__ = ["main", "ready", "rounds"]


def ready() -> None:
    """Tell the harness that this end is."""
    print("ready", flush=True)


def rounds() -> Iterator[int]:
    """Give the number of operations of each round; the time until the next step is the round's.

    It blocks between rounds, a Trio loop too: nothing is under way then, and nothing is to wake up
    within the other side's round.
    """
    ready()
    for line in sys.stdin:
        started = time.perf_counter()
        yield int(line)
        print(time.perf_counter() - started, flush=True)


def main(core: str, function: str, *args: str) -> None:
    """Be one end until the input's end.

    Args:
        core: The processor to be pinned to; empty for none.
        function: What to run.
        args: Its arguments behind the path.
    """
    module, _, name = function.rpartition(".")
    run = getattr(importlib.import_module(module), name)
    if core:
        os.sched_setaffinity(0, {int(core)})  # after the imports; threads to come inherit it
    path = sys.stdin.readline().rstrip("\n")
    if path:
        run(path, *args)


if __name__ == "__main__":
    main(*sys.argv[1:])
