"""Run one end of a side in its own process: `python -m benchmarks.worker CORES FUNCTION ARG...`.

FUNCTION is the dotted name of a function that takes the socket's path and the ARGs. The harness
communicates with the worker over the worker's standard streams, one line at a time:

    path ->           begin: serve at the path, or connect to it
    <- ready          the end serves, or is connected
    count ->          (client) run this number of operations
    <- {"seconds": s} the round's duration and any other measures, as JSON
    end of input ->   end

The operating system closes the worker's input even if the harness is killed, so no worker outlives
the harness. This module imports only the standard library, because an end may run in an environment
without our package and its dependencies.
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

_more: dict[str, float] = {}  # measures of the current round other than its duration


def ready() -> None:
    """Notify the harness that this end is ready."""
    print("ready", flush=True)


def rounds() -> Iterator[int]:
    """Yield the number of operations of each round, and time the caller until its next step.

    Between rounds this iterator blocks the thread, including an event loop that runs in it. No
    operation is in flight then, and no task may wake up during another side's round.
    """
    ready()
    for line in sys.stdin:
        _more.clear()
        started = time.perf_counter()
        yield int(line)
        seconds = time.perf_counter() - started
        print(json.dumps({"seconds": seconds, **_more}), flush=True)


def report(**measures: float) -> None:
    """Add measures to the answer of the current round."""
    _more.update(measures)


def main(cores: str, function: str, *args: str) -> None:
    """Run one end until its standard input ends.

    Args:
        cores: The processors to pin this process to, separated by commas; empty for no pinning.
        function: The dotted name of the function to run.
        args: The function's arguments after the path.
    """
    module, _, name = function.rpartition(".")
    run = getattr(importlib.import_module(module), name)
    if cores:
        # Pin after the imports. Threads that start later inherit the affinity.
        os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # for 1,000 connections
    path = sys.stdin.readline().rstrip("\n")
    if path:
        run(path, *args)


if __name__ == "__main__":
    main(*sys.argv[1:])
