"""Tests that cancelling a conformance case at any step of any task leaves nothing behind.

Each test runs a case once to count the steps of all tasks of the loop (the client's, the exporter's
and the driver's), and then once per step, cancelling the case right before that step. All runs of a
case share a connection, so that anything that one run leaves behind disturbs the next.
"""

from __future__ import annotations

from typing import Final

import pytest
import trio
from cases import CASES, Case
from driver_conformance_asyncio import AsyncioConformance
from ends import Ends
from scales import LANE_SWEPT, SWEPT, Scale
from trio.testing import wait_all_tasks_blocked

from helpers import counted, in_time
from jumpstarter._io import crossing_queue
from jumpstarter.client import DriverClient
from leaks import leaked_since, look
from transports import memory_pair

PATIENCE: Final = 120.0  # seconds for a sweep; most take one
LANE_STRIDE: Final = 2
LEAST: Final = 2_000  # steps in all cases; fewer mean that the sweep missed some

_swept: Final[dict[str, int]] = {}


async def run_once(
    case: Case, client: DriverClient, at: int, scale: Scale = SWEPT
) -> tuple[int, bool]:
    """Run a case, cancelled at a step; return its step count and whether it was cut short."""
    scope = trio.CancelScope()
    with counted(at, scope.cancel) as steps, scope:
        await case.run(client, scale.within(case.max_calls))
    return steps.taken, scope.cancelled_caught


async def settled(ends: Ends) -> tuple[dict[str, int], int]:
    """Wait until all tasks block; return the resources in use and the number of tasks."""
    await wait_all_tasks_blocked()
    return ends.busy, trio.lowlevel.current_statistics().tasks_living


@pytest.mark.parametrize("name", CASES)
async def test_a_case_can_be_cancelled_at_every_step(name: str) -> None:
    case = CASES[name]
    ends = Ends(await memory_pair(), SWEPT.within(case.max_calls).limits)
    async with in_time(PATIENCE), ends.running() as client:
        total, _ = await run_once(case, client, at=0)
        baseline = await settled(ends)
        assert baseline[0] == {}
        before = look()
        cut_short = 0
        for step in range(1, total + 1):
            _, caught = await run_once(case, client, at=step)
            cut_short += caught
            # Check before anything settles: a cancelled call waits for the driver's code to end.
            assert ends.driver.running == [], f"cancelled at step {step}"
            assert await client.call_async("echo", step) == step
            assert await settled(ends) == baseline, f"cancelled at step {step}"
            assert leaked_since(before) == [], f"cancelled at step {step}"
    assert cut_short, "no cancellation has had an effect"
    _swept[name] = total


@pytest.mark.parametrize("name", CASES)
async def test_a_case_of_an_asyncio_driver_can_be_cancelled_anywhere(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cancel at every `LANE_STRIDE`-th step: the steps of the other loop cannot be counted."""
    monkeypatch.setattr(crossing_queue, "CAPACITY", 1)
    case = CASES[name]
    limits = LANE_SWEPT.within(case.max_calls).limits
    ends = Ends(await memory_pair(), limits, AsyncioConformance)
    async with in_time(PATIENCE), ends.running() as client:
        await client.call_async("echo")  # starts the thread of the lane
        total, _ = await run_once(case, client, 0, LANE_SWEPT)
        baseline = await settled(ends)
        assert baseline[0] == {}
        before = look()
        cut_short = 0
        for step in range(1 + len(name) % LANE_STRIDE, total + 1, LANE_STRIDE):
            _, caught = await run_once(case, client, step, LANE_SWEPT)
            cut_short += caught
            assert ends.driver.running == [], f"cancelled at step {step}"
            assert await client.call_async("echo", step) == step
            assert await settled(ends) == baseline, f"cancelled at step {step}"
            assert leaked_since(before) == [], f"cancelled at step {step}"
    assert cut_short, "no cancellation has had an effect"


def test_enough_points_were_swept(request: pytest.FixtureRequest) -> None:
    chosen = {item.name for item in request.session.items if item.path == request.path}
    if len(chosen) <= 2 * len(CASES):
        pytest.skip("not all cases were run")
    total = sum(_swept.values())
    print(f"cancelled at {total} points of {len(_swept)} cases")
    assert total >= LEAST
