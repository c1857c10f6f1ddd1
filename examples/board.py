"""A simulated board on a serial line: a shell with three commands.

It is a program of its own, whose line is stdin and stdout, and imports nothing of jumpstarter: to a
driver it is as foreign as a real board. It ends when its line is hung up.
"""

from __future__ import annotations

import os

BANNER = b"board 1.0 ready\r\n"
PROMPT = b"$ "
_STDIN, _STDOUT = 0, 1


def answer(command: str) -> str:
    """Return the output of a command line."""
    name, *words = command.split() or [""]
    match name:
        case "":
            return ""
        case "echo":
            return " ".join(words) + "\r\n"
        case "uname":
            return "board\r\n"
        case "reboot":
            return BANNER.decode()
        case _:
            return f"{name}: not found\r\n"


def run_shell() -> None:
    """Echo the input and answer each line, until the line is hung up."""
    os.write(_STDOUT, BANNER + PROMPT)
    typed = ""
    while True:
        try:
            data = os.read(_STDIN, 1024)
        except OSError:  # EIO: the other end was closed
            return
        for character in data.decode("ascii", "replace"):
            if character == "\r":
                os.write(_STDOUT, b"\r\n" + answer(typed).encode() + PROMPT)
                typed = ""
            else:
                os.write(_STDOUT, character.encode())
                typed += character


if __name__ == "__main__":
    run_shell()
