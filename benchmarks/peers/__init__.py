"""Peers: other libraries that do the same work, each used as its own users would use it.

The peers have a separate virtual environment, `.venv-peers`. `make bench-peers`, which runs
`python -m benchmarks.peers`, creates it and installs the peers. It does not contain our package,
because one of the peers, the published jumpstarter, has the same import name. The table marks a
peer that is not installed.

Each module is named after its library. It has the servers and clients of the workloads that are
meaningful for the library. These rules keep the comparison fair:

- Each peer uses a Unix socket, the library's fastest serializer that preserves bytes, and the
  library's compiled parts if it has any.
- Limits of a library do not apply: the benchmarks lift gRPC's limits on the size of a message,
  4 MiB, and on the number of concurrent calls.
- gRPC and grpclib carry protobuf's standard message with one `bytes` field.
- A blocking server answers each connection in a thread, and an asynchronous server each call in a
  task, which is the default of these libraries.
- A generator uses the library's own mechanism for items. Some libraries make one call per item.
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

# The requirements of each peer: the library, then any packages that it needs in addition. The
# published jumpstarter is pinned, because the library measured here is its successor.
PEERS: Final[Mapping[str, tuple[str, ...]]] = {
    "grpcio": ("grpcio", "protobuf"),
    "grpclib": ("grpclib", "protobuf"),
    "rpyc": ("rpyc",),
    "Pyro5": ("Pyro5", "msgpack"),
    "thriftpy2": ("thriftpy2",),
    "pyzmq": ("pyzmq",),
    "jumpstarter": ("jumpstarter==0.9.0", "jumpstarter-driver-network==0.9.0"),
    "h2": ("h2",),  # only for the framing
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
    """Return the versions of the installed peers, by name."""
    if not PYTHON.exists():
        return {}
    ask = [str(PYTHON), "-c", _ASK, *PEERS]
    answer = subprocess.run(ask, stdout=subprocess.PIPE, check=True)
    found: dict[str, str] = json.loads(answer.stdout)
    return found
