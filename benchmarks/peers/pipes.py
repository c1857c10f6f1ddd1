"""The ends of the standard library's `multiprocessing.Connection`: one pickle at a time."""

from __future__ import annotations

import threading
from multiprocessing.connection import Client, Connection, Listener

from ..loops import repeat
from ..payloads import VALUE
from .common import serve_in_thread

__all__ = ["call", "serve", "set_up"]


def serve(path: str) -> None:
    listener = Listener(path, "AF_UNIX")

    def accept() -> None:
        while True:
            connection = listener.accept()
            threading.Thread(target=_answer, args=(connection,), daemon=True).start()

    serve_in_thread(path, accept)


def _answer(connection: Connection) -> None:
    with connection:
        while True:
            try:
                connection.send(connection.recv())
            except EOFError:
                return


def call(path: str) -> None:
    with Client(path, "AF_UNIX") as connection:

        def round_trip() -> None:
            connection.send(VALUE)
            connection.recv()

        repeat(round_trip)


def set_up(path: str) -> None:
    def connect_and_call() -> None:
        with Client(path, "AF_UNIX") as connection:
            connection.send(VALUE)
            connection.recv()

    repeat(connect_and_call)
