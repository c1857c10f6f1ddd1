"""What the configuration of pytest cannot say: hypothesis' profiles, and what no test may do.

The default profile is for every day. `pytest --hypothesis-profile=long` tries ten times as many.
No test leaks; a Trio test that a stray `Cancelled` has ended fails, where pytest-trio alone would
take it for one that has passed; and no test depends on the signals that this process was started
with.

Every test has a deadline of `timeout` seconds (in pyproject.toml, by pytest-timeout): it then
fails, with the stacks of all threads, and the next one runs. One that does not let itself be ended
is ended with the whole run after `faulthandler_timeout`. Both are far beyond what a test takes on a
busy machine. `--timeout=0 -o faulthandler_timeout=0` is for a debugger and for longer tests.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import hypothesis
import pytest
import trio

import inherited
from leaks import nothing_leaks, register_connections

pytest_plugins = ["pytester"]

inherited.restore()

# A deadline per example measures the machine, not the code.
hypothesis.settings.register_profile("default", deadline=None)
hypothesis.settings.register_profile("long", deadline=None, max_examples=1000)
hypothesis.settings.load_profile("default")


@pytest.fixture(scope="session", autouse=True)
def _known_connections() -> Iterator[None]:
    undo = register_connections()
    yield
    undo()


@pytest.fixture(autouse=True)
def _no_leaks(_known_connections: None) -> Iterator[None]:
    with nothing_leaks():
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have all Trio tests run to their end."""
    for item in items:
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
            item.obj = _to_its_end(item.obj)


def _to_its_end(test: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    @functools.wraps(test)
    async def run(**kwargs: Any) -> None:
        try:
            await test(**kwargs)
        except BaseException as exc:
            rest = exc.split(trio.Cancelled)[1] if isinstance(exc, BaseExceptionGroup) else exc
            if rest is None or isinstance(rest, trio.Cancelled):
                raise AssertionError("a stray Cancelled has ended this test") from exc
            raise

    return run
