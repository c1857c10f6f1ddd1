"""Every public function names an argument of a wrong type or value in its error."""

from __future__ import annotations

import io
import math
import re
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager
from decimal import Decimal
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.lowlevel

from helpers import timed
from jumpstarter import Limits, Server, connect, connect_async, serve, serve_async
from jumpstarter._io.portal import BlockingPortal, start_blocking_portal
from jumpstarter._util.checks import (
    check_flag,
    check_int,
    check_max_bytes,
    check_number,
    check_path,
    check_seconds,
    check_text,
)
from jumpstarter.client import DriverClient
from jumpstarter.client.adapters import (
    PexpectAdapter,
    TcpPortforwardAdapter,
    UnixPortforwardAdapter,
    blocking,
)
from jumpstarter.driver import Driver, export, exportstream
from jumpstarter.drivers.composite import Composite
from jumpstarter.drivers.mixins import ResourceMixin, StreamMixin
from jumpstarter.drivers.network import TcpNetwork, UnixNetwork
from jumpstarter.drivers.power import MockPower, PowerClient
from jumpstarter.drivers.serial import SerialPort
from jumpstarter.drivers.shell import Shell
from jumpstarter.drivers.storage import FileStorage, StorageClient
from jumpstarter.errors import (
    ArgumentError,
    ArgumentTypeError,
    ArgumentValueError,
    ConfigurationError,
)
from jumpstarter.testing import client_fixture, client_for, client_for_async

NAN = math.nan
NO_TEXT: list[Any] = [None, Path("/x"), b"x", NAN, -1, True, ["x"], object()]
NO_DURATION: list[Any] = [None, Path("/x"), b"x", "5", NAN, -1, -0.5, True, [], Decimal(1), 1j]
NO_COUNT: list[Any] = [None, Path("/x"), b"x", "5", NAN, math.inf, -1, 1.5, True, []]
NO_PATH: list[Any] = [None, b"x", NAN, 7, True, [], object(), "a\0b"]
NO_FLAG: list[Any] = [None, 0, 1, "no", "False", [], NAN]


class CheckedClient(StreamMixin, ResourceMixin, DriverClient):
    """A driver with every feature for lending and forwarding."""


class Checked(Driver):
    @classmethod
    def client(cls) -> str:
        return "test_checks.CheckedClient"

    @export
    def one(self) -> int:
        return 1

    @export
    async def read(self, handle: str, options: dict[str, Any]) -> bytes:
        async with self.resource(handle, **options) as stream:
            return await stream.receive_some()

    @exportstream
    @asynccontextmanager
    async def connect(self) -> AsyncIterator[trio.abc.Stream]:
        near, far = trio.testing.memory_stream_pair()
        async with far:
            yield near


@pytest.fixture(scope="module")
def client() -> Iterator[CheckedClient]:
    with serve(Checked(), client=CheckedClient) as client:
        yield client


@pytest.fixture
def portal() -> Iterator[BlockingPortal]:
    with start_blocking_portal() as portal:
        yield portal


def refused(name: str, value: object, kind: type[Exception] = ArgumentError) -> Any:
    """Expect an error with the argument's name, its value or type, and the accepted values."""
    given = "None" if value is None else type(value).__name__
    return pytest.raises(kind, match=rf"{re.escape(name)}.* must be .*, not .*{given}")


def enter(manager: AbstractContextManager[Any, Any]) -> None:
    with manager:
        pytest.fail("it was accepted")


# ------------------------------------------------------------------------------- the checks


@pytest.mark.parametrize("value", [0, 1.5, math.inf, Fraction(1, 2), 10**400])
def test_every_real_number_is_a_duration(value: Any) -> None:
    assert check_seconds("it", value) == (math.inf if value == 10**400 else value)


def test_other_forms_of_right_values_are_accepted() -> None:
    assert check_path("it", Path("/x")) == "/x"
    assert check_path("it", "x") == "x"
    assert check_text("it", "") == ""
    assert check_int("it", 7, 7, 7) == 7
    assert check_number("it", -1.5) == -1.5
    assert check_flag("it", value=False) is False
    for size in (None, 1, 10**9):
        check_max_bytes(size)


def test_an_error_is_a_type_error_or_a_value_error_too() -> None:
    with pytest.raises(ArgumentTypeError) as wrong_type:
        check_seconds("timeout", None)
    assert isinstance(wrong_type.value, TypeError)
    text = "timeout must be a number of seconds, 0 or more (math.inf: without end), not None"
    assert str(wrong_type.value) == text
    with pytest.raises(ArgumentValueError) as wrong_value:
        check_int("port", 70000, 0, 65535)
    assert isinstance(wrong_value.value, ValueError)
    assert str(wrong_value.value) == "port must be a whole number from 0 to 65535, not 70000 (int)"


