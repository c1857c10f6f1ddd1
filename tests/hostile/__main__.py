"""Command line of the attacks: `python -m hostile` in the directory `tests`, or `make hostile`."""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import inherited

from . import table
from .attacks import ATTACKS, PEACE, Attack
from .peer import Peer
from .peers import NAMES, peer_named
from .target import Measured, Target, prepare

_AROUND: Final = 2.5  # seconds per attack, to start the processes, warm up and end


def main(argv: Sequence[str] | None = None) -> int:
    """Run the selected attacks, and print the line of each as soon as it has ended."""
    options = _parser().parse_args(argv)
    inherited.restore()
    attacks = [a for a in ATTACKS if not options.only or a.name in options.only]
    if not attacks:
        names = "\n  ".join(attack.name for attack in ATTACKS)
        print(f"no such attack; there are\n  {names}")
        return 2
    peers = [peer_named(name) for name in dict.fromkeys(options.peer or NAMES)]
    print(_setting(options.seconds), _extent(attacks, peers, options.seconds), sep="\n", flush=True)
    results: dict[str, dict[str, Measured | None]] = {}
    with _many_sockets():
        for peer in peers:
            print(f"\n{_title(peer)}\n\n{table.HEAD}", flush=True)
            results[peer.name] = dict(_measured(peer, attacks, options.seconds))
    print(f"\n{table.comparison(attacks, results)}")
    print(table.caveat({name: found.get(PEACE.name) for name, found in results.items()}), end="")
    if options.json is not None:
        options.json.write_text(json.dumps(_raw(attacks, results, options.seconds), indent=1))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m hostile", description=__doc__)
    parser.add_argument("--only", action="append", metavar="NAME", help="this attack (repeatable)")
    parser.add_argument(
        "--peer", action="append", choices=NAMES, help="this server only (repeatable)"
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="of each attack (3)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    return parser


@contextmanager
def _many_sockets() -> Iterator[None]:
    """Raise the limit on open files to the hard limit; the servers inherit it."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def _measured(
    peer: Peer, attacks: Sequence[Attack], seconds: float
) -> Iterator[tuple[str, Measured | None]]:
    for attack in attacks:
        if not _can_be_made(attack, peer):
            yield attack.name, None
            continue
        with tempfile.TemporaryDirectory(prefix="hostile-") as directory:
            prepare(Path(directory))
            with Target.running(peer, attack.setting, Path(directory)) as target:
                measured = target.attacked(attack, seconds)
        print(table.line(attack, measured), flush=True)
        for failure in sorted(set(measured.failures))[:3]:
            print(f"<!-- {failure} -->", flush=True)
        if attack is PEACE and (caveat := table.caveat({peer.name: measured})):
            print(f"<!-- {caveat.strip()} -->", flush=True)
        yield attack.name, measured


def _can_be_made(attack: Attack, peer: Peer) -> bool:
    return attack.name in peer.functions and attack.setting in peer.settings


def _extent(attacks: Sequence[Attack], peers: Sequence[Peer], seconds: float) -> str:
    """Return a line with the number of runs and the time that they will take."""
    runs = sum(_can_be_made(attack, peer) for attack in attacks for peer in peers)
    minutes = runs * (seconds + _AROUND) / 60
    names = ", ".join(peer.name for peer in peers)
    what = f"{len(attacks)} attacks x {len(peers)} peers ({names}), {runs} of which can be made"
    return f"{what}: about {minutes:.0f} min" if minutes >= 1 else f"{what}: less than a minute"


def _title(peer: Peer) -> str:
    return f"## {peer.name} {version(peer.name)}"


def _setting(seconds: float) -> str:
    what = f"Python {platform.python_version()}, {platform.system()}, {os.cpu_count()} processors"
    return f"{what}; {seconds:g} s for each attack; load {os.getloadavg()[0]:.2f} at the start"


def _raw(
    attacks: Sequence[Attack],
    results: dict[str, dict[str, Measured | None]],
    seconds: float,
) -> dict[str, Any]:
    return {
        "setting": _setting(seconds),
        "peers": {
            name: [
                table.raw(attack, measured)
                for attack in attacks
                if (measured := found.get(attack.name)) is not None
            ]
            for name, found in results.items()
        },
    }


if __name__ == "__main__":
    sys.exit(main())
