"""Tests that forked children neither hide their parent's end nor keep its addresses occupied.

The tests also check that a child does its parent no harm. Every peer in these tests is a process,
because all of these effects occur between processes.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trustme
from forking import WAYS

from exporter_process import ExporterProcess, exporter
from jumpstarter import Limits, connect, connect_async
from jumpstarter.client import DriverClient
from jumpstarter.errors import CallOutcomeUnknown
from processes import running

HERE = Path(__file__).parent
PATIENCE = 60.0  # seconds for a test; each takes one or two
SOON = 30.0  # seconds for what the end of the peer's socket causes within a few milliseconds
# Without keepalive, only that end tells that a peer is lost.
NO_KEEPALIVE = Limits(ping_interval=0)
NO_PINGS = ("--limit", "ping_interval=0")
DRIVER = "forking:Forking"


class Place:
    """The address at which a test serves an exporter, and the options to connect to it."""

    def __init__(self, directory: Path, scheme: str) -> None:
        self.scheme = scheme
        self.directory = directory
        self.options: tuple[str, ...] = ()
        self.context: ssl.SSLContext | None = None
        self.authority = ""
        if scheme != "unix":
            self.options = ("--address", f"{scheme}://127.0.0.1:0")
        if scheme == "tls":
            self._make_certificate()

    def _make_certificate(self) -> None:
        authority = trustme.CA()
        server = authority.issue_cert("127.0.0.1")
        key, certificate = self.directory / "key.pem", self.directory / "cert.pem"
        server.private_key_pem.write_to_path(key)
        server.cert_chain_pems[0].write_to_path(certificate)
        self.authority = str(self.directory / "authority.pem")
        authority.cert_pem.write_to_path(self.authority)
        self.context = ssl.create_default_context(cafile=self.authority)
        self.options += ("--tls-key", str(key), "--tls-cert", str(certificate))

    @contextlib.contextmanager
    def exporter(self, address: str = "") -> Iterator[ExporterProcess]:
        """Serve an exporter, at `address` if one is given."""
        options = ("--address", address, *self.options[2:]) if address else self.options
        options += NO_PINGS
        with exporter(self.directory, *options, driver=DRIVER, cwd=HERE) as process:
            yield process

    def connect(self, address: str) -> contextlib.AbstractContextManager[DriverClient]:
        """Connect from blocking code."""
        return connect(address, allow=["forking.*"], ssl_context=self.context)


@pytest.fixture(params=["unix", "tcp", "tls"])
def place(tmp_path: Path, request: pytest.FixtureRequest) -> Place:
    return Place(tmp_path, request.param)


@contextlib.contextmanager
def killed_at_the_end(helper: int) -> Iterator[None]:
    try:
        os.kill(helper, 0)  # the helper is alive
        yield
        os.kill(helper, 0)  # and still alive
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(helper, signal.SIGKILL)


# --------------------------------------------------------------------------- killed peers


async def is_told_of_the_end(place: Place, method: str, way: str) -> None:
    with trio.fail_after(PATIENCE), place.exporter() as first:
        async with connect_async(
            first.address, allow=["forking.*"], limits=NO_KEEPALIVE, ssl_context=place.context
        ) as client:
            with killed_at_the_end(await client.call_async(method, way)):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(ends_unknown, client)
                    await trio.to_thread.run_sync(first.until_logged, "hold begins")
                    first.send(signal.SIGKILL)
                    nursery.cancel_scope.deadline = trio.current_time() + SOON
                assert not nursery.cancel_scope.cancelled_caught
                with place.exporter(first.address) as second:
                    assert second.address == first.address


async def ends_unknown(client: DriverClient) -> None:
    with pytest.raises(CallOutcomeUnknown):
        await client.call_async("hold")


@pytest.mark.parametrize("way", WAYS)
async def test_a_client_is_told_of_a_killed_exporter_whatever_its_children_do(
    tmp_path: Path, way: str
) -> None:
    await is_told_of_the_end(Place(tmp_path, "unix"), "start", way)


@pytest.mark.parametrize("method", ["start", "start_in_loop"])
async def test_the_same_over_every_kind_of_socket_from_a_thread_and_from_the_loop(
    place: Place, method: str
) -> None:
    await is_told_of_the_end(place, method, "multiprocessing")


@contextlib.contextmanager
def client_process(place: Place, address: str, way: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, str(HERE / "forking.py"), address, way, place.authority]
    pipe = subprocess.PIPE
    with running(command, stdin=pipe, stdout=pipe, cwd=HERE) as process:
        yield process


async def ends_with_killed_client(place: Place, way: str) -> None:
    with (
        trio.fail_after(PATIENCE),
        place.exporter() as process,
        client_process(place, process.address, way) as client,
    ):
        assert client.stdin is not None
        assert client.stdout is not None
        port, path = (await trio.to_thread.run_sync(client.stdout.readline)).split()
        async with (
            await trio.open_tcp_stream("127.0.0.1", int(port)) as tcp,
            await trio.open_unix_socket(path) as unix,
        ):
            client.stdin.write("\n")
            client.stdin.flush()
            helper = int(await trio.to_thread.run_sync(client.stdout.readline))
            with killed_at_the_end(helper):
                await trio.to_thread.run_sync(process.until_logged, "hold begins")
                client.kill()
                with trio.fail_after(SOON):
                    await trio.to_thread.run_sync(process.until_logged, "hold has ended")
                    for stream in (tcp, unix):  # the programs at its ports see the end too
                        with contextlib.suppress(trio.BrokenResourceError):
                            assert await stream.receive_some() == b""
                with socket.create_server(("127.0.0.1", int(port))):
                    pass  # the port is free


@pytest.mark.parametrize("way", WAYS)
async def test_an_exporter_and_programs_are_told_of_a_killed_client_whatever_its_children_do(
    tmp_path: Path, way: str
) -> None:
    await ends_with_killed_client(Place(tmp_path, "unix"), way)


async def test_the_same_over_every_kind_of_socket(place: Place) -> None:
    await ends_with_killed_client(place, "os.fork")


# ----------------------------------------------------------------------------- forked children


def run(script: str, *args: str) -> list[str]:
    """Run a script in this directory within the deadline of a test; return its output lines."""
    process = subprocess.run(
        [sys.executable, "-X", "dev", "-c", SCRIPT_HEAD + script, *args],
        cwd=HERE,
        env=os.environ | {"PYTHONPATH": f"{HERE}:{HERE.parent}"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    assert "Traceback" not in process.stderr, process.stderr
    return process.stdout.splitlines()


SCRIPT_HEAD = """
import contextlib, os, signal, socket, stat, sys, threading, time
from pathlib import Path
import trio
from forking import Forking
from jumpstarter import connect, serve, serve_async
from jumpstarter.portal import start_blocking_portal
signal.alarm(55)

