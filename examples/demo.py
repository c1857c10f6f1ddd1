"""Serve three device trees and drive each as a test would; exit with 0 if all goes as expected.

Everything is real but the board: the protocol, the Unix sockets, the pseudo-terminal and the child
process behind it.
"""

from __future__ import annotations

import hashlib
import sys

from board import BANNER, PROMPT
from example import ExampleClient, ExampleDriver
from jumpstarter import serve
from jumpstarter.errors import DriverTimeoutError
from lab import BenchClient, bench
from serial_console import SerialConsoleClient, SimulatedConsole, read_until


class Report:
    """Compares results, and prints a line for each comparison.

    Attributes:
        failures: How many were not as expected.
    """

    def __init__(self) -> None:
        self.failures = 0

    def check(self, what: str, got: object, expected: object) -> None:
        """Compare one result."""
        good = got == expected
        self.failures += not good
        print(f"  {'ok  ' if good else 'FAIL'}  {what:<44} {got!r:.60}")
        if not good:
            print(f"        {'expected':<44} {expected!r:.60}")


def show_example(report: Report, client: ExampleClient) -> None:
    """Call a method, and iterate over a generator."""
    report.check("a call", client.echo("hello"), "hello")
    report.check(
        "values arrive as they left",
        client.echo([2**53 + 1, b"\xff", None]),
        [2**53 + 1, b"\xff", None],
    )
    items = list(client.echo_generator("hello"))
    report.check("a generator", f"{len(items)} times {items[0]!r}", "10 times 'hello'")


def show_console(report: Report, client: SerialConsoleClient) -> None:
    """Talk to a board over its serial console, in raw bytes."""
    print(f"        the board is a process behind {client.device()}")
    with client.connect() as console:
        report.check(
            "a raw stream: what the board says", read_until(console, PROMPT), BANNER + PROMPT
        )
        console.send(b"echo hello\r")
        answer = read_until(console, PROMPT)
        report.check("and what it answers", answer, b"echo hello\r\nhello\r\n" + PROMPT)


def show_bench(report: Report, client: BenchClient) -> None:
    """Use a composite's own method and its children, and cancel a slow operation."""
    image = bytes(range(256)) * 40
    digest = hashlib.sha256(image).hexdigest()
    report.check("an async method", client.flash(image), digest)
    report.check("a child's method", client.example.echo("hello"), "hello")
    with client.console.connect() as console:
        report.check("a child's raw stream", read_until(console, PROMPT), BANNER + PROMPT)
    try:
        with client.timeout(0.2):
            client.flash(image * 1000)  # would take more than a minute
        outcome = "flashed"
    except DriverTimeoutError:
        outcome = "timed out"
    report.check("a timeout", outcome, "timed out")
    report.check("after it the driver has cleaned up", client.state(), "erased")


def main() -> int:
    """Run all demonstrations, and return the exit code."""
    report = Report()
    print("example: the driver API's reference example")
    with serve(ExampleDriver()) as client:
        assert isinstance(client, ExampleClient)
        show_example(report, client)
    print("serial_console: a console on a pseudo-terminal")
    with serve(SimulatedConsole()) as client:
        assert isinstance(client, SerialConsoleClient)
        show_console(report, client)
    print("lab: a bench with both of them on it")
    with serve(bench()) as client:
        assert isinstance(client, BenchClient)
        show_bench(report, client)
    print("all as expected" if not report.failures else f"{report.failures} not as expected")
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
