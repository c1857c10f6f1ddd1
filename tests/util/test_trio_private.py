"""The private names of Trio that are in use exist, and the library works without them.

`make test-latest` runs these tests with the newest Trio: they tell which name it lacks.
"""

from __future__ import annotations

import ast
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import pytest
import trio

import jumpstarter
from helpers import PATIENCE
from jumpstarter._util import trio_private

TESTS: Final = Path(__file__).parents[1]
SRC: Final = Path(jumpstarter.__file__).parent
NAMES: Final = {
    "GLOBAL_RUN_CONTEXT",
    "WaitTaskRescheduled",
    *(
        name
        for cls in (trio.lowlevel.Task, trio.CancelScope, trio.Nursery)
        for name in vars(cls)
        if name.startswith("_") and not name.startswith("__")
    ),
}


def test_trio_has_every_private_name_in_use() -> None:
    assert trio_private.ABSENT == ()


@pytest.mark.parametrize("is_seen", [True, False])
async def test_the_running_task_and_its_loop_are_those_of_trio(
    monkeypatch: pytest.MonkeyPatch, *, is_seen: bool
) -> None:
    monkeypatch.setattr(trio_private, "CAN_SEE_TASK", is_seen)
    monkeypatch.setattr(trio_private, "CAN_SEE_TOKEN", is_seen)

    def both() -> tuple[object, object]:
        return trio_private.current_task(), trio_private.current_token()

    def look_elsewhere() -> None:
        for ask in (trio_private.current_task, trio_private.current_token):
            with pytest.raises(RuntimeError, match="must be called from async context"):
                ask()

    async def other_loop() -> None:
        assert trio_private.current_task() is trio.lowlevel.current_task()
        tokens.append(trio_private.current_token())  # the first that asks for it in this loop
        assert tokens[-1] is trio.lowlevel.current_trio_token()

    token = trio.lowlevel.current_trio_token()
    assert both() == (trio.lowlevel.current_task(), token)
    tokens: list[object] = []
    for _ in range(2):
        await trio.to_thread.run_sync(trio.run, other_loop)
    assert len({token, *tokens}) == 3
    await trio.to_thread.run_sync(look_elsewhere)
    assert both() == (trio.lowlevel.current_task(), token)


async def test_another_thread_can_see_the_running_task_and_its_steps() -> None:
    here, task = trio_private.run_context(), trio.lowlevel.current_task()
    assert here["task"] is task
    before = trio_private.steps_of(task)
    await trio.lowlevel.checkpoint()
    assert trio_private.steps_of(task) > before

    def wait_until_idle() -> bool:
        give_up = time.monotonic() + PATIENCE
        while here.get("task") is not None:  # the thread can begin before the task waits for it
            assert time.monotonic() < give_up
        return True

    assert await trio.to_thread.run_sync(wait_until_idle)


async def test_each_open_cancel_scope_has_a_status_of_its_own() -> None:
    task = trio.lowlevel.current_task()
    seen = [trio_private.cancel_status(task)]
    with trio.CancelScope():
        seen.append(trio_private.cancel_status(task))
        with trio.CancelScope():
            seen.append(trio_private.cancel_status(task))
            await trio.lowlevel.checkpoint()
        assert trio_private.cancel_status(task) is seen[1]
    assert trio_private.cancel_status(task) is seen[0]
    assert len(set(map(id, seen))) == 3


@pytest.mark.parametrize("is_seen", [True, False])
async def test_a_task_is_cancelled_with_any_scope_around_it(
    monkeypatch: pytest.MonkeyPatch, *, is_seen: bool
) -> None:
    monkeypatch.setattr(trio_private, "CAN_SEE_CANCELLATION", is_seen)
    task = trio.lowlevel.current_task()
    with trio.CancelScope() as outer:
        with trio.CancelScope(shield=True) as inner:
            assert not trio_private.is_cancelled(task)
            outer.cancel()
            assert not trio_private.is_cancelled(task)
            await trio.lowlevel.cancel_shielded_checkpoint()
            inner.shield = False
            assert trio_private.is_cancelled(task)
        assert trio_private.is_cancelled(task)
    assert not trio_private.is_cancelled(task)