def names():
    # Of all sockets of this process, and of their peers; a pair has none.
    for number in os.listdir("/proc/self/fd"):
        try:
            with socket.socket(fileno=os.dup(int(number))) as one:
                yield str(one.getsockname())
                yield str(one.getpeername())
        except OSError:
            continue

def in_child(function):
    child = os.fork()
    if child == 0:
        try:
            function()
        finally:
            sys.stdout.flush()
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
"""


def test_a_child_that_exits_leaves_files_and_connections_of_its_parent() -> None:
    lines = run("""
with serve(Forking()) as client, client.portforward_unix() as path, client.portforward() as port:
    private = client.channel.channel.name.removeprefix("unix:")
    child = os.fork()
    if child == 0:
        sys.exit(0)  # with all that Python does at an exit
    assert os.waitpid(child, 0)[1] == 0
    assert Path(path).exists() and Path(private).exists()
    with socket.socket(socket.AF_UNIX) as one, socket.create_connection(port):
        one.connect(path)
    print(client.echo("well"))
    with connect(f"unix:{private}", allow=["forking.*"]) as other:
        print(other.echo("too"))
""")
    assert lines == ["well", "too"]


def test_a_child_has_none_of_the_sockets_and_may_make_its_own() -> None:
    lines = run("""
def child():
    print(set(names()) - {"", str(program.getsockname()), str(port)})
    try:
        client.echo(1)
    except RuntimeError as exc:
        print(exc)
    with serve(Forking()) as own:
        print(own.echo("its own"))

