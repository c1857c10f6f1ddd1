"""The board of `story.py`: a login on its serial line, and a web page on its network.

It is a program of its own that knows nothing of jumpstarter, and runs as long as it has power. Its
line is stdin and stdout; the socket that its web server listens on is the file descriptor named by
its argument.
"""

from __future__ import annotations

import http.server
import os
import socket
import sys
import threading

PAGE = b"<h1>It boots</h1>\n"
_STDIN, _STDOUT = 0, 1


class Page(http.server.BaseHTTPRequestHandler):
    """Serves the board's only page."""

    def do_GET(self) -> None:
        """Answer a GET request."""
        self.send_response(200)
        self.send_header("Content-Length", str(len(PAGE)))
        self.end_headers()
        self.wfile.write(PAGE)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        """Log nothing: stderr belongs to the exporter."""


def serve_page(listener: socket.socket) -> None:
    """Serve the page while the power is on."""
    address = listener.getsockname()
    server = http.server.ThreadingHTTPServer(address, Page, bind_and_activate=False)
    server.socket = listener
    threading.Thread(target=server.serve_forever, daemon=True).start()


def ask(prompt: str) -> str:
    """Print a prompt, and read a line."""
    os.write(_STDOUT, prompt.encode())
    typed = b""
    while not typed.endswith((b"\r", b"\n")):
        typed += os.read(_STDIN, 1)
    return typed.decode("ascii", "replace").strip()


def main() -> None:
    """Boot, let a user log in, and answer commands until the power is off."""
    serve_page(socket.socket(fileno=int(sys.argv[1])))
    os.write(_STDOUT, b"booting...\r\n")
    while (name := ask("board login: ")) != "root":
        os.write(_STDOUT, f"no such user: {name}\r\n".encode())
    while True:
        command = ask("# ")
        os.write(_STDOUT, f"{command}: not found\r\n".encode())


if __name__ == "__main__":
    main()
