"""The pytest plugin `jumpstarter`: options, the marker, the fixtures, and a device for each worker.

pytest imports this module in every run where the library is installed. So it is outside the package
`jumpstarter`, whose import imports trio, and it imports the package only when a test uses a device.
The rest of the plugin is `jumpstarter._pytest_plugin`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn

import pytest

if TYPE_CHECKING:
    from jumpstarter._pytest_plugin.bench import Bench
    from jumpstarter.client import DriverClient

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["Target", "device", "device_async"]

_REQUIREMENTS: Final = "_jumpstarter_requirements"
_INPUT: Final = "jumpstarter"  # where the controller of pytest-xdist puts a worker's device


class Target(NamedTuple):
    """Where a device is.

    Attributes:
        is_config: True for a configuration to serve in this process, False for an address.
        value: The absolute path, or the address.
        origin: Where it was given, for messages.
    """

    is_config: bool
    value: str
    origin: str


_CURRENT: Final = pytest.StashKey[pytest.Item]()
_FREE: Final = pytest.StashKey[list[Target]]()

_OPTIONS: Final = (
    ("--jumpstarter", "ADDRESS", "the exporter of the device; several with commas, for -n"),
    ("--jumpstarter-config", "FILE", "an exporter's configuration, to serve in this process"),
    ("--jumpstarter-allow", "PATTERN", "client classes that may be imported, as in 'mylab.*'"),
)
_FILES: Final = (
    ("--jumpstarter-token-file", "FILE", "a file with the exporter's token"),
    ("--jumpstarter-tls-ca", "FILE", "the authorities to trust for tls:// addresses, PEM"),
    ("--jumpstarter-tls-cert", "FILE", "our certificate, for exporters that ask for one, PEM"),
    ("--jumpstarter-tls-key", "FILE", "its private key, PEM"),
    (
        "--jumpstarter-claim",
        "PATH",
        "take a turn at the board that has this driver, where boards are used independently",
    ),
    ("--jumpstarter-log", "DIR", "write the exporter's log and the consoles of each test there"),
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the command line and of pytest's configuration."""
    group = parser.getgroup("jumpstarter", "hardware under test")
    for name, value, text in _OPTIONS:
        more = f"{text}; can be given several times"
        group.addoption(name, action="append", metavar=value, default=[], help=more)
    for name, value, text in _FILES:
        group.addoption(name, metavar=value, default=None, help=text)
    text = "fail instead of waiting if another client holds an exporter in exclusive use"
    group.addoption("--jumpstarter-no-wait", action="store_true", help=text)
    text = "use only what is read_only of an exporter in exclusive use, without a turn"
    group.addoption("--jumpstarter-no-claim", action="store_true", help=text)
    parser.addini("jumpstarter", "addresses, as --jumpstarter has them", "args", [])
    parser.addini("jumpstarter_config", "files, as --jumpstarter-config has them", "paths", [])
    parser.addini("jumpstarter_allow", "patterns, as --jumpstarter-allow has them", "args", [])


class _OverdueHandler(logging.Handler):
    """Writes to the terminal what the end of a fixture waits for, while pytest captures the log."""

    def __init__(self) -> None:
        super().__init__()
        self._stderr = os.dup(2)  # pytest captures what later goes to 2, and not yet

    def emit(self, record: logging.LogRecord) -> None:
        os.write(self._stderr, f"\njumpstarter: {record.getMessage()}\n".encode())

    def close(self) -> None:
        os.close(self._stderr)
        super().close()


_OVERDUE: Final = pytest.StashKey[_OverdueHandler]()