with serve(Forking()) as client, client.portforward() as port, client.portforward_unix() as path:
    with client.open_stream() as stream, socket.create_connection(port) as program:
        client.echo(0)
        assert len(set(names())) > 4
        in_child(child)
        print(client.echo("parent"))
""")
    assert lines[0] == "set()"
    assert "belongs to the parent of this forked process" in lines[1]
    assert lines[2:] == ["its own", "parent"]


@pytest.mark.parametrize("address", ["unix:{}/socket", "tcp://127.0.0.1:0"])
def test_children_that_are_forked_while_connections_come_and_go_get_none(
    tmp_path: Path, address: str
) -> None:
    lines = run(
        """
def is_open(number):
    one = socket.socket(fileno=number)
    try:
        names = one.getsockname(), one.getpeername()
        return any(names) and one.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) != b""
    except BlockingIOError:
        return True
    except OSError:  # it is not connected: does it listen?
        return bool(one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    finally:
        one.detach()

def open_sockets():
    numbers = []
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the list itself
            if stat.S_ISSOCK(os.fstat(int(number)).st_mode):
                numbers.append(int(number))
    return [number for number in numbers if is_open(number)]

def come_and_go():
    while not done:
        with connect(server.address, allow=["forking.*"]) as client:
            client.echo(1)

with start_blocking_portal() as portal:
    with portal.wrap_async_context_manager(serve_async(Forking(), sys.argv[1])) as server:
        done = False
        threads = [threading.Thread(target=come_and_go) for _ in range(2)]
        for thread in threads:
            thread.start()
        bad = 0
        for _ in range(150):
            child = os.fork()
            if child == 0:
                patience = time.monotonic() + 2  # an attempt to connect may end just now
                while (left := open_sockets()) and time.monotonic() < patience:
                    time.sleep(0.01)
                os._exit(bool(left))
            bad += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        done = True
        for thread in threads:
            thread.join()
        print(bad)
""",
        address.format(tmp_path),
    )
    assert lines == ["0"]


def test_a_child_that_is_forked_amid_calls_of_other_threads_is_told_and_does_not_wait() -> None:
    lines = run("""
def child():
    signal.alarm(30)
    try:
        client.echo(1)
    except RuntimeError:
        return
    os._exit(1)

with serve(Forking()) as client:
    done = False

    def call():
        while not done:
            client.echo(1)

    threads = [threading.Thread(target=call) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(50):
        in_child(child)
    done = True
    for thread in threads:
        thread.join()
    print(client.echo("well"))
""")
    assert lines == ["well"]


def test_what_is_typed_into_a_pexpect_session_is_not_waited_for_because_of_a_child() -> None:
    lines = run("""
from forking import start_helper
with serve(Forking()) as client:
    start = time.monotonic()
    with client.pexpect() as session:
        session.send("hello")
        helper = start_helper("os.fork")
    print("soon" if time.monotonic() - start < 5 else "late")
    os.kill(helper, signal.SIGKILL)
""")
    assert lines == ["soon"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_child_of_an_exporter_can_be_terminated(tmp_path: Path, number: signal.Signals) -> None:
    place = Place(tmp_path, "unix")
    with place.exporter() as process, place.connect(process.address) as client:
        helper = client.call("start", "multiprocessing")
        deadline = time.monotonic() + PATIENCE
        while state_of(helper) not in {"Z", "gone"}:
            assert time.monotonic() < deadline, f"it runs on: {state_of(helper)}"
            os.kill(helper, number)  # Python drops a signal sent before a child's first line
            time.sleep(0.1)
        assert client.call("echo", "well") == "well"


def state_of(process: int) -> str:
    try:
        status = Path(f"/proc/{process}/stat").read_text()
    except FileNotFoundError:
        return "gone"
    return status.rpartition(")")[2].split()[0]


# ------------------------------------------------------------------------- files and devices


@pytest.mark.parametrize("family", ["tcp", "unix"])
def test_a_child_has_no_connection_to_a_device_of_its_parent(tmp_path: Path, family: str) -> None:
    lines = run(
        """
from jumpstarter.drivers.network import TcpNetwork, UnixNetwork
path = sys.argv[2]
tcp = sys.argv[1] == "tcp"
with socket.socket(socket.AF_INET if tcp else socket.AF_UNIX) as device:
    device.bind(("127.0.0.1", 0) if tcp else path)
    device.listen()
    driver = UnixNetwork(path=path)
    if tcp:
        driver = TcpNetwork(host="127.0.0.1", port=device.getsockname()[1])
    with serve(driver) as client, client.connect() as stream:
        end, _ = device.accept()
        mine = {"", *map(str, (device.getsockname(), end.getsockname(), end.getpeername()))}
        open_to = str(device.getsockname())
        mine_alone = [socket.socket(fileno=os.dup(each.fileno())) for each in (device, end)]
        def child():
            device.close(), end.close()
            for each in mine_alone:
                each.close()
            print(open_to in set(names()))
        assert open_to in set(names())
        in_child(child)
        stream.send(b"well")
        print(end.recv(4))
        end.close()
""",
        family,
        str(tmp_path / "device"),
    )
    assert lines == ["False", "b'well'"]


def test_a_child_has_no_file_that_is_lent_and_no_pipe_of_a_program(tmp_path: Path) -> None:
    (tmp_path / "lent").write_bytes(bytes(4_000_000))
    lines = run(
        """
from jumpstarter.drivers.composite import Composite
from jumpstarter.drivers.shell import Shell

def links():
    numbers = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
    return [os.readlink(number) for number in numbers if os.path.exists(number)]

def ours():
    return [link for link in links() if link.startswith((directory, "pipe:")) and link not in mine]

def lend():
    with client.forking.local_file(f"{directory}/lent") as handle:
        client.forking.call("hold_resource", handle)

def wait():
    client.shell.run("slow")

directory = sys.argv[1]
mine = links()
begun, over = Path(directory, "begun"), Path(directory, "over")
until_over = 'touch "$0"; until [ -e "$1" ]; do sleep 0.05; done'
shell = Shell(commands={"slow": ["sh", "-c", until_over, str(begun), str(over)]})
with serve(Composite(children={"forking": Forking(), "shell": shell})) as client:
    threads = [threading.Thread(target=lend), threading.Thread(target=wait)]
    for thread in threads:
        thread.start()
    client.forking.until_begun()
    while not begun.exists() or len(ours()) != 3:  # more while the program is being started
        time.sleep(0.01)
    in_child(lambda: print(ours()))
    client.forking.release()
    over.touch()
    for thread in threads:
        thread.join()
""",
        str(tmp_path),
    )
    assert lines == ["[]"]


FORK_WHILE_OPENING = """
def open_links(prefix):
    found = []
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            link = os.readlink(f"/proc/self/fd/{number}")
            found += [link] if link.startswith(prefix) else []
    return found

def connections_to(address, has_ended=lambda one: False):
    found = []
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(int(number))) as one:
            if one.getpeername() == address and not has_ended(one):
                found.append(number)
    return found

def has_ended(one):
    try:
        return one.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True

@contextlib.contextmanager
def device(family, address):
    # In another process, so that no end of its connections is a descriptor of this one.
    with socket.socket(family) as listener:
        listener.bind(address)
        listener.listen(100)
        where = listener.getsockname()
        child = os.fork()
        if child == 0:
            held = []
            while True:
                held = [*held[-100:], listener.accept()[0]]
    try:
        yield where
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)

