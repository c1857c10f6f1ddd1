"""One end of a side, in its own process: `python -m benchmarks.worker CORES FUNCTION ARG...`.

FUNCTION is a dotted name, called with the socket's path and the ARGs. The harness speaks to it over
the process's standard streams, one line at a time:

    path ->           begin: serve there, or connect
    <- ready          it serves, or is connected
    count ->          (client) do so many operations
    <- {"seconds": s} it has, and took so long; as JSON, with what else it measured
    end of input ->   end

The end of input comes even if the harness is killed, so nothing is left behind. This file needs
nothing but the standard library: the end may live in an environment that has nothing of ours.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
import time
from collections.abc import Iterator

__all__ = ["main", "ready", "report", "rounds"]

_more: dict[str, float] = {}  # what the present round has measured besides its time


def ready() -> None:
    """Tell the harness that this end is."""
    print("ready", flush=True)


def rounds() -> Iterator[int]:
    """Give the number of operations of each round; the time until the next step is the round's.

    It blocks between rounds, an event loop too: nothing is under way then, and nothing is to wake
    up within another side's round.
    """
    ready()
    for line in sys.stdin:
        _more.clear()
        started = time.perf_counter()
        yield int(line)
        seconds = time.perf_counter() - started
        print(json.dumps({"seconds": seconds, **_more}), flush=True)


def report(**measures: float) -> None:
    """Add to what the present round's answer says."""
    _more.update(measures)


def main(cores: str, function: str, *args: str) -> None:
    """Be one end until the input's end.

    Args:
        cores: The processors to be pinned to, with commas; empty for none.
        function: What to run.
        args: Its arguments behind the path.
    """
    module, _, name = function.rpartition(".")
    run = getattr(importlib.import_module(module), name)
    if cores:
        # After the imports; threads to come inherit it.
        os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # a thousand connections
    path = sys.stdin.readline().rstrip("\n")
    if path:
        run(path, *args)


if __name__ == "__main__":
    main(*sys.argv[1:])
