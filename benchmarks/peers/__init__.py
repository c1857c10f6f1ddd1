"""The peers: other libraries that do the same work, each in a form that its own users would write.

They live in a virtual environment of their own, `.venv-peers`, which `make bench-peers` (that is
`python -m benchmarks.peers`) makes and fills. It has no package of ours: the published jumpstarter,
which is one of the peers, has the same import name. A peer that is not there has a line in the
table that says so.

A module here is named for its library, and has the servers and clients of those workloads that are
meaningful for it. What is fair is decided thus:

- A Unix socket, the library's fastest serializer that keeps bytes, its compiled parts if there are.
- No library's own limit stands in the way: gRPC's 4 MiB wall is lifted, and that on calls that
  come at once.
- gRPC and grpclib carry protobuf's own message of one `bytes` field.
- A blocking server answers each connection in a thread, an asynchronous one each call in a task,
  as the libraries do by themselves.
- A generator's items come as the library has them come. For some that is one call for each item.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

__all__ = ["HOME", "PEERS", "PYTHON", "installed"]

HOME: Final = Path(__file__).parents[2] / ".venv-peers"
PYTHON: Final = HOME / "bin" / "python"

# What each needs beside itself, if anything, is behind it. The published one is pinned: its
# successor is what is measured against it.
PEERS: Final[Mapping[str, tuple[str, ...]]] = {
    "grpcio": ("grpcio", "protobuf"),
    "grpclib": ("grpclib", "protobuf"),
    "rpyc": ("rpyc",),
    "Pyro5": ("Pyro5", "msgpack"),
    "thriftpy2": ("thriftpy2",),
    "pyzmq": ("pyzmq",),
    "jumpstarter": ("jumpstarter==0.9.0", "jumpstarter-driver-network==0.9.0"),
    "h2": ("h2",),  # for the framing alone
}

_ASK: Final = """
import importlib.metadata, json, sys
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
print(json.dumps(found))
"""


def installed() -> dict[str, str]:
    """Give the versions of the peers that are there."""
    if not PYTHON.exists():
        return {}
    ask = [str(PYTHON), "-c", _ASK, *PEERS]
    answer = subprocess.run(ask, stdout=subprocess.PIPE, check=True)
    found: dict[str, str] = json.loads(answer.stdout)
    return found