def test_no_foreign_repr_and_no_long_value_gets_into_an_error() -> None:
    class Hostile:
        def __repr__(self) -> str:
            raise RuntimeError("not this one")

    with pytest.raises(ArgumentTypeError, match="not an object of type Hostile"):
        check_text("it", Hostile())
    with pytest.raises(ArgumentTypeError, match="not the class Hostile"):
        check_text("it", Hostile)
    for value in (b"x" * 10**6, "x\n" * 10**6):
        with pytest.raises(ArgumentError) as caught:
            check_seconds("it", value)
        assert len(str(caught.value)) < 300
        assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------- serving and connecting


@pytest.mark.parametrize("address", NO_TEXT)
async def test_an_address_is_a_text(address: Any) -> None:
    with refused("address", address):
        connect(address)
    with refused("address", address):
        async with connect_async(address):
            pass
    with refused("address", address):
        async with serve_async(Checked(), address):
            pass


ACCESS: list[tuple[str, list[Any]]] = [
    ("limits", [None, 5, {}, Limits]),
    ("token", [b"secret", 5, True, Path("token"), NAN]),
    ("ssl_context", ["cert.pem", Path("cert.pem"), ssl.SSLContext, True]),
]


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in ACCESS for value in values]
)
async def test_both_sides_check_shared_arguments(name: str, value: Any) -> None:
    kind = "the class" if isinstance(value, type) else "None" if value is None else ""
    options: dict[str, Any] = {name: value}
    wrong = partial(pytest.raises, ArgumentTypeError, match=rf"^{name} must be .*, not .*{kind}")
    with wrong():
        connect("unix:/nowhere", **options)
    with wrong():
        connect_async("unix:/nowhere", **options)
    with wrong():
        async with serve_async(Checked(), "unix:/nowhere/socket", **options):
            pass


def test_a_secret_is_in_no_error() -> None:
    token: Any = b"top secret"
    with pytest.raises(ArgumentTypeError) as caught:
        connect("unix:/nowhere", token=token)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("token", [None, ""])
@timed()
async def test_no_token_is_none_on_both_sides(token: str | None, tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/socket"
    async with (
        serve_async(Checked(), address, token=token),
        connect_async(address, token=token, allow=["test_checks.*"]) as client,
    ):
        assert await client.call_async("one") == 1


SERVED: list[tuple[str, list[Any]]] = [
    ("threads", [*NO_COUNT, 0]),
    ("insecure", NO_FLAG),
    ("send_tracebacks", NO_FLAG),
    ("users", ["root", b"0", 0, NAN, True]),
    ("each of users", [["root"], [None], [-1], [True], [1.5]]),
]


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in SERVED for value in values]
)
async def test_arguments_of_serve_are_checked(name: str, value: Any, tmp_path: Path) -> None:
    options = {name.rpartition(" ")[2]: value}
    with pytest.raises(ArgumentError, match=rf"^{name} must be .*, not .*"):
        async with serve_async(Checked(), f"unix:{tmp_path}/socket", **options):
            pass


@pytest.mark.parametrize("driver", [None, Path("/x"), b"x", NAN, "power.Power", Checked])
@timed()
async def test_serve_requires_a_driver(driver: Any, tmp_path: Path) -> None:
    text = "the driver to serve must be an instance of Driver"
    with pytest.raises(ConfigurationError, match=text):
        await trio.to_thread.run_sync(enter, serve(driver))
    with pytest.raises(ConfigurationError, match=text):
        await trio.to_thread.run_sync(enter, client_for(driver))
    with pytest.raises(ConfigurationError, match=text):
        async with client_for_async(driver):
            pass
    with pytest.raises(ConfigurationError, match=text):
        async with serve_async(driver, f"unix:{tmp_path}/socket"):
            pass


@pytest.mark.parametrize("grace", NO_DURATION)
@timed()
async def test_a_drain_takes_a_duration(grace: Any, tmp_path: Path) -> None:
    async with serve_async(Checked(), f"unix:{tmp_path}/socket") as server:
        assert isinstance(server, Server)
        with refused("grace", grace):
            await server.drain(grace)
        async with connect_async(f"unix:{tmp_path}/socket", allow=["test_checks.*"]) as client:
            assert await client.call_async("one") == 1  # nothing was drained


@pytest.mark.parametrize("value", [*NO_DURATION, "nan"])
def test_a_limit_in_seconds_is_a_duration(value: Any) -> None:
    for name in ("hello_timeout", "cancel_grace", "linger", "write_stall", "ping_interval"):
        limits: dict[str, Any] = {name: value}
        with pytest.raises(ConfigurationError, match=rf"Limits\({name}=.*\): must be "):
            Limits(**limits)


# ------------------------------------------------------------------------------------ clients


