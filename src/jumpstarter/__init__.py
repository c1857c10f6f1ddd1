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
    observe                     the log in JSON, metrics
    common, streams, utils, portal  import paths of the published package
    cli, testing                the command line, and helpers for tests
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._limits import Limits
from ._util import compiled as _compiled
from ._version import __version__

if TYPE_CHECKING:
    from . import client as client
    from . import driver as driver
    from . import errors as errors
    from ._api.connecting import connect, connect_async
    from ._api.local import serve
    from ._api.serving import serve_async
    from ._exporter.server import Server

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

_compiled.choose_form(__path__[0])


def __getattr__(name: str) -> Any:
    """Import what is used: a client need not wait for the exporter's half of the library."""
    value = _imported(name)
    if value is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def _imported(name: str) -> Any:
    """Import one of the names of `__all__`, or a package that programs use as an attribute."""
    if name in {"connect", "connect_async"}:
        from ._api import connecting  # noqa: PLC0415

        return getattr(connecting, name)
    if name in {"serve", "serve_async"}:
        from ._api import local, serving  # noqa: PLC0415

        return local.serve if name == "serve" else serving.serve_async
    if name == "Server":
        from ._exporter.server import Server  # noqa: PLC0415

        return Server
    if name in {"client", "driver", "errors"}:
        # As statements: `from . import client` would ask for the attribute, and come back here.
        import jumpstarter.client  # noqa: PLC0415
        import jumpstarter.driver  # noqa: PLC0415
        import jumpstarter.errors  # noqa: F401, PLC0415

        return globals()[name]
    return None


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
