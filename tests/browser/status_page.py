"""Look at the status page with a real browser: `make test-browser`.

It needs Chromium (Debian's package `chromium`), so neither `make test` nor `.ci/run` runs it. The
screenshots are written to build/browser/; look at them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from drivers_for_tests import Plain
from helpers import PATIENCE
from jumpstarter import connect, serve_async
from jumpstarter._io.portal import start_blocking_portal
from jumpstarter.drivers.composite import Composite
from jumpstarter.drivers.console import RecordedConsole
from jumpstarter.drivers.power import MockPower
from jumpstarter.observe import Metrics, serve_status

CHROMIUM: Final = shutil.which("chromium")
SHOTS: Final = Path(__file__).parents[2] / "build" / "browser"
HOSTILE: Final = "<img src=x onerror=\"document.body.textContent='owned'\">"
BOOT: Final = r"""
printf '\033[1mU-Boot\033[0m 2026.07\r\nHit any key to stop autoboot\r\n'
printf '%s\r\n' '<img src=x onerror="document.body.textContent=1">'
i=0; while [ $i -lt 40 ]; do echo "[    $i.000000] probing device $i"; i=$((i+1)); done
exec sleep 1000
"""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """Serve a page about an exporter that is in use."""
    tree = Composite(
        description=HOSTILE,
        children={
            "power": MockPower(description="The supply of the board"),
            "dut": Composite(
                children={
                    "serial": RecordedConsole(command=["sh", "-c", BOOT]),
                    "gone": RecordedConsole(source=str(tmp_path / "ttyUSB0")),
                    "relay": Plain(),
                }
            ),
        },
    )
    served = serve_async(tree, f"unix:{tmp_path}/s", metrics=Metrics(), exclusive=True)
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(served) as server:
        shown = serve_status(server, "0", name="bench 7")
        with (
            portal.wrap_async_context_manager(shown) as page,
            connect(server.address, name=HOSTILE) as client,
        ):
            client.power.on()
            with client.power.streamingcall("read", 100_000) as items:
                next(items)
                yield page


def browse(url: str, directory: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the browser until it has loaded the page and shown what the first event says."""
    assert CHROMIUM is not None
    command = [CHROMIUM, "--headless", "--disable-gpu", "--hide-scrollbars", "--enable-logging"]
    command += [f"--user-data-dir={directory}", "--timeout=8000", *options, url]
    if os.geteuid() == 0:
        command.insert(1, "--no-sandbox")  # Chromium refuses to run as root with it
    return subprocess.run(command, capture_output=True, text=True, timeout=4 * PATIENCE, check=True)


def test_page_shows_what_goes_on_and_runs_no_text_of_others(url: str, tmp_path: Path) -> None:
    done = browse(url, tmp_path / "profile", "--dump-dom")
    dom = done.stdout
    for text in ("bench 7", "dut.serial", "U-Boot 2026.07", "probing device 39", "live, ", "holds"):
        assert text in dom
    assert "&lt;img src=x onerror" in dom
    assert "<img" not in dom
    assert "owned" not in dom.replace("textContent='owned'", "")
    for fault in ("Content Security Policy", "Uncaught", "SyntaxError"):
        assert fault not in done.stderr


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("wide", ["--window-size=1280,1000"]),
        ("narrow", ["--window-size=420,1400"]),
        ("dark", ["--window-size=1280,1000", "--blink-settings=preferredColorScheme=0"]),
    ],
)
def test_screenshot(name: str, options: list[str], url: str, tmp_path: Path) -> None:
    SHOTS.mkdir(parents=True, exist_ok=True)
    shot = SHOTS / f"status-{name}.png"
    shot.unlink(missing_ok=True)
    browse(url, tmp_path / "profile", f"--screenshot={shot}", *options)
    assert shot.stat().st_size > 10_000  # an empty page has less