@pytest.mark.parametrize("duration", NO_DURATION)
def test_a_timeout_is_a_duration(client: DriverClient, duration: Any) -> None:
    with refused("seconds", duration), client.timeout(duration):
        pytest.fail("it was entered")


def test_a_timeout_without_end_is_none(client: DriverClient) -> None:
    with client.timeout(math.inf):
        assert client.call("one") == 1


@pytest.mark.parametrize("method", NO_TEXT)
def test_a_method_is_a_text(client: CheckedClient, method: Any) -> None:
    for ask in (client.call, client.streamingcall, client.open_stream):
        with refused("method", method):
            ask(method)
    for forward in (client.portforward, client.portforward_unix):
        with refused("method", method):
            enter(forward(method))


@pytest.mark.parametrize("data", [None, "text", 5, NAN, Path("/x"), [1]])
def test_bytes_are_sent(client: CheckedClient, data: Any) -> None:
    with client.stream() as stream, refused("data", data):
        stream.send(data)


@pytest.mark.parametrize("size", [b"x", "5", NAN, -1, 0, True, math.inf, 1.5])
def test_a_number_of_bytes_is_received(client: CheckedClient, size: Any) -> None:
    with client.stream() as stream, refused("max_bytes", size):
        stream.receive(size)


@pytest.mark.parametrize("host", [*NO_TEXT, ""])
def test_the_host_of_a_listener_is_a_text(client: CheckedClient, host: Any) -> None:
    """None or an empty text would listen on all interfaces."""
    with refused("local_host", host):
        enter(client.portforward(host=host))
    with refused("local_host", host):
        enter(TcpPortforwardAdapter(client=client, local_host=host))


@pytest.mark.parametrize("port", [*NO_COUNT, 65536])
def test_a_port_is_a_port(client: CheckedClient, port: Any) -> None:
    with refused("local_port", port):
        enter(client.portforward(port=port))


@pytest.mark.parametrize("path", NO_PATH)
def test_a_path_of_a_socket_is_a_path(client: CheckedClient, path: Any) -> None:
    with refused("path", path):
        enter(client.portforward_unix(path=path))


@pytest.mark.parametrize("timeout", [b"x", "5", NAN, -0.5, True, []])
def test_a_session_takes_a_duration(client: CheckedClient, timeout: Any) -> None:
    with refused("timeout", timeout):
        enter(client.pexpect(timeout=timeout))


def test_a_session_takes_an_encoding(client: CheckedClient) -> None:
    with refused("encoding", b"utf-8"):
        enter(client.pexpect(encoding=b"utf-8"))


@pytest.mark.parametrize("adapter", [PexpectAdapter, TcpPortforwardAdapter, UnixPortforwardAdapter])
def test_an_adapter_accepts_a_client_by_name(adapter: Any, client: CheckedClient) -> None:
    for value in (None, "client", Checked()):
        with refused("client=", value):
            adapter(client=value)
    for arguments in ((), (client,)):
        with pytest.raises(TypeError, match="client= must be the client of the driver"):
            adapter(*arguments)


def test_an_adapter_requires_a_function() -> None:
    adapter: Any = "adapter"
    with refused("adapter", adapter):
        blocking(adapter)


