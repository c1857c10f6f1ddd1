"""An HTTP server that answers well, badly or never, for tests of what an exporter fetches."""

from __future__ import annotations

import gzip
import http.server
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

BODY: Final = bytes(range(256)) * 1000


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers by what the path says."""

    protocol_version = "HTTP/1.1"
    elsewhere = ""
    let_go = threading.Event()

    def do_GET(self) -> None:
        what, _, rest = self.path.strip("/").partition("/")
        getattr(self, f"answer_{what}")(rest)

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"content_length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def answer_file(self, _: str) -> None:
        assert self.headers["accept-encoding"] == "identity"
        self.answer(200, BODY)

    def answer_hops(self, rest: str) -> None:
        left = int(rest)
        self.answer(302, location=f"/hops/{left - 1}" if left > 1 else "/file")

    def answer_elsewhere(self, _: str) -> None:
        self.answer(302, location=self.elsewhere)

    def answer_missing(self, _: str) -> None:
        self.answer(404, b"no such image")

    def answer_zipped(self, _: str) -> None:
        self.answer(200, gzip.compress(BODY), content_encoding="gzip")

    def answer_short(self, _: str) -> None:
        self.answer(200, BODY, content_length=str(2 * len(BODY)))
        self.close_connection = True

    def answer_endless(self, _: str) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(BODY)
        self.close_connection = True

    def answer_cut(self, _: str) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(BODY), BODY))
        self.close_connection = True

    def answer_unsized(self, _: str) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for _number in range(10):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(BODY), BODY))
        self.wfile.write(b"0\r\n\r\n")

    def answer_silent(self, _: str) -> None:
        self.let_go.wait(30)
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name there
        """Say nothing."""


class Server(http.server.ThreadingHTTPServer):
    """Forgets connections that the client has cut."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing."""


@contextmanager
def running(context: ssl.SSLContext | None = None) -> Iterator[str]:
    """Run a server, and give the beginning of its URLs."""
    with Server(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = False
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            scheme = "http" if context is None else "https"
            yield f"{scheme}://127.0.0.1:{server.server_address[1]}"
        finally:
            Handler.let_go.set()
            server.shutdown()
            thread.join()