@pytest.mark.parametrize("is_seen", [True, False])
async def test_the_deadline_is_that_of_all_scopes_up_to_a_shield(
    monkeypatch: pytest.MonkeyPatch, *, is_seen: bool
) -> None:
    monkeypatch.setattr(trio_private, "CAN_SEE_DEADLINES", is_seen)

    def both() -> list[float]:
        return [trio_private.effective_deadline(), trio.current_effective_deadline()]

    outermost = trio.current_effective_deadline()
    assert both() == [outermost] * 2
    with trio.CancelScope(deadline=trio.current_time() + 3000) as outer:
        assert both() == [min(outer.deadline, outermost)] * 2
        with trio.move_on_after(2000) as middle, trio.CancelScope():
            assert both() == [min(middle.deadline, outermost)] * 2
            with trio.CancelScope(deadline=trio.current_time() + 4000, shield=True) as inner:
                assert both() == [inner.deadline] * 2
                await trio.lowlevel.checkpoint()
                outer.cancel()
                assert both() == [inner.deadline] * 2
                inner.shield = False
                assert both() == [-math.inf] * 2
                inner.shield = True
                assert both() == [inner.deadline] * 2
            assert both() == [-math.inf] * 2
    assert both() == [outermost] * 2
    with trio.CancelScope() as scope:
        scope.deadline = trio.current_time() + 1000
        async with trio.open_nursery() as nursery:
            assert both() == [min(scope.deadline, outermost)] * 2
            nursery.cancel_scope.cancel()
            assert both() == [-math.inf] * 2


@pytest.mark.parametrize("is_seen", [True, False])
def test_a_pending_ctrl_c_is_due_now_in_the_main_task(
    monkeypatch: pytest.MonkeyPatch, *, is_seen: bool
) -> None:
    monkeypatch.setattr(trio_private, "CAN_SEE_CTRL_C", is_seen)
    due: list[float] = []

    @trio.lowlevel.enable_ki_protection
    async def press_ctrl_c() -> None:
        signal.raise_signal(signal.SIGINT)
        due.append(trio_private.effective_deadline())
        await trio.lowlevel.cancel_shielded_checkpoint()  # so that the other task looks, too
        with pytest.raises(KeyboardInterrupt):
            await trio.lowlevel.checkpoint()
        due.append(trio_private.effective_deadline())

    @trio.lowlevel.enable_ki_protection
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(look)
            await press_ctrl_c()

    async def look() -> None:
        due.append(trio_private.effective_deadline())

    trio.run(main)
    assert due == [-math.inf if is_seen else math.inf, math.inf, math.inf]


async def test_a_nursery_that_was_left_open_can_be_forgotten() -> None:
    nurseries = trio.lowlevel.current_task().child_nurseries
    before = list(nurseries)
    manager = trio.open_nursery()
    nursery = await manager.__aenter__()
    assert list(trio.lowlevel.current_task().child_nurseries) == [*before, nursery]
    await manager.__aexit__(None, None, None)

    async def leave_one_open() -> None:
        await trio.open_nursery().__aenter__()
        assert trio_private.forget_child_nurseries()
        assert not trio.lowlevel.current_task().child_nurseries

    trio.lowlevel.spawn_system_task(leave_one_open)
    await trio.testing.wait_all_tasks_blocked()


def test_no_other_module_uses_a_private_name_of_trio() -> None:
    found = {
        path.name
        for path in SRC.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.ImportFrom) and (node.module or "").startswith("trio._"))
        or (
            isinstance(node, ast.Attribute)
            and node.attr in NAMES
            and ast.unparse(node.value) not in {"self", "super()"}
        )
    }
    assert found == {"trio_private.py"}


SCRIPT: Final = """
import types, trio
trio.lowlevel.Task = types.SimpleNamespace()  # Trio itself does not use this name
trio._core._run = types.SimpleNamespace()
from test_trio_private import *
from jumpstarter.driver import Driver, export
from jumpstarter.errors import DriverError

class Careless(Driver):
    @classmethod
    def client(cls): return "jumpstarter.client.DriverClient"
    @export
    async def leave_scope_open(self): trio.CancelScope().__enter__()
    @export
    async def echo(self, value): return value

print(*trio_private.ABSENT)
with jumpstarter.serve(Careless()) as client:
    for number in range(3):
        assert client.call("echo", number) == number
        try:
            client.call("leave_scope_open")
        except DriverError as exc:
            print("an error:", exc)
    assert client.call("echo", "after it") == "after it"
print("served")
"""


def test_the_library_works_without_the_private_names() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, "PYTHONPATH": f"{TESTS}:{Path(__file__).parent}"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    absent, *rest = done.stdout.splitlines()
    assert absent.split() == [
        "GLOBAL_RUN_CONTEXT",
        "Task._schedule_points",
        "Task._cancel_status",
        "Task._child_nurseries",
        "Task._runner",
        "CancelStatus.effectively_cancelled",
        "CancelStatus._scope",
        "CancelStatus._parent",
        "CancelScope._deadline",
        "CancelScope._shield",
        "Runner.ki_pending",
        "Runner.main_task",
        "Runner.trio_token",
        "WaitTaskRescheduled",
    ]
    assert rest[-1] == "served"
    print(done.stdout, done.stderr)