LENT: list[tuple[str, list[Any]]] = [
    ("path", NO_PATH),
    ("size", [b"x", "5", NAN, -1, 1.5, True]),
    ("max_bytes", NO_COUNT),
    ("write", NO_FLAG),
    ("compress", NO_FLAG),
    ("progress", ["bar", 1, NAN, b"x"]),
]


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in LENT for value in values]
)
def test_arguments_of_lending_are_checked(
    name: str, value: Any, client: CheckedClient, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    options: dict[str, Any] = {"path": tmp_path / "file", name: value}
    with refused(name, value):
        enter(client.local_file(**options))
    options.pop("path")
    if name != "path":
        with refused(name, value):
            enter(client.resource(io.BytesIO(b"abc"), **options))


@pytest.mark.parametrize(
    ("name", "value"),
    [("max_bytes", NAN), ("max_bytes", None), ("max_bytes", -1), ("timeout", NAN)]
    + [("timeout", value) for value in ("5", -1, True)],
)
def test_a_driver_that_reads_passes_numbers(client: CheckedClient, name: str, value: Any) -> None:
    text = rf"Argument(Type|Value)Error: {name} must be "
    with client.resource(io.BytesIO(b"abc")) as handle:
        with pytest.raises(Exception, match=text):
            client.call("read", handle, {name: value})
        client.call("read", handle, {})


# ---------------------------------------------------------------------- portals and helpers


@pytest.mark.parametrize("grace", NO_DURATION)
def test_a_portal_takes_a_duration(grace: Any) -> None:
    with refused("grace", grace):
        start_blocking_portal(grace=grace)


@pytest.mark.parametrize("name", NO_TEXT)
def test_the_name_of_a_portal_is_a_text(name: Any) -> None:
    with refused("name", name):
        start_blocking_portal(name=name)


@pytest.mark.parametrize("func", [None, "f", 5, NAN, Path("/x")])
def test_a_portal_runs_functions(portal: BlockingPortal, func: Any) -> None:
    for method in (portal.call, portal.start_task_soon, portal.run_sync_soon):
        ask: Callable[[Any], object] = method
        with refused("func", func):
            ask(func)
    with refused("cm", func):
        portal.wrap_async_context_manager(func)


async def echo() -> None:
    """Do nothing."""


def test_a_coroutine_is_rejected_as_a_function(portal: BlockingPortal) -> None:
    called: Any = echo()
    with pytest.raises(ArgumentTypeError, match="passed with its arguments, not called"):
        portal.call(called)
    called.close()


@pytest.mark.parametrize("limits", [None, 5, {}, "default"])
@timed()
async def test_helpers_accept_limits(limits: Any) -> None:
    with refused("limits", limits):
        enter(client_for(Checked(), limits=limits))
    with refused("limits", limits):
        async with client_for_async(Checked(), limits=limits):
            pass


def test_a_fixture_requires_a_driver_factory() -> None:
    make: Any = Checked()
    with pytest.raises(ArgumentTypeError, match="pass the class Checked, or a function"):
        client_fixture(make)
    for wrong in (None, "power.Power", 5):
        make = wrong
        with refused("make", make):
            client_fixture(make)
    for wrong in (None, "test", 5):
        scope: Any = wrong
        with refused("scope", scope):
            client_fixture(Checked, scope=scope)


# --------------------------------------------------------------------------- drivers' fields

FIELDS: list[tuple[Callable[..., Driver], dict[str, Any], str, list[Any]]] = [
    (SerialPort, {"url": "/dev/x"}, "baudrate", [*NO_COUNT, 0]),
    (SerialPort, {}, "url", [value for value in NO_TEXT if not isinstance(value, Path)]),
    (TcpNetwork, {"port": 1}, "host", NO_TEXT),
    (TcpNetwork, {"host": "board"}, "port", [*NO_COUNT, 0, 65536]),
    (UnixNetwork, {}, "path", NO_PATH),
    (MockPower, {}, "voltage", [None, "5", NAN, True, b"x"]),
    (MockPower, {}, "current", [None, "5", NAN, True, b"x"]),
    (Shell, {}, "commands", [None, "reboot", ["reboot"], 5]),
    (Shell, {}, "max_output", NO_COUNT),
    (FileStorage, {}, "path", NO_PATH),
    (FileStorage, {"path": "card"}, "max_bytes", NO_COUNT),
    (Composite, {}, "uuid", [None, "abc", 5, NAN, b"x"]),
    (Composite, {}, "labels", [None, "a=b", ["a"], 5]),
    (Composite, {}, "children", [None, [Checked()], Checked(), "x"]),
    (Composite, {}, "log_level", [True]),
]


@pytest.mark.parametrize(
    ("make", "others", "name", "value"),
    [(make, others, name, value) for make, others, name, values in FIELDS for value in values],
)
def test_a_field_of_a_driver_is_checked(
    make: Callable[..., Driver], others: dict[str, Any], name: str, value: Any
) -> None:
    with refused(f"{name} of ", value, ConfigurationError):
        make(**others, **{name: value})


def test_other_forms_of_right_fields_are_accepted(tmp_path: Path) -> None:
    storage: Any = FileStorage
    assert storage(path=tmp_path / "card").path == str(tmp_path / "card")
    power = MockPower()
    same: Any = str(power.uuid)
    assert MockPower(uuid=same).uuid == power.uuid


@pytest.mark.parametrize("wait", [*NO_DURATION, math.inf])
def test_an_invalid_cycle_leaves_the_power_on(wait: Any) -> None:
    driver = MockPower()
    with client_for(driver, client=PowerClient) as client:
        client.on()
        with refused("wait", wait):
            client.cycle(wait)
        assert driver.is_on
        with refused("interval", None):
            next(iter(client.read(None)))  # type: ignore[arg-type]


@pytest.mark.parametrize("path", NO_PATH)
def test_an_image_is_a_path(path: Any, tmp_path: Path) -> None:
    storage = FileStorage(path=str(tmp_path / "card"))
    with client_for(storage, client=StorageClient) as client:
        with refused("image", path):
            client.flash(path)
        with refused("path", path):
            client.dump(path)


@pytest.mark.parametrize("strict", NO_FLAG)
def test_strict_is_a_flag(strict: Any) -> None:
    with refused("strict", strict):
        export(strict=strict)
