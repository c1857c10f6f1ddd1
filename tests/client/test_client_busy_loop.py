"""Test that a client whose loop was busy does not blame the exporter."""

from __future__ import annotations

import select
import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from drivers_for_tests import Plain
from exporter_thread import served_at
from helpers import PATIENCE, until
from jumpstarter import connect_async
from jumpstarter._io.transport import SocketTransport
from jumpstarter._limits import Limits
from jumpstarter.driver import export

GRACE = 1000.0  # seconds of the test's clock


@dataclass(kw_only=True)
class Slow(Plain):
    """Takes a while to end a call that was cancelled: until the test lets it."""

    running: threading.Event = field(default_factory=threading.Event, repr=False)
    ending: threading.Event = field(default_factory=threading.Event, repr=False)
    may_end: threading.Event = field(default_factory=threading.Event, repr=False)

    @export
    async def run(self) -> None:
        self.running.set()
        try:
            await trio.sleep_forever()
        finally:
            self.ending.set()
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self.may_end.wait, PATIENCE)


def test_an_answer_that_came_while_the_loop_was_busy_counts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Trio runs the reader and the task whose time is up in either order, so try several times."""
    driver, clock = Slow(), MockClock(rate=1)

    async def cancel(address: str) -> None:
        async with connect_async(address, limits=Limits(cancel_grace=GRACE)) as client:
            arriving = select.poll()
            transport = client.channel.channel.connection._transport
            assert isinstance(transport, SocketTransport)
            arriving.register(transport.fileno(), select.POLLIN)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.call_async, "run")
                await until(driver.running.is_set)
                nursery.cancel_scope.cancel()
                with trio.CancelScope(shield=True):
                    await until(driver.ending.is_set)
                    driver.may_end.set()
                    # The loop is busy until the answer has arrived, and the grace has passed.
                    assert arriving.poll(PATIENCE * 1000)
                    clock.jump(2 * GRACE)

    with served_at(f"unix:{tmp_path}/socket", driver) as address:
        for _ in range(12):
            for event in (driver.running, driver.ending, driver.may_end):
                event.clear()
            trio.run(cancel, address, clock=clock)
    assert [each.message for each in caplog.records if "had not ended" in each.message] == []
