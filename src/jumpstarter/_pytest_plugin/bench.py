"""Connect the tests of a run to their device, and record what it does during each test.

A `Bench` exists from the first test that uses the device until the end of the run. It is a plugin
of pytest meanwhile. One test is recorded at a time: pytest runs them one after another.

The exporter's log comes through a stream of its own for each test. Ending it lets the records from
before arrive first, so that each test has its own.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from .._api.connecting import connect_async
from .._io.portal import BlockingPortal
from .._util.text import indent_text
from .._util.wording import using_words
from ..client import DriverClient
from ..client._channel import Channel
from ..client._log_stream import LogRow, another_channel, log_rows
from ..client._outgoing_call import Request
from ..client._runner import portal_for
from ..errors import JumpstarterException
from .access import (
    Access,
    access_of,
    exits_at_interrupt,
    fail_in_one_line,
    fails_in_one_line,
    served,
)
from .frames import remove_frames
from .places import places_shown
from .properties import describe, drivers, walk
from .recording import RECEIVED, SENT, Recording
from .wording import OPTIONS

if TYPE_CHECKING:
    from _jumpstarter_pytestplugin import Target

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["Bench", "open_bench"]

_FIXTURE: Final = "_jumpstarter_bench"
_UNREACHABLE: Final = "no connection to the device"
_LOST: Final = "the connection to the device was lost"
_MEANWHILE: Final = "the board may have been used by another client while this test ran"
_MAX_NAME: Final = 150  # characters of a file's name
_OUTCOMES: Final = (pytest.fail.Exception, pytest.skip.Exception)  # their text is all
_SKIPPED: Final = pytest.StashKey[str]()


@contextmanager
def open_bench(
    config: pytest.Config, target: Target, record: Callable[[str, object], None]
) -> Iterator[Bench]:
    """Make the bench of a run, and serve the configuration if the target is one.

    Args:
        config: The run's.
        target: The device.
        record: Records a property of the whole run for JUnit XML.
    """
    with ExitStack() as stack:
        with fails_in_one_line(f"{target.value}, which {target.origin} names"):
            if target.is_config:
                client, name = stack.enter_context(served(Path(target.value)))
                access = Access(client.channel.channel.name, ["*"])
            else:
                client, name = None, ""
                access = access_of(config, target.value)
        bench = Bench(config, access, client, record)
        bench.name = name
        bench.from_environment = target.origin == "JUMPSTARTER_HOST"
        # It stays registered: the last test's report is made after its fixtures have ended, and the
        # fixtures of the session with them.
        config.pluginmanager.register(bench)
        yield bench


class Bench:
    """The device of a run.

    Args:
        config: The run's configuration.
        access: How to connect.
        client: The client of the root driver, if this process serves it.
        record: Records a property of the whole run.
    """

    def __init__(
        self,
        config: pytest.Config,
        access: Access,
        client: DriverClient | None,
        record: Callable[[str, object], None],
    ) -> None:
        self.name: str = ""
        self.from_environment: bool = False
        self._config = config
        self._full_trace: bool = config.getoption("fulltrace", False)
        self._access = access
        self._served = client
        self._record = record
        self._client: DriverClient | None = None  # of `device`, while it is connected
        self._log_channel: Channel | None = None  # for the exporter's log, with that client
        self._loss: Exception | None = None  # why a connection was lost
        self._lost_in = ""  # the test that lost it
        self._item: pytest.Item | None = None
        self._recording: Recording | None = None
        self._log = ExitStack()  # the stream of the exporter's log, while there is one
        self._files: Counter[str] = Counter()

    # ------------------------------------------------------------------------------ connections

    @contextmanager
    def connected(self) -> Iterator[DriverClient]:
        """Connect for blocking code."""
        with ExitStack() as stack:
            client = self._served
            if client is None:
                with (
                    fails_in_one_line(_UNREACHABLE),
                    exits_at_interrupt(f"Ctrl-C while connecting to {self._access.address}"),
                    places_shown(self._config),
                    using_words(OPTIONS),
                ):
                    client = stack.enter_context(self._access.connect())
            self._watch(client)
            self._client = client
            for key, text in [*self._describe(client), *drivers(client)]:
                self._record(key, text)
            self._add_properties(client)
            # One connection for the logs of all tests: the exporter logs each that is made.
            opening = another_channel(client.channel.channel)
            self._log_channel = stack.enter_context(
                _portal(client).wrap_async_context_manager(opening)
            )
            self._begin_log()
            try:
                yield client
            finally:
                self._end_log()
                self._client = self._log_channel = None

    @asynccontextmanager
    async def connected_async(self) -> AsyncIterator[DriverClient]:
        """Connect for Trio code."""
        options = self._access.options()
        if self._client is not None and (session := self._client.channel.channel.session):
            options["session"] = session  # `device` holds the exporter for the whole run
        async with AsyncExitStack() as stack:
            with (
                fails_in_one_line(_UNREACHABLE),
                places_shown(self._config),
                using_words(OPTIONS),
            ):
                connecting = connect_async(self._access.address, **options)
                client = await stack.enter_async_context(connecting)
            stack.callback(self._notice_loss, client.channel.channel)  # before we end it ourselves
            self._watch(client)
            self._add_properties(client)
            recording = self._recording
            if recording is not None and self._client is None:  # else `device` has the log
                try:
                    own = await stack.enter_async_context(another_channel(client.channel.channel))
                    stack.callback(self._notice_loss, client.channel.channel, own)
                    await stack.enter_async_context(log_rows(own, self._takes_records(recording)))
                except JumpstarterException as exc:
                    recording.add_note(f"not available: {indent_text(str(exc))}")
            yield client

    def _describe(self, client: DriverClient) -> list[tuple[str, str]]:
        return describe(client, self.name, from_environment=self.from_environment)

    def _add_properties(self, client: DriverClient) -> None:
        if self._item is not None:
            known = dict(self._item.user_properties)
            new = [pair for pair in self._describe(client) if pair[0] not in known]
            self._item.user_properties.extend(new)

    def _watch(self, client: DriverClient) -> None:
        """Record the raw streams of a connection. In the loop, when one is opened."""
        paths = {each.channel.target: path or "root" for path, each in walk(client)}

        def watch(request: Request) -> _Watcher | None:
            path = paths.get(request.target)
            return None if path is None else _Watcher(self, path)

        client.channel.channel.watch = watch

    def check_requirements(self, item: pytest.Item, client: DriverClient) -> None:
        """Skip a test if the device lacks a driver that its markers require."""
        paths = {path for path, _ in walk(client)}
        missing = [name for name in _required(item) if name not in paths]
        if missing:
            exporter = dict(self._describe(client))["jumpstarter.exporter"]
            text = f"the exporter {exporter} has no driver {' and no driver '.join(missing)}"
            item.stash[_SKIPPED] = text
            pytest.skip(text)

    # ------------------------------------------------------------------------------- recordings

    def begin(self, item: pytest.Item) -> None:
        """Begin to record a test."""
        self.end()
        self._item, self._loss = item, None
        self._notice_loss_of_device()
        if self._loss is None:  # or it was the connection of a `device_async`, which is made anew
            self._lost_in = ""
        with fails_in_one_line("cannot write the log of this test"):
            self._recording = Recording(item.nodeid, self._file_for(item))
        if self._recording.path is not None:
            item.user_properties.append(("jumpstarter.log", str(self._recording.path)))
        if self._client is not None:
            self._add_properties(self._client)
            if self._loss is None:  # otherwise the log ends for the same reason, which is told
                self._begin_log()

    def end(self) -> None:
        """End the recording of a test."""
        self._end_log()
        recording, self._recording, self._item = self._recording, None, None
        if recording is not None:
            recording.close()

    def show_bytes(self, console: str, mark: str, data: bytes) -> None:
        """Record bytes of a console. In the loop of a connection."""
        recording = self._recording
        if recording is not None:
            recording.add_bytes(console, mark, data)

    def _begin_log(self) -> None:
        client, recording = self._client, self._recording
        if client is None or self._log_channel is None or recording is None:
            return
        rows = log_rows(self._log_channel, self._takes_records(recording))
        try:
            self._log.enter_context(_portal(client).wrap_async_context_manager(rows))
        except JumpstarterException as exc:
            recording.add_note(f"not available: {indent_text(str(exc))}")

    def _takes_records(self, recording: Recording) -> Callable[[LogRow], None]:
        if self._served is None:
            return recording.add_record

        def take(row: LogRow) -> None:
            # The exporter is this process: pytest captures what the tests themselves log.
            if row.source == "driver" or row.logger.startswith("jumpstarter"):
                recording.add_record(row)

        return take

    def _end_log(self) -> None:
        try:
            self._log.close()
        except JumpstarterException as exc:
            if self._recording is not None:
                self._recording.add_note(f"it has ended: {indent_text(str(exc))}")
        # Ending the log has waited for the exporter's answer: its goodbye from before is here.
        self._notice_loss_of_device()

    def _notice_loss_of_device(self) -> None:
        if self._client is not None:
            self._notice_loss(self._client.channel.channel, self._log_channel)

    def _notice_loss(self, channel: Channel, of_log: Channel | None = None) -> None:
        """Keep the reason if the exporter has ended a connection, or it is lost.

        Args:
            channel: The connection of a client. One that this process closes is not lost.
            of_log: Another connection of its session. Only the exporter's goodbye counts there.
        """
        if self._loss is not None or channel.closed:
            return
        self._loss = channel.ended
        for each in (channel, of_log):
            if self._loss is None and each is not None and each.connection.goaway is not None:
                self._loss = each.ended or each.connection.reason_of_loss()

    def _file_for(self, item: pytest.Item) -> Path | None:
        """Return a test's log file. Its name is that of the test, and of the worker if any."""
        option = self._config.getoption("jumpstarter_log")
        if option is None:
            return None
        directory = Path(self._config.invocation_params.dir, option)
        name = re.sub(r"[^\w.\[\]=,-]+", "-", item.nodeid, flags=re.ASCII).strip("-")
        if len(name) > _MAX_NAME:
            name = f"{name[:_MAX_NAME]}-{sha256(item.nodeid.encode()).hexdigest()[:8]}"
        if worker := getattr(self._config, "workerinput", {}).get("workerid"):
            name = f"{name}.{worker}"
        self._files[name] += 1
        if (count := self._files[name]) > 1:  # run again, or another test with a similar name
            name = f"{name}.{count}"
        return directory / f"{name}.log"

    # ------------------------------------------------------------------------ pytest calls these

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Begin to record a test that uses the device; fail it if the connection is lost."""
        if _FIXTURE not in getattr(item, "fixturenames", ()):
            return
        self.begin(item)
        if self._client is None:
            return
        channel = self._client.channel.channel
        if self._loss is not None:
            where = f" during {self._lost_in}" if self._lost_in else ""
            text = f"{_LOST}{where}: {indent_text(str(self._loss))}"
            # An exporter that says goodbye may go on for the next client: starting it is not safe.
            both = (channel, self._log_channel)
            fault = not any(each and each.connection.goaway for each in both)
            advice = "start the exporter again, and repeat the run" if fault else "repeat the run"
            fail_in_one_line(f"{text}; {advice}")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Complete the report of a test that uses the device."""
        if item is not self._item:
            return (yield)
        exc = None if call.excinfo is None else call.excinfo.value
        if exc is not None and not isinstance(exc, _OUTCOMES) and not self._full_trace:
            remove_frames(exc)
        report = yield
        if report.skipped and (reason := item.stash.get(_SKIPPED, None)) is not None:
            # The place of the test, as for other markers, instead of a line of ours.
            report.longrepr = (str(item.path), (item.location[1] or 0) + 1, f"Skipped: {reason}")
        if call.when != "setup":
            self._fail_if_lost(report)
        if report.failed:
            self._attach(report)
        if call.when == "teardown":
            self.end()
        return report

    def pytest_sessionfinish(self) -> None:
        """End the recording of a test that Ctrl-C has interrupted."""
        self.end()

    def _fail_if_lost(self, report: pytest.TestReport) -> None:
        """Fail a test that has lost the device and has not noticed, since it made no call then."""
        if report.when == "teardown":
            self._end_log()
        else:
            self._notice_loss_of_device()
        if self._loss is None or self._lost_in or not report.passed:
            return
        report.outcome = "failed"
        report.longrepr = f"{_LOST}: {indent_text(str(self._loss))}; {_MEANWHILE}"

    def _attach(self, report: pytest.TestReport) -> None:
        self._end_log()  # the records from before arrive first
        if self._recording is not None:
            report.sections += self._recording.sections()
        if self._loss is not None:
            reason = indent_text(str(self._loss))
            if not self._lost_in and reason not in report.longreprtext:
                text = f"{_LOST}: {reason}; {_MEANWHILE}"
                report.sections.append(("jumpstarter", text))
            self._lost_in = self._lost_in or report.nodeid
        elif report.when != "teardown":
            self._begin_log()  # for the fixtures that end after the test


def _portal(client: DriverClient) -> BlockingPortal:
    return portal_for(client, "the fixture device", "device_async")


class _Watcher:
    """Records the bytes of one raw stream."""

    def __init__(self, bench: Bench, console: str) -> None:
        self.received = functools.partial(bench.show_bytes, console, RECEIVED)
        self.sent = functools.partial(bench.show_bytes, console, SENT)


def _required(item: pytest.Item) -> list[str]:
    """Return the drivers that the markers of a test, its class and its module require."""
    found: dict[str, None] = {}
    for marker in item.iter_markers("jumpstarter"):
        names = marker.kwargs.get("requires", ())
        names = [names] if isinstance(names, str) else names
        known = not marker.args and marker.kwargs.keys() == {"requires"}
        if not known or not all(isinstance(name, str) for name in names):
            text = "the marker jumpstarter takes requires=[...], a list of drivers' names"
            fail_in_one_line(f"{text} such as 'power' or 'serial.console'")
        found |= dict.fromkeys(names)
    return list(found)
