"""Drive hardware under test: drivers on the exporter, driver clients where the test runs.

Everyday use needs four functions: `serve` and `connect` for blocking code, `serve_async` and
`connect_async` for Trio code. `Limits` changes a limit. The packages are layers, and each imports
only from those above it:

    errors, _limits, _framing   exceptions with their wire codes, limits, the frame codec (Cython)
    _util                       small helpers that know nothing of the protocol
    _protocol                   the protocol's rules without I/O
    _io                         sockets, transports, connections, byte streams, the portal
    client                      the driver client and its calls
    driver                      the base class of drivers and its decorators
    _exporter                   answers calls: sessions, dispatch, execution, admission
    drivers                     ready-made drivers and mixins for clients
    _api                        the four functions
    config                      drivers from configurations in YAML
    common, streams, utils, portal  import paths of the published package
    cli, testing                the command line, and helpers for tests
"""

from __future__ import annotations

from ._api.connecting import connect, connect_async
from ._api.local import serve
from ._api.serving import serve_async
from ._exporter.server import Server
from ._limits import Limits
from ._version import __version__

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = [
    "Limits",
    "Server",
    "__version__",
    "connect",
    "connect_async",
    "serve",
    "serve_async",
]
