"""The ends of pyzmq, which has messages instead of calls.

Calls use request and reply sockets, and streams use push and pull sockets.
"""

from __future__ import annotations

from typing import Any

import zmq

from ..loops import repeat
from ..payloads import ANSWER, PIECE, VALUE, Tally, encode_order
from ..worker import rounds
from .common import serve_in_thread

__all__ = ["call", "serve", "serve_uploads", "upload"]


def serve(path: str) -> None:
    def answer() -> None:
        while True:
            socket.send(socket.recv())

    socket = _bind(zmq.REP, path)
    serve_in_thread(path, answer)


def serve_uploads(path: str) -> None:
    def count() -> None:
        tally = Tally()
        while True:
            if tally.add(pieces.recv()):
                answers.send(ANSWER)

    pieces = _bind(zmq.PULL, path)
    answers = _bind(zmq.PUSH, _answers(path))
    serve_in_thread(path, count)


def _answers(path: str) -> str:
    return f"{path}-answers"


def _bind(kind: int, path: str) -> Any:
    socket = zmq.Context.instance().socket(kind)
    socket.bind(f"ipc://{path}")
    return socket


def _connect(kind: int, path: str) -> Any:
    socket = zmq.Context.instance().socket(kind)
    socket.connect(f"ipc://{path}")
    return socket


def call(path: str) -> None:
    socket = _connect(zmq.REQ, path)

    def round_trip() -> None:
        socket.send(VALUE)
        socket.recv()

    repeat(round_trip)
    zmq.Context.instance().destroy()


def upload(path: str) -> None:
    pieces = _connect(zmq.PUSH, path)
    answers = _connect(zmq.PULL, _answers(path))
    for count in rounds():
        pieces.send(encode_order(count))
        for _ in range(count):
            pieces.send(PIECE, copy=False)
        answers.recv()
    zmq.Context.instance().destroy()
