"""Fixtures and hooks for all tests: the profiles of hypothesis, and checks after each test.

`pytest --hypothesis-profile=long` tries ten times as many examples as the default profile.

- A test fails if it leaks a file, a thread or a call (`leaks.py`).
- A Trio test that ends with a stray `Cancelled` fails. pytest-trio alone would let it pass.
- The signal dispositions that this process inherited are reset (`inherited.py`).

Each test may take `timeout` seconds (in pyproject.toml, by pytest-timeout). Then it fails with the
stacks of all threads, and the next test runs. If a test cannot be stopped, `faulthandler_timeout`
ends the whole run. Both are far longer than any test takes on a busy machine. In a debugger, and
for longer tests, `--timeout=0 -o faulthandler_timeout=0` disables both.
"""

from __future__ import annotations

import functools
import inspect
import signal
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final

import hypothesis
import pytest
import trio

import inherited
from jumpstarter._protocol import is_compiled
from leaks import nothing_leaks, register_connections

pytest_plugins = ["pytester", "lab_for_plugin"]

inherited.restore()

# A deadline per example measures the machine, and so does the check for slow strategies.
_UNTIMED: Final[dict[str, Any]] = {
    "deadline": None,
    "suppress_health_check": [hypothesis.HealthCheck.too_slow],
}
hypothesis.settings.register_profile("default", **_UNTIMED)
hypothesis.settings.register_profile("long", **_UNTIMED, max_examples=1000)
hypothesis.settings.load_profile("default")


def pytest_report_header() -> str:
    return f"jumpstarter: the hot paths are {'compiled' if is_compiled() else 'Python code'}"


@pytest.fixture(scope="session", autouse=True)
def _known_connections() -> Iterator[None]:
    undo = register_connections()
    yield
    undo()


@pytest.fixture(autouse=True)
def _no_leaks(_known_connections: None) -> Iterator[None]:
    with nothing_leaks():
        yield


@pytest.fixture
def handlers_of_signals() -> Iterator[None]:
    """Restore the signal handlers that a command leaves behind if the process does not end."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Wrap each Trio test, so that a stray `Cancelled` fails it."""
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
