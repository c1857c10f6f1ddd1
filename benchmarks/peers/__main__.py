"""Create the peers' environment: `python -m benchmarks.peers`, or `make bench-peers`.

pip installs each peer separately, so that a failed installation does not affect the other peers.
"""

from __future__ import annotations

import subprocess
import sys
import venv

from . import HOME, PEERS, PYTHON, installed


def main() -> int:
    """Install the missing peers, and print the version of each peer."""
    if not PYTHON.exists():
        print(f"making {HOME.name}", flush=True)
        venv.create(HOME, with_pip=True)
    there = installed()
    for name, requirements in PEERS.items():
        if name not in there:
            print(f"installing {' '.join(requirements)}", flush=True)
            pip = [str(PYTHON), "-m", "pip", "install", "--quiet", *requirements]
            subprocess.run(pip, check=False)
    there = installed()
    for name in PEERS:
        print(f"{name}: {there.get(name, 'not installed')}")
    return 0 if there.keys() == PEERS.keys() else 1


if __name__ == "__main__":
    sys.exit(main())