def count_children_with(look, open_and_close, number=150, patience=0.0):
    done = False

    def repeat():
        while not done:
            open_and_close()

    threads = [threading.Thread(target=repeat) for _ in range(2)]
    for thread in threads:
        thread.start()
    bad = 0
    for _ in range(number):
        child = os.fork()
        if child == 0:
            deadline = time.monotonic() + patience
            while (left := look()) and time.monotonic() < deadline:
                time.sleep(0.01)
            os._exit(bool(left))
        bad += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    done = True
    for thread in threads:
        thread.join()
    return bad
"""


def test_children_forked_while_a_driver_connects_have_no_connection_to_its_device(
    tmp_path: Path,
) -> None:
    lines = run(
        FORK_WHILE_OPENING
        + """
from jumpstarter.drivers.network import UnixNetwork
with device(socket.AF_UNIX, sys.argv[1]) as address:
    driver = UnixNetwork(path=address)

    async def connect():
        for _ in range(100):
            async with driver.connect():
                pass

    def connect_once():
        trio.run(connect)

    print(count_children_with(lambda: connections_to(address), connect_once))
""",
        str(tmp_path / "device"),
    )
    assert lines == ["0"]


def test_children_forked_while_a_port_of_the_network_opens_have_no_connection_to_it() -> None:
    lines = run(
        FORK_WHILE_OPENING
        + """