def pytest_configure(config: pytest.Config) -> None:
    """Check the options, and show calls that keep a fixture waiting on the terminal."""
    line = "jumpstarter(requires=['power', 'serial.console']): skip if the device lacks a driver"
    config.addinivalue_line("markers", line)
    if config.getoption("jumpstarter") and config.getoption("jumpstarter_config"):
        raise pytest.UsageError("give either --jumpstarter or --jumpstarter-config, not both")
    if config.getoption("jumpstarter_claim") and config.getoption("jumpstarter_no_claim"):
        raise pytest.UsageError("give either --jumpstarter-claim or --jumpstarter-no-claim")
    with suppress(OSError):  # stderr is closed
        handler = config.stash[_OVERDUE] = _OverdueHandler()
        logging.getLogger("jumpstarter.overdue").addHandler(handler)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop showing these calls."""
    handler = config.stash.get(_OVERDUE, None)
    if handler is not None:
        logging.getLogger("jumpstarter.overdue").removeHandler(handler)
        handler.close()


def pytest_report_header(config: pytest.Config) -> str | None:
    """Name the devices, unless only the environment does: most runs there do not use them."""
    if found := _given(config):
        return f"jumpstarter: {', '.join(each.value for each in found)}"
    return None


# ---------------------------------------------------------------------------- where devices are


def _given(config: pytest.Config) -> list[Target]:
    """Return the devices that the command line names."""
    names = [each.strip() for text in config.getoption("jumpstarter") for each in text.split(",")]
    found = [Target(False, name, "--jumpstarter") for name in names if name]
    for path in config.getoption("jumpstarter_config"):
        absolute = str(config.invocation_params.dir / path)
        found.append(Target(True, absolute, "--jumpstarter-config"))
    return found


def _targets(config: pytest.Config) -> list[Target]:
    """Return the devices of the command line, else of the environment, else of the ini file."""
    if found := _given(config):
        return found
    if host := os.environ.get("JUMPSTARTER_HOST"):
        return [Target(False, host, "JUMPSTARTER_HOST")]
    addresses, files = config.getini("jumpstarter"), config.getini("jumpstarter_config")
    if addresses and files:
        _fail("the ini file has both jumpstarter and jumpstarter_config")
    found = [Target(False, name, "the ini file") for name in addresses]
    return found + [Target(True, str(path), "the ini file") for path in files]


def _target(config: pytest.Config) -> Target:
    """Return the device of this process; the test fails if there is none."""
    found = _targets(config)
    if not found:
        text = "the test needs a device: give --jumpstarter ADDRESS or --jumpstarter-config FILE"
        _fail(f"{text}, set JUMPSTARTER_HOST, or run pytest in `jumpstarter shell`")
    worker = getattr(config, "workerinput", None)
    return found[0] if worker is None else _target_of_worker(found, worker)


def _target_of_worker(  # pragma: no cover - runs in the workers of pytest-xdist
    found: list[Target], worker: dict[str, Any]
) -> Target:
    if _INPUT not in worker:
        _fail(_too_many_workers(found, worker["workercount"]))
    return Target(*worker[_INPUT])


def _fail(text: str) -> NoReturn:
    __tracebackhide__ = False  # pytest adds a line to a failure all of whose frames are hidden
    pytest.fail(text, pytrace=False)


def _too_many_workers(targets: list[Target], workers: int) -> str:
    devices = "1 device" if len(targets) == 1 else f"{len(targets)} devices"
    text = f"{targets[0].origin} names {devices}, and pytest-xdist starts {workers} workers"
    return f"{text}, which need one each: use -n {len(targets)} at most, or name more devices"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(config: pytest.Config, specs: list[object]) -> None:
    """Refuse to start more workers than there are devices.

    Devices of the environment or the ini file may be unrelated to the tests of this run, so there
    the tests which need a device fail instead.
    """
    found = _given(config)
    if found and len(specs) > len(found):
        raise pytest.UsageError(_too_many_workers(found, len(specs)))
    try:
        _targets(config)
    except pytest.fail.Exception as exc:  # the controller has no test that could fail
        raise pytest.UsageError(str(exc)) from None


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Give a worker a device, in the controller."""
    free = node.config.stash.get(_FREE, None)
    if free is None:
        free = node.config.stash[_FREE] = _targets(node.config)
    if free:
        node.workerinput[_INPUT] = tuple(free.pop(0))


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take the device of a worker back, for the one that replaces it after a crash."""
    if _INPUT in node.workerinput:
        node.config.stash[_FREE].append(Target(*node.workerinput[_INPUT]))


# -------------------------------------------------------------------------------- for the tests


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Note the test, and skip it before its fixtures run if the device lacks a driver it needs."""
    item.config.stash[_CURRENT] = item
    names: list[str] | None = getattr(item, "fixturenames", None)
    if names is not None and item.get_closest_marker("jumpstarter") is not None:
        # Before all other fixtures: those of a class may need the drivers that are missing.
        names.insert(0, _REQUIREMENTS)


@pytest.fixture(scope="session")
def _jumpstarter_bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    target = _target(request.config)
    from jumpstarter._pytest_plugin.bench import open_bench  # noqa: PLC0415 - it imports trio

    record = request.getfixturevalue("record_testsuite_property")
    with open_bench(request.config, target, record) as bench:
        bench.begin(request.config.stash[_CURRENT])
        yield bench


@pytest.fixture(scope="session")
def _jumpstarter_device(_jumpstarter_bench: Bench) -> Iterator[DriverClient]:
    with _jumpstarter_bench.connected() as client:
        yield client


@pytest.fixture
def _jumpstarter_requirements(
    request: pytest.FixtureRequest, _jumpstarter_bench: Bench, _jumpstarter_device: DriverClient
) -> None:
    _jumpstarter_bench.check_requirements(request.node, _jumpstarter_device)


@pytest.fixture(scope="session")
def device(_jumpstarter_device: DriverClient) -> DriverClient:
    """The device under test: the client of the root driver, connected for the whole run."""
    return _jumpstarter_device


@pytest.fixture
async def device_async(_jumpstarter_bench: Bench) -> AsyncIterator[DriverClient]:
    """The device under test for an async test of pytest-trio, with a connection of its own."""
    async with _jumpstarter_bench.connected_async() as client:
        yield client
