"""Drive hardware under test: drivers on the exporter, driver clients where the test runs.

The four verbs of everyday use are here: `serve` and `connect` for blocking code, `serve_async` and
`connect_async` for Trio code. `Limits` is for who must change one. The rest of the house, read from
the ground up; each room knows only those above it:

    _installed                how to add an extra to this installation
    errors                    every exception, one tree, each with its wire code
    _text                     a peer's words, made fit for a line of ours
    _tracebacks, _copies      which frames an error shows; what can be neither copied nor pickled
    _checks                   what an argument must be
    _limits                   every limit, with its reason
    _shelter                  signal handlers, kept out for a while
    _framing                  bytes <-> frames (Cython)
    _refusals                 whose fault it is that a value cannot be converted
    _values                   Python's types <-> what the wire carries
    _decoding                 what a decoder refuses, as one error
    _messages, _faults        what a frame may say; exceptions to and from their wire form
    _credit, _outbox, _events how much a peer may send, what leaves when, what came in
    _pieces, _patience        bytes that wait; how often a peer may do what is seldom needed
    _protocol, _roles         one connection's rules, without any I/O
    _nesting                  whether a driver's own code is calling
    _signal, _background      how tasks wait for each other, and end with each other
    _journal                  how often something is written to the log
    _writes                   a write is complete, or an error that says of what
    _fork                     what a forked child must not keep
    _files                    files, and threads that the system does not let go
    _watchdog                 code that holds an event loop
    _transfer                 long transfers
    _transport                byte streams as a multiplexer wants them
    _connection, _streams     one byte stream shared by many calls; raw streams on it
    _portal                   a Trio loop in a thread, and blocking calls into it
    _listener, _sockets       listening sockets; addresses and sockets
    _hangup, _accept          has a peer gone; who connects is taken in
    _forward                  connections carried on somewhere else
    driver, client            the two sides; they never meet but over the wire
    drivers                   ready-made drivers, and mixins
    _server, _serve           a driver tree behind an address; clients from one, and both joined
    _stderr, _stdio           the log's way out, and the drivers' prints', on which nobody waits
    _offer, _process          what the command line names, loaded; the exporter's own process
    common, portal, testing, cli
                              doors: import paths, test helpers, the command line
"""

from __future__ import annotations

from ._limits import Limits
from ._serve import connect, connect_async, serve
from ._server import Server, serve_async
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
