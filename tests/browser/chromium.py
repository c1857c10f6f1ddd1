"""Drive Chromium through the pipe of its DevTools protocol, which needs no other package."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from processes import PATIENCE, running

__all__ = ["CHROMIUM", "Tab", "open_tab"]

# Chromium reads commands from descriptor 3, and writes answers to 4.
_AT_3_AND_4: Final = """
import fcntl, os, sys
commands, answers = (fcntl.fcntl(int(each), fcntl.F_DUPFD, 10) for each in sys.argv[1:3])
os.dup2(commands, 3)
os.dup2(answers, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
CHROMIUM: Final = shutil.which("chromium")


class Tab:
    """One page of the browser.

    Args:
        send: Where commands are written.
        receive: Where answers and events come from.
    """

    def __init__(self, send: int, receive: int) -> None:
        self._send, self._receive = send, receive
        self._buffer = b""
        self._number = 0
        self._events: list[dict[str, Any]] = []
        self._session = ""
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        attached = self.ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        self.ask("Page.enable")

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Run a command, and return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._send, data) :]
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result
            self._events.append(answer)

    def _read(self) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._receive], [], [], deadline - time.monotonic())
            assert ready, "Chromium has said nothing"
            data = os.read(self._receive, 1 << 20)
            assert data, "Chromium has ended"
            self._buffer += data
        text, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        return message

    def show(self, *, width: int, height: int = 900, dark: bool = False) -> None:
        """Set the size of the window and the colours that the user prefers."""
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, url: str) -> None:
        """Load a page, and wait for it."""
        self._events.clear()
        self.ask("Page.navigate", url=url)
        while not any(each.get("method") == "Page.loadEventFired" for each in self._events):
            self._events.append(self._read())

    def value(self, expression: str) -> Any:
        """Return what an expression of JavaScript evaluates to, also that of a promise."""
        answer = self.ask(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def screenshot(self, file: Path) -> None:
        """Save what the window shows."""
        file.write_bytes(base64.b64decode(self.ask("Page.captureScreenshot")["data"]))


@contextlib.contextmanager
def open_tab(profile: Path) -> Iterator[Tab]:
    """Yield a page of a new browser."""
    assert CHROMIUM is not None
    commands, answers = os.pipe(), os.pipe()
    program = [CHROMIUM, "--headless", "--disable-gpu", "--hide-scrollbars"]
    program += [f"--user-data-dir={profile}", "--remote-debugging-pipe"]
    if os.geteuid() == 0:
        program.append("--no-sandbox")  # Chromium refuses to run as root with it
    arguments = [str(commands[0]), str(answers[1]), *program]
    with running(
        [sys.executable, "-c", _AT_3_AND_4, *arguments],
        seconds=20 * PATIENCE,  # for all pages of the site
        pass_fds=[commands[0], answers[1]],
        stderr=subprocess.DEVNULL,
    ):
        os.close(commands[0])
        os.close(answers[1])
        try:
            yield Tab(commands[1], answers[0])
        finally:
            os.close(commands[1])
            os.close(answers[0])