from jumpstarter.drivers._ports import Port
with device(socket.AF_INET, ("127.0.0.1", 0)) as address:
    def open_once():
        Port(f"socket://127.0.0.1:{address[1]}", 9600).close()
    print(count_children_with(lambda: connections_to(address, has_ended), open_once, 60, 2.0))
"""
    )
    assert lines == ["0"]


@pytest.mark.parametrize("kind", ["source", "sink", "fifo", "device"])
def test_children_forked_while_a_file_is_opened_do_not_have_it(tmp_path: Path, kind: str) -> None:
    lines = run(
        FORK_WHILE_OPENING
        + """
from jumpstarter._io.files import SinkFile, SourceFile
kind, directory = sys.argv[1], Path(sys.argv[2])
path = directory / "file"
if kind == "fifo":
    os.mkfifo(path)
    reader = os.open(path, os.O_RDWR)
elif kind == "device":
    terminal, other = os.openpty()
    path = Path(os.ttyname(other))
    os.close(other)
else:
    path.write_bytes(b"bytes")

def open_once():
    file = SourceFile(path) if kind in {"source", "device"} else SinkFile(path)
    file.open()
    file.close()

mine = open_links(str(path))
prefix = str(path) if kind in {"fifo", "device"} else str(directory)
print(count_children_with(lambda: open_links(prefix) != mine, open_once))
""",
        kind,
        str(tmp_path),
    )
    assert lines == ["0"]


def test_children_forked_while_a_serial_port_is_opened_do_not_have_it() -> None:
    lines = run(
        FORK_WHILE_OPENING
        + """
from jumpstarter.drivers._ports import Port
terminal, other = os.openpty()
path = os.ttyname(other)
os.close(other)
lock = threading.Lock()

def open_once():
    # A child has the device's lock from the fork until it has closed its copies.
    with lock, contextlib.suppress(OSError):
        Port(path, 9600).close()

print(count_children_with(lambda: open_links(path), open_once))
"""
    )
    assert lines == ["0"]


def test_a_file_that_never_opens_holds_up_no_fork(tmp_path: Path) -> None:
    lines = run(
        """
from jumpstarter._io.files import SourceFile
os.mkfifo(sys.argv[1])
source = SourceFile(Path(sys.argv[1]))
thread = threading.Thread(target=source.open)
thread.start()
time.sleep(0.1)
in_child(lambda: print("forked"))
os.close(os.open(sys.argv[1], os.O_WRONLY))
thread.join()
""",
        str(tmp_path / "fifo"),
    )
    assert lines == ["forked"]


def test_a_port_is_free_once_its_holder_was_killed_whatever_its_children_do() -> None:
    board, port = os.openpty()
    script = """
from forking import start_helper
from jumpstarter.drivers.serial import SerialPort
with serve(SerialPort(url=sys.argv[1])) as client, client.connect() as stream:
    stream.send(b"x")
    print(start_helper("multiprocessing"), flush=True)
    time.sleep(60)
"""
    command = [sys.executable, "-c", SCRIPT_HEAD + script, os.ttyname(port)]
    try:
        with running(command, cwd=HERE, stdout=subprocess.PIPE) as holder:
            assert holder.stdout is not None
            with killed_at_the_end(int(holder.stdout.readline())):
                with pytest.raises(BlockingIOError):
                    fcntl.flock(port, fcntl.LOCK_EX | fcntl.LOCK_NB)
                holder.kill()
                deadline = time.monotonic() + SOON
                while time.monotonic() < deadline:
                    try:
                        fcntl.flock(port, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    except BlockingIOError:
                        time.sleep(0.01)
                    else:
                        return
                raise AssertionError("the port is still locked")
    finally:
        os.close(board)
        os.close(port)
