"""Use published drivers against real things: an exporter in one process, the test in another.

Run by `make compat-real`, in the environment that has the drivers: a board at a pseudo-terminal, a
directory, a web server, and an SSH server if one is installed (Debian: openssh-server).
"""

from __future__ import annotations

import functools
import getpass
import hashlib
import http.server
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import tty
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from click import ClickException
from click.testing import CliRunner
from opendal import Operator

from jumpstarter import connect

HERE: Final = Path(__file__).parent
SSHD: Final = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
PATIENCE: Final = 60.0  # seconds for what takes one
CONTENT: Final = os.urandom(1 << 20) * 8


@contextmanager
def board() -> Iterator[str]:
    """Yield the path of a serial port at which a board answers each line that it gets."""
    controller, port = os.openpty()
    tty.setraw(port)

    def answer() -> None:
        line = b""
        while (byte := os.read(controller, 1)) != b"\x04":
            line += byte
            if byte == b"\n":
                os.write(controller, b"you typed " + line + b"$ ")
                line = b""

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        yield os.ttyname(port)
    finally:
        os.write(port, b"\x04")
        thread.join(PATIENCE)
        os.close(controller)
        os.close(port)


class Site(http.server.SimpleHTTPRequestHandler):
    """Serves a directory, and takes uploads."""

    def do_PUT(self) -> None:
        path = Path(self.translate_path(self.path))
        path.write_bytes(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(201)
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        pass


@contextmanager
def web_server(directory: Path) -> Iterator[int]:
    """Yield the port of a web server."""
    handler = functools.partial(Site, directory=str(directory))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def ssh_server(directory: Path) -> Iterator[int]:
    """Yield the port of an SSH server that knows a key, or of nothing if none is installed."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    if SSHD is None:
        yield port
        return
    for name in ("host_key", "key"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(directory / name)]
        subprocess.run(command, check=True, timeout=PATIENCE)
    Path("/run/sshd").mkdir(exist_ok=True)  # where it drops its privileges, as root
    settings = {
        "ListenAddress": f"127.0.0.1:{port}",
        "HostKey": directory / "host_key",
        "AuthorizedKeysFile": directory / "key.pub",
        "PidFile": "none",
        "StrictModes": "no",
        "UsePAM": "no",
        "PasswordAuthentication": "no",
    }
    options = [part for name, value in settings.items() for part in ("-o", f"{name}={value}")]
    with subprocess.Popen([SSHD, "-D", "-e", "-f", "/dev/null", *options]) as process:
        try:
            yield port
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    """Yield a directory with a short name, since the path of a socket is limited."""
    with tempfile.TemporaryDirectory(prefix="real-") as name:
        yield Path(name)


@pytest.fixture(scope="module")
def site(directory: Path) -> Path:
    path = directory / "site"
    path.mkdir()
    (path / "index.html").write_text("hello from the board")
    (path / "image.bin").write_bytes(CONTENT)
    return path


@pytest.fixture(scope="module")
def web(site: Path) -> Iterator[int]:
    with web_server(site) as port:
        yield port


@pytest.fixture(scope="module")
def address(directory: Path, web: int) -> Iterator[str]:
    """Yield the address of an exporter in another process, which ends well."""
    (directory / "files").mkdir()
    with board() as console, ssh_server(directory) as ssh:
        variables = {
            "CONSOLE": console,
            "DIRECTORY": str(directory / "files"),
            "WEB_PORT": str(web),
            "SSH_PORT": str(ssh),
            "SSH_KEY": str(directory / "key"),
            "SSH_USER": getpass.getuser(),
        }
        where = f"unix:{directory}/socket"
        command = [sys.executable, "-m", "jumpstarter", "serve", "bench:tree", "--address", where]
        with subprocess.Popen(
            command, cwd=HERE, env={**os.environ, **variables}, stdout=subprocess.PIPE, text=True
        ) as exporter:
            try:
                assert exporter.stdout is not None
                assert exporter.stdout.readline() == f"ready: {where}\n"
                yield where
            finally:
                exporter.send_signal(signal.SIGTERM)
                assert exporter.wait(PATIENCE) == 0


@pytest.fixture
def bench(address: str) -> Iterator[Any]:
    with connect(address) as client, client.timeout(PATIENCE):
        yield client


def run(client: Any, *arguments: str) -> str:
    """Run the command line of a client, as `j` does, and return its output."""
    done = CliRunner().invoke(client.cli(), arguments, standalone_mode=False)
    if done.exception is not None:
        raise done.exception
    return done.output


# ---------------------------------------------------------------------------- a serial port


def test_a_console_is_driven_by_pexpect(bench: Any) -> None:
    with bench.console.pexpect() as session:
        for word in ("uname", "reboot"):
            session.sendline(word)
            session.expect(f"you typed {word}", timeout=PATIENCE)
            session.expect_exact("$ ", timeout=PATIENCE)


def test_a_console_is_a_raw_stream(bench: Any) -> None:
    with bench.console.stream("connect") as stream:
        stream.send(b"raw\n")
        read = b""
        while not read.endswith(b"$ "):
            read += stream.receive()
    assert read == b"you typed raw\n$ "


def test_a_console_pipes_what_the_board_prints(bench: Any, tmp_path: Path) -> None:
    assert "pipe" in run(bench.console, "--help")
    bench.console.portal.call(pipe_a_line, bench.console, tmp_path / "log")
    assert (tmp_path / "log").read_bytes() == b"you typed piped\n$ "


async def pipe_a_line(console: Any, path: Path) -> None:
    async with console.stream_async("connect") as stream:
        await stream.send(b"piped\n")
        read = b""
        while not read.endswith(b"$ "):
            read += await stream.receive()
    path.write_bytes(read)  # noqa: ASYNC240 - a few bytes


# -------------------------------------------------------------------------------- files


def test_files_are_copied_through_opendal(bench: Any, directory: Path, tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(CONTENT)
    files = bench.files
    files.create_dir("images/")
    files.write_from_path("images/a", tmp_path / "image")
    assert (directory / "files" / "images" / "a").read_bytes() == CONTENT
    assert files.stat("images/a").content_length == len(CONTENT)
    assert files.hash("images/a", "sha256") == hashlib.sha256(CONTENT).hexdigest()
    files.read_into_path("images/a", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == CONTENT
    assert sorted(files.list("images/")) == ["images/", "images/a"]
    file = files.open("images/a", "rb")
    file.seek(-16, 2)
    assert file.read_bytes() == CONTENT[-16:]
    file.close()
    files.remove_all("images/")
    assert not files.exists("images/a")


def test_a_file_of_a_web_server_goes_to_the_exporter(bench: Any, web: int, directory: Path) -> None:
    operator = Operator("http", endpoint=f"http://127.0.0.1:{web}")
    bench.files.write_from_path("fetched", "image.bin", operator)
    assert (directory / "files" / "fetched").read_bytes() == CONTENT


def test_the_command_line_of_opendal(bench: Any, directory: Path) -> None:
    (directory / "files" / "note").write_text("text")
    assert run(bench.files, "exists", "note") == ""
    with pytest.raises(ClickException, match="path missing does not exist"):
        run(bench.files, "exists", "missing")
    assert "note" in run(bench.files, "list", "/").split()
    assert hashlib.sha256(b"text").hexdigest() in run(
        bench.files, "hash", "note", "--algo", "sha256"
    )


def test_errors_of_opendal_arrive_with_their_text(bench: Any) -> None:
    with pytest.raises(Exception, match="NotFound"):
        bench.files.stat("missing")


# -------------------------------------------------------------------------------- network


def test_a_server_is_reached_through_a_local_port(bench: Any, site: Path) -> None:
    from jumpstarter_driver_network.adapters import TcpPortforwardAdapter  # noqa: PLC0415

    with TcpPortforwardAdapter(client=bench.web) as (host, port):
        url = f"http://{host}:{port}"
        for _ in range(3):
            with urllib.request.urlopen(f"{url}/index.html", timeout=PATIENCE) as page:  # noqa: S310
                assert page.read() == b"hello from the board"
        request = urllib.request.Request(f"{url}/new", data=CONTENT, method="PUT")  # noqa: S310
        urllib.request.urlopen(request, timeout=PATIENCE).close()  # noqa: S310
    assert (site / "new").read_bytes() == CONTENT


def test_the_command_line_of_network(bench: Any, web: int) -> None:
    assert run(bench.web, "address").strip() == f"127.0.0.1:{web}"
    assert "forward-tcp" in run(bench.web, "--help")


# ------------------------------------------------------------------------------------ ssh


@pytest.mark.skipif(SSHD is None, reason="no SSH server is installed (Debian: openssh-server)")
@pytest.mark.parametrize("direct", [False, True], ids=["forwarded", "direct"])
def test_a_command_runs_over_ssh(bench: Any, *, direct: bool) -> None:
    from jumpstarter_driver_ssh.client import SSHCommandRunOptions  # noqa: PLC0415

    done = bench.ssh.run(SSHCommandRunOptions(direct=direct), ["echo", "over", "ssh"])
    assert (done.return_code, done.stdout) == (0, "over ssh\n"), done
    done = bench.ssh.run(SSHCommandRunOptions(direct=direct), ["exit", "3"])
    assert done.return_code == 3


# --------------------------------------------------------------------------- all of them


def test_drivers_are_used_concurrently(bench: Any) -> None:
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(20):
                assert bench.files.exists("nothing") is False
                assert bench.web.address().startswith("tcp://127.0.0.1:")
        except BaseException as exc:  # noqa: BLE001 - reported by the test
            failures.append(exc)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert failures == []
    assert not any(thread.is_alive() for thread in threads)


# ---------------------------------------------------------------------------------- pytest

SUITE: Final = """
from jumpstarter_testing.pytest import JumpstarterTest

class TestBench(JumpstarterTest):
    selector = "board=none"

    def test_it(self, client):
        assert type(client.console).__module__ == "jumpstarter_driver_pyserial.client"
        with client.console.pexpect() as session:
            session.sendline("uname")
            session.expect("you typed uname", timeout=60)

    def test_beside_our_fixture(self, client, device):
        assert client.files.exists("nothing") is False
        assert device.files.exists("nothing") is False

    def test_a_plugin_is_loaded(self, pytestconfig):
        assert pytestconfig.pluginmanager.has_plugin("jumpstarter")

def test_our_fixture_alone(device):
    with device.console.pexpect() as session:
        session.sendline("uname")
        session.expect("you typed uname", timeout=60)
    assert False, "to see the report"
"""


def test_the_published_base_class_of_tests_works_beside_our_plugin(
    address: str, tmp_path: Path
) -> None:
    (tmp_path / "test_bench.py").write_text(SUITE)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "test_bench.py"],
        cwd=tmp_path,
        env={**os.environ, "JUMPSTARTER_HOST": address},
        capture_output=True,
        text=True,
        timeout=3 * PATIENCE,
        check=False,
    )
    assert "3 passed" in done.stdout, done.stdout + done.stderr
    assert "1 failed" in done.stdout, done.stdout
    assert "- console console -" in done.stdout, done.stdout
    assert "> uname" in done.stdout, done.stdout
