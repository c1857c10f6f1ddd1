"""Test the output, the errors and the shutdown of `python -m jumpstarter serve`."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import ssl
import stat
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

import jumpstarter
from exporter_process import PATIENCE, TESTS, exporter, wait_until_refused
from jumpstarter.cli import main
from jumpstarter.client import DriverClient
from jumpstarter.errors import CallCancelled, DriverError, DriverInvalidArgument, HandshakeError
from processes import running

LONG = "1000"  # seconds of grace, longer than the timeout of a test

MODULE = '''
from jumpstarter.client import DriverClient
from jumpstarter.driver import Driver, export

class Lamp(Driver):
    """A driver that has a name."""

    name = "from the class"

    @classmethod
    def client(cls):
        return "jumpstarter.client.DriverClient"

    @export
    def read_name(self):
        return self.name

def make():
    lamp = Lamp()
    lamp.name = "from the function"
    return lamp

class Abstract(Driver):
    pass

class Nested:
    lamp = Lamp()
    lamp.name = "the instance"

class Broken(Lamp):
    def __init__(self):
        raise RuntimeError("the lamp\\nis not plugged in")

class LampClient(DriverClient):
    pass

text = "no driver at all"
make_text = str
'''

COLLECTED = """
import gc
from jumpstarter.driver import Driver, export

FROM_THE_START = [[]]

class Collected(Driver):
    @classmethod
    def client(cls):
        return "jumpstarter.client.DriverClient"

    @export
    def collector(self):
        is_visited = any(each is FROM_THE_START for each in gc.get_objects())
        return [gc.isenabled(), is_visited, list(gc.get_threshold())]

class Chosen(Collected):
    def __init__(self):
        super().__init__()
        gc.set_threshold(701, 11, 1000)
"""


pytestmark = pytest.mark.usefixtures("handlers_of_signals")


@pytest.fixture
def lamps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write the module `lamps` to a directory, enter the directory, and return it."""
    (tmp_path / "lamps.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.delitem(sys.modules, "lamps", raising=False)
    return tmp_path


def run_serve(
    spec: str, *options: str, cwd: Path, python: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """Run an exporter that is expected to fail before it listens."""
    command = [sys.executable, *python, "-m", "jumpstarter", "serve", spec, *options]
    command += ["--address", "unix:/nowhere"]
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=PATIENCE, check=False
    )


def name_of(address: str) -> object:
    with jumpstarter.connect(address) as client, client.timeout(PATIENCE):
        return client.call("read_name")


# --- the driver and the address ---


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("lamps:Lamp", "from the class"),
        ("lamps:make", "from the function"),
        ("lamps:Nested.lamp", "the instance"),
    ],
)
def test_serve_accepts_a_class_a_function_or_an_instance(lamps: Path, spec: str, name: str) -> None:
    with exporter(lamps, driver=spec, cwd=lamps) as server:
        assert name_of(server.address) == name


def test_the_installed_command_finds_modules_of_the_current_directory_too(lamps: Path) -> None:
    # -P keeps the current directory out of sys.path, like the installed command.
    result = run_serve("lamps:Broken", cwd=lamps, python=("-P",))
    assert "the lamp is not plugged in" in result.stderr


@pytest.mark.parametrize("address", ["unix:{}/console", "tcp://127.0.0.1:0", "tcp://localhost:0"])
def test_stdout_has_only_the_ready_line(tmp_path: Path, address: str) -> None:
    with exporter(tmp_path, "--address", address.format(tmp_path)) as server:
        with jumpstarter.connect(server.address) as client, client.timeout(PATIENCE):
            assert client.call("echo", "hello") == "hello"
        server.send(signal.SIGTERM)
        assert server.rest_of_stdout() == ""
        assert server.wait() == 0
    assert not (tmp_path / "console").exists()


# --- options ---


def test_a_client_must_show_the_token_of_the_token_file(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("s3cret\n")
    with exporter(tmp_path, "--token-file", str(file)) as server:
        with pytest.raises(HandshakeError, match="not admitted"):
            jumpstarter.connect(server.address).__enter__()
        with jumpstarter.connect(server.address, token="s3cret") as client:  # noqa: S106
            assert client.call("echo", 1) == 1


def test_tls_listens_with_the_certificate_and_the_key(tmp_path: Path) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    cert, key, both = (tmp_path / name for name in ("cert.pem", "key.pem", "both.pem"))
    issued.cert_chain_pems[0].write_to_path(cert)
    issued.private_key_pem.write_to_path(key)
    issued.private_key_and_cert_chain_pem.write_to_path(both)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    for files in (["--tls-cert", str(cert), "--tls-key", str(key)], ["--tls-cert", str(both)]):
        with (
            exporter(tmp_path, "--address", "tls://localhost:0", *files) as server,
            jumpstarter.connect(server.address, ssl_context=context) as client,
        ):
            assert client.call("echo", 1) == 1


def test_key_may_come_through_a_pipe(tmp_path: Path) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    issued.cert_chain_pems[0].write_to_path(cert)
    os.mkfifo(key)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    options = ("--address", "tls://localhost:0", "--tls-cert", str(cert), "--tls-key", str(key))
    with ThreadPoolExecutor() as pool:
        pool.submit(key.write_bytes, issued.private_key_pem.bytes())
        with (
            exporter(tmp_path, *options) as server,
            jumpstarter.connect(server.address, ssl_context=context) as client,
        ):
            assert client.call("echo", 1) == 1


def test_tls_asks_clients_for_certificates_of_the_authorities_given(tmp_path: Path) -> None:
    authority = trustme.CA()
    both, ca = tmp_path / "both.pem", tmp_path / "ca.pem"
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(both)
    authority.cert_pem.write_to_path(ca)
    stranger, known = ssl.create_default_context(), ssl.create_default_context()
    for context in (stranger, known):
        authority.configure_trust(context)
    authority.issue_cert("alice@lab.example").configure_cert(known)
    options = ("--tls-cert", str(both), "--tls-client-ca", str(ca))
    with exporter(tmp_path, "--address", "tls://localhost:0", *options) as server:
        with jumpstarter.connect(server.address, ssl_context=known) as client:
            assert client.call("echo", 1) == 1
        with pytest.raises(HandshakeError, match="if it asks clients for certificates"):
            jumpstarter.connect(server.address, ssl_context=stranger).__enter__()


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells the peer's uid")
def test_allow_user_accepts_names_and_uids(tmp_path: Path) -> None:
    with exporter(tmp_path, "--allow-user", "nobody", "--allow-user", "12345") as server:
        path = Path(server.address.removeprefix("unix:"))
        assert stat.S_IMODE(path.stat().st_mode) == 0o666
        with jumpstarter.connect(server.address) as client:
            assert client.call("echo", 1) == 1


def test_insecure_lets_it_listen_beyond_loopback(tmp_path: Path) -> None:
    with exporter(tmp_path, "--address", "tcp://0.0.0.0:0", "--insecure") as server:
        address = server.address.replace("0.0.0.0", "127.0.0.1")  # noqa: S104 - not bound
        with jumpstarter.connect(address) as client:
            assert client.call("echo", 1) == 1


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_limits_the_blocking_methods_that_run_concurrently(
    tmp_path: Path, threads: int
) -> None:
    def meet(client: DriverClient, patience: float) -> bool:
        try:
            client.call("meet", patience)
        except DriverError:
            return False
        return True

    with (
        exporter(tmp_path, "--threads", str(threads)) as server,
        jumpstarter.connect(server.address) as client,
        ThreadPoolExecutor() as pool,
    ):
        patience = PATIENCE if threads == 2 else 0.1
        both = [pool.submit(meet, client, patience) for _ in range(2)]
        assert [future.result() for future in both] == [threads == 2] * 2


@pytest.mark.parametrize(("level", "is_said"), [("info", True), ("warning", False)])
def test_log_level_filters_the_log(tmp_path: Path, level: str, is_said: bool) -> None:
    with exporter(tmp_path, "--log-level", level) as server:
        server.send(signal.SIGTERM)
        assert ("received SIGTERM: shutting down" in server.rest_of_log()) is is_said


def test_limit_sets_one_limit_and_leaves_the_others(tmp_path: Path) -> None:
    with (
        exporter(tmp_path, "--limit", "max_depth=3", "--limit", "linger=0.5") as server,
        jumpstarter.connect(server.address) as client,
    ):
        assert client.call("echo", [1]) == [1]
        with pytest.raises(DriverInvalidArgument):
            client.call("echo", [[[[1]]]])
        assert client.call("echo", "x" * 100_000) == "x" * 100_000


@pytest.mark.parametrize("options", [[], ["--send-tracebacks"]], ids=["not", "sent"])
def test_send_tracebacks_sends_tracebacks(tmp_path: Path, options: list[str]) -> None:
    with exporter(tmp_path, *options) as server, jumpstarter.connect(server.address) as client:
        with pytest.raises(DriverError) as caught:
            client.call("meet", "no number")
        assert ("in meet" in (caught.value.remote_traceback or "")) is bool(options)


# --- the log ---

CHATTY = """
from drivers_for_tests import Echo
from jumpstarter.driver import export

class Chatty(Echo):
    @export
    def chat(self, lines):
        for number in range(lines):
            self.logger.info("line %d %s", number, "x" * 1000)
"""


@pytest.mark.parametrize("stderr", ["unread", "full", "closed"])
def test_exporter_serves_and_ends_whatever_stderr_is(
    tmp_path: Path, stderr: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody reads the 5 MB of log from a driver and from failing calls."""
    (tmp_path / "chatty.py").write_text(CHATTY)
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    redirection = {"unread": "", "full": "2>/dev/full", "closed": "2>&-"}[stderr]
    prefix = ("/bin/sh", "-c", f'exec "$@" {redirection}', "sh")
    with exporter(tmp_path, driver="chatty:Chatty", cwd=tmp_path, prefix=prefix) as server:
        with jumpstarter.connect(server.address) as client, client.timeout(PATIENCE):
            client.call("chat", 5000)
            for _ in range(20):
                with pytest.raises(DriverError):
                    client.call("echo", nothing_like=1)
            assert client.call("echo", 1) == 1
        server.send(signal.SIGTERM)
        assert server.wait() == 0


def test_last_log_lines_are_on_stderr_when_the_exporter_has_ended(tmp_path: Path) -> None:
    with exporter(tmp_path) as server:
        server.send(signal.SIGTERM)
        assert server.wait() == 0
        assert server.rest_of_log().splitlines()[-1].endswith(": closed")


# --- shutdown ---


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_first_signal_lets_running_calls_finish_and_refuses_others(
    tmp_path: Path, number: signal.Signals
) -> None:
    with (
        exporter(tmp_path, "--grace", LONG) as server,
        jumpstarter.connect(server.address) as client,
        ThreadPoolExecutor() as pool,
    ):
        held = pool.submit(client.call, "hold", "finished")
        client.call("until_held", 1)
        server.send(number)
        wait_until_refused(client)
        with pytest.raises(HandshakeError):
            jumpstarter.connect(server.address).__enter__()
        assert not held.done()
        server.send(signal.SIGUSR1)
        assert held.result(PATIENCE) == "finished"
        assert server.wait() == 0
        assert "closed" in server.rest_of_log()


@pytest.mark.parametrize("value", ["small", b"large" * 1_000_000], ids=["small", "large"])
def test_the_exporter_ends_as_soon_as_the_last_answers_have_left(
    tmp_path: Path, value: object
) -> None:
    with (
        exporter(tmp_path, "--grace", LONG) as server,
        jumpstarter.connect(server.address) as client,
        ThreadPoolExecutor() as pool,
    ):
        held = [pool.submit(client.call, "hold", value) for _ in range(4)]
        client.call("until_held", 4)
        server.send(signal.SIGTERM)
        wait_until_refused(client)
        server.send(signal.SIGUSR1)
        assert all(future.result(PATIENCE) == value for future in held)
        assert server.wait() == 0


def test_calls_that_outlast_the_grace_are_cancelled(tmp_path: Path) -> None:
    with (
        exporter(tmp_path, "--grace", "0") as server,
        jumpstarter.connect(server.address) as client,
        ThreadPoolExecutor() as pool,
    ):
        held = pool.submit(client.call, "hold")
        client.call("until_held", 1)
        server.send(signal.SIGTERM)
        with pytest.raises(CallCancelled):
            held.result(PATIENCE)
        assert server.wait() == 0
        log = server.rest_of_log()
        assert log.index("a held call was cancelled") < log.index("closed")


@pytest.mark.parametrize(
    ("second", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"]
)
def test_a_second_signal_cancels_the_calls_and_still_closes_the_drivers(
    tmp_path: Path, second: signal.Signals, code: int
) -> None:
    with (
        exporter(tmp_path, "--grace", LONG) as server,
        jumpstarter.connect(server.address) as client,
        ThreadPoolExecutor() as pool,
    ):
        held = [pool.submit(client.call, "hold") for _ in range(4)]
        client.call("until_held", 4)
        server.send(signal.SIGTERM)
        wait_until_refused(client)
        server.send(second)
        assert [type(future.exception(PATIENCE)) for future in held] == [CallCancelled] * 4
        assert server.wait() == code
        log = server.rest_of_log()
        assert log.index("a held call was cancelled") < log.index("closed")


def test_signals_do_not_interrupt_the_close_of_a_driver(tmp_path: Path) -> None:
    with exporter(tmp_path, driver="exporter_process:SlowToClose") as server:
        server.send(signal.SIGTERM)
        server.until_logged("closing")
        server.send(signal.SIGTERM)
        server.send(signal.SIGINT)
        server.send(signal.SIGUSR1)
        assert "closed" in server.rest_of_log()
        assert server.wait() in (130, 143)  # the order of the two signals is undefined


def test_ctrl_c_while_the_driver_is_made_is_quiet(lamps: Path) -> None:
    (lamps / "slow.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGINT)")
    result = run_serve("slow:Driver", cwd=lamps)
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "")


# --- errors are one line ---


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["lamps"], "'lamps' does not name a driver: write package.module:Driver"),
        (["lab.yaml"], "'lab.yaml' names a file that is not Python: write --config lab.yaml"),
        (["lamps:Lamp:x"], "'lamps:Lamp:x' does not name a driver"),
        (["nowhere.at.all:Lamp"], "No module named 'nowhere'"),
        (["lamps:Bulb"], "module 'lamps' has no attribute 'Bulb'"),
        (["lamps:Abstract"], "TypeError: Abstract: it has no client()"),
        (["lamps:Broken"], "RuntimeError: the lamp is not plugged in"),
        (["lamps:text"], "'str' object is not callable"),
        (["lamps:make_text"], "gives a str, not a jumpstarter.driver.Driver"),
        (["lamps.py:Lamp"], "'lamps.py:Lamp' names a file: write lamps:Lamp"),
        (["./lab/lamps.py:Lamp"], "names a file: write lab.lamps:Lamp"),
        (["lamps.py"], "'lamps.py' names a file: write lamps:NAME"),
        (["/lab/lamps.py:Lamp"], "names a file: write lamps:Lamp, in the directory /lab"),
        (["lamps:Lamp", "--address", "127.0.0.1:80"], "must begin with unix:, tcp:// or tls://"),
        (["lamps:Lamp", "--address", "unix:/no/such/directory/socket"], "No such file"),
        (["lamps:Lamp", "--address", "tcp://0.0.0.0:0"], "insecure"),
        (["lamps:Lamp", "--allow-user", "0"], "--allow-user needs a unix: address, and Linux"),
        (["lamps:LampClient"], "'lamps:LampClient' is a client class: name its driver's class"),
        (["lamps:Lamp", "--limit", "max_dept=1"], "--limit max_dept=1: write NAME=VALUE, of max_f"),
        (["lamps:Lamp", "--limit", "max_calls"], "'' is not a whole number"),
        (["lamps:Lamp", "--limit", "max_calls=1.5"], "'1.5' is not a whole number"),
        (
            ["lamps:Lamp", "--limit", "max_message=4MB"],
            "'4MB' is not a whole number of bytes, like",
        ),
        (["lamps:Lamp", "--limit", "linger=long"], "--limit linger=long: 'long' is not a number"),
        (["lamps:Lamp", "--limit", "linger=nan"], "Limits(linger=nan): must be from 0"),
        (
            ["lamps:Lamp", "--limit", "max_message=9", "--limit", "max_frame=1024"],
            "--limit max_message=9 max_frame=1024: Limits(max_message=9): must be from 1024 (max_f",
        ),
        (["lamps:Lamp", "--token-file", "missing"], "cannot read --token-file missing"),
        (["lamps:Lamp", "--token-file", "empty"], "empty, which would admit every client"),
        (["lamps:Lamp", "--token-file", "binary"], "cannot read --token-file binary"),
    ],
)
def test_setup_error_is_one_line_on_stderr_and_exit_code_2(
    lamps: Path, arguments: list[str], said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (lamps / "empty").write_text("\n")
    (lamps / "binary").write_bytes(b"\xff")
    if "--address" not in arguments:
        arguments = [*arguments, "--address", "tcp://127.0.0.1:0"]
    assert main(["serve", *arguments]) == 2
    stdout, stderr = capfd.readouterr()
    assert stdout == ""
    assert stderr.startswith("jumpstarter serve: ")
    assert said in stderr
    assert stderr.count("\n") == 1


@pytest.fixture
def pems(lamps: Path) -> Path:
    """Return the directory of `lamps` with matching and mismatched keys and certificates."""
    authority = trustme.CA()
    for name in ("one", "other"):
        issued = authority.issue_cert("localhost")
        issued.cert_chain_pems[0].write_to_path(lamps / f"{name}.pem")
        issued.private_key_pem.write_to_path(lamps / f"{name}-key.pem")
    key = serialization.load_pem_private_key((lamps / "one-key.pem").read_bytes(), None)
    locked = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"a passphrase"),
    )
    (lamps / "locked-key.pem").write_bytes(locked)
    (lamps / "locked.pem").write_bytes((lamps / "one.pem").read_bytes() + locked)
    marks = "-----{} CERTIFICATE-----\n"
    (lamps / "broken.pem").write_text(marks.format("BEGIN") + "AAAA\n" + marks.format("END"))
    return lamps


@pytest.mark.parametrize(
    ("address", "options", "said"),
    [
        ("tls://localhost:0", "", "tls://localhost:0: give --tls-cert"),
        ("tls://localhost:0", "--tls-key one-key.pem", "tls://localhost:0: give --tls-cert"),
        ("tls://localhost:0", "--tls-cert no.pem", "use --tls-cert no.pem: No such file"),
        ("tls://localhost:0", "--tls-cert lamps.py", "use --tls-cert lamps.py: it holds no certif"),
        ("tls://localhost:0", "--tls-cert one.pem", "one.pem holds no private key: give --tls-key"),
        ("tls://localhost:0", "--tls-cert broken.pem --tls-key one-key.pem", "--tls-cert broken.p"),
        (
            "tls://localhost:0",
            "--tls-cert one.pem --tls-key no.pem",
            "cannot use --tls-key no.pem: No such file",
        ),
        (
            "tls://localhost:0",
            "--tls-cert one.pem --tls-key one.pem",
            "cannot use --tls-key one.pem: it holds no private key",
        ),
        (
            "tls://localhost:0",
            "--tls-cert one.pem --tls-key other-key.pem",
            "cannot use --tls-key other-key.pem: the key does not fit the certificate in one.pem",
        ),
        (
            "tls://localhost:0",
            "--tls-cert one.pem --tls-key locked-key.pem",
            "cannot use --tls-key locked-key.pem: the key has a passphrase, which is not supported",
        ),
        ("tls://localhost:0", "--tls-cert locked.pem", "use --tls-cert locked.pem: the key has a"),
        (
            "tls://localhost:0",
            "--tls-cert one.pem --tls-key one-key.pem --tls-client-ca no.pem",
            "cannot use --tls-client-ca no.pem: No such file",
        ),
        (
            "tls://localhost:0",
            "--tls-cert one.pem --tls-key one-key.pem --tls-client-ca broken.pem",
            "cannot use --tls-client-ca broken.pem: ",
        ),
        ("tls://localhost:0", "--tls-cert one.pem --insecure", "--insecure is for tcp://"),
        ("unix:/nowhere", "--insecure", "--insecure is for tcp://"),
        ("unix:/nowhere", "--tls-cert one.pem", "unix:/nowhere has no TLS: --tls-cert is for tls"),
        ("unix:/nowhere", "--tls-key one.pem", "--tls-key is for tls://"),
        ("tcp://localhost:0", "--tls-cert one.pem", "tcp://localhost:0 has no TLS: --tls-cert is"),
        ("tcp://localhost:0", "--tls-client-ca one.pem", "--tls-client-ca is for tls://"),
    ],
)
def test_tls_error_is_one_line_that_names_the_option(
    pems: Path, address: str, options: str, said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert pems == Path.cwd()
    assert main(["serve", "lamps:Lamp", "--address", address, *options.split()]) == 2
    _, stderr = capfd.readouterr()
    assert said in stderr
    assert stderr.count("\n") == 1


def test_no_passphrase_is_asked_for_at_the_terminal(pems: Path) -> None:
    """The process has a terminal on which OpenSSL would otherwise ask."""
    at_it = "import os, sys; os.login_tty(0); os.execv(sys.argv[1], sys.argv[1:])"
    command = [sys.executable, "-c", at_it]
    command += [sys.executable, "-m", "jumpstarter", "serve", "lamps:Lamp"]
    command += ["--address", "tls://localhost:0", "--tls-cert", "locked.pem"]
    terminal, line = os.openpty()
    try:
        with running(command, cwd=pems, stdin=line, stdout=line, stderr=line) as process:
            assert process.wait(PATIENCE) == 2
        said = os.read(terminal, 4096).decode()
    finally:
        os.close(line)
        os.close(terminal)
    assert said.startswith("jumpstarter serve: cannot use --tls-cert locked.pem: the key has")
    assert said.count("\n") == 1


# --- access that is broader than intended is a warning ---


def warnings_of(directory: Path, *options: str) -> list[str]:
    """Run and stop an exporter, and return the warnings that it logged."""
    with exporter(directory, *options) as server:
        server.send(signal.SIGTERM)
        log = server.rest_of_log().splitlines()
        assert server.wait() == 0
    return [line.partition(" WARNING ")[2] for line in log if " WARNING " in line]


def test_port_that_all_local_users_reach_is_a_warning(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.touch(0o600)
    token.write_text("x" * 16)
    (warning,) = warnings_of(tmp_path, "--address", "tcp://127.0.0.1:0")
    assert "any user of this machine may use the drivers: give --token-file" in warning
    asking = ("--token-file", str(token))
    assert warnings_of(tmp_path, "--address", "tcp://127.0.0.1:0", *asking) == []
    assert warnings_of(tmp_path) == []


@pytest.mark.parametrize(
    ("token", "mode", "expected"),
    [
        ("x" * 15, 0o600, ["has 15 characters, and can be guessed"]),
        ("x" * 16, 0o640, ["can be read by other users (mode 0640): chmod 600 it"]),
        ("x", 0o604, ["(mode 0604)", "has 1 characters"]),
        ("x" * 16, 0o400, []),
    ],
)
def test_weak_or_readable_token_is_a_warning(
    tmp_path: Path, token: str, mode: int, expected: list[str]
) -> None:
    file = tmp_path / "token"
    file.write_text(f"{token}\n")
    file.chmod(mode)
    warnings = warnings_of(tmp_path, "--token-file", str(file))
    assert len(warnings) == len(expected)
    assert all(text in line for text, line in zip(expected, warnings, strict=True))
    assert all(str(file) in line and f" {token} " not in line for line in warnings)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells the peer's uid")
def test_socket_that_allowed_users_cannot_reach_is_a_warning() -> None:
    place = Path(tempfile.mkdtemp(prefix="cli-"))
    try:
        (place / "inner").mkdir(0o755)
        allowing = ("--allow-user", "12345")
        (warning,) = warnings_of(place / "inner", *allowing)
        assert f"may have no effect: {place.resolve()} (mode 0700) is closed to other" in warning
        place.chmod(0o711)
        assert warnings_of(place / "inner", *allowing) == []
    finally:
        shutil.rmtree(place)


FAULTY = """
import json
import sys
from dataclasses import dataclass
from jumpstarter.driver import Driver

class Lamp(Driver):
    @classmethod
    def client(cls):
        return "jumpstarter.client.DriverClient"

class Configured(Lamp):
    def __post_init__(self):
        super().__post_init__()
        json.loads("{")  # in Configured

def make():
    return helper()

def helper():
    raise ValueError("no board is plugged in")  # in helper

def leave():
    sys.exit("no board")  # in leave

def bad_level():
    return Lamp(log_level="LOUD")  # in bad_level

def wants(board):  # the function itself
    return Lamp()

class Abstract(Driver):  # the class itself
    pass

@dataclass(kw_only=True)
class Needy(Lamp):  # the needy class
    port: str
    speed: int
"""


@pytest.mark.parametrize(
    ("name", "said", "line"),
    [
        ("make", "ValueError: no board is plugged in", "# in helper"),
        ("Configured", "JSONDecodeError: ", "# in Configured"),
        ("leave", "SystemExit: no board", "# in leave"),
        ("bad_level", "ConfigurationError: ", "# in bad_level"),
        ("Abstract", "TypeError: Abstract: it has no client()", "# the class itself"),
        ("wants", "TypeError: wants() missing 1 required", "# the function itself"),
    ],
)
def test_error_of_a_factory_has_its_file_and_line(
    lamps: Path, name: str, said: str, line: str
) -> None:
    file = lamps / "faulty.py"
    file.write_text(FAULTY)
    result = run_serve(f"faulty:{name}", cwd=lamps)
    number = next(n for n, text in enumerate(FAULTY.splitlines(), 1) if text.endswith(line))
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert said in result.stderr
    assert f"{file}, line {number}" in result.stderr


def test_serve_hints_at_an_instance_for_a_class_that_needs_arguments(lamps: Path) -> None:
    (lamps / "faulty.py").write_text(FAULTY)
    result = run_serve("faulty:Needy", cwd=lamps)
    assert "missing 2 required keyword-only arguments: 'port' and 'speed'" in result.stderr
    assert "write `tree = Needy(port=..., speed=...)` in the module, then faulty:tree" in (
        result.stderr
    )
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert "without arguments" not in run_serve("faulty:make", cwd=lamps).stderr


def test_serve_shows_no_frames_of_the_import_system(lamps: Path) -> None:
    result = run_serve("nowhere.at.all:Lamp", cwd=lamps)
    assert result.stderr.endswith("No module named 'nowhere'\n")


@pytest.mark.parametrize(
    ("text", "line"), [("x = 1\ny = (\n", 2), ("x = 1\n\nimport no_such_module\n", 3)]
)
def test_import_error_has_its_file_and_line(lamps: Path, text: str, line: int) -> None:
    file = lamps / "faulty.py"
    file.write_text(text)
    result = run_serve("faulty:make", cwd=lamps)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert f"{file}, line {line}" in result.stderr


def test_a_driver_author_gets_the_traceback_at_log_level_debug(lamps: Path) -> None:
    result = run_serve("lamps:Broken", "--log-level", "debug", cwd=lamps)
    assert 'raise RuntimeError("the lamp\\nis not plugged in")' in result.stderr
    assert result.returncode == 2


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--allow-user", "no such user"),
        ("--allow-user", "-1"),
        ("--threads", "0"),
        ("--threads", "many"),
        ("--grace", "-1"),
        ("--grace", "nan"),
        ("--grace", "soon"),
        ("--log-level", "loud"),
    ],
)
def test_an_option_out_of_range_is_refused(
    option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as info:
        main(["serve", "lamps:Lamp", "--address", "unix:/nowhere", option, value])
    assert info.value.code == 2
    assert f"argument {option}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("unix:power.sock", "write 'unix:{here}/power.sock'"),
        ("unix:~/power.sock", "write 'unix:{home}/power.sock'"),
        ("unix://power.sock", "write 'unix:/power.sock', or 'unix:{here}/power.sock'"),
    ],
)
def test_a_relative_unix_path_is_refused_with_the_absolute_one(
    lamps: Path, address: str, said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "lamps:Lamp", "--address", address]) == 2
    stderr = capfd.readouterr().err
    assert said.format(here=lamps, home=Path.home()) in stderr
    assert stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--adress", "x"], "No such option '--adress'. Did you mean '--address'?"),
        (["--adress=x"], "No such option '--adress'. Did you mean '--address'?"),
        (["--xyz"], "No such option '--xyz'. (see jumpstarter serve --help)"),
        (["--address", "unix:/x", "--addr", "unix:/x", "extra"], "unrecognized arguments: extra "),
        (["--address"], "argument --address: expected one argument "),
        ([], "the following arguments are required: --address "),
        (["--address", "unix:/x", "--", "--xyz"], "unrecognized arguments: "),
    ],
)
def test_wrong_arguments_are_one_line(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as info:
        main(["serve", "lamps:Lamp", *arguments])
    assert info.value.code == 2
    stderr = capsys.readouterr().err
    assert stderr.startswith(f"jumpstarter serve: error: {told}")
    assert stderr.count("\n") == 1


# --- too few descriptors or threads ---

NO_THREADS = """
import resource
from lamps import Lamp

def make():
    # From here on a thread's stack, of the size that this process was started with, does not fit.
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 200_000_000, resource.RLIM_INFINITY))
    return Lamp()
"""


@pytest.mark.parametrize("count", [5, 6, 8, 10, 12, 13, 14, 15])
def test_too_few_descriptors_to_start_are_one_line_and_exit_code_2(lamps: Path, count: int) -> None:
    script = f"ulimit -n {count}; exec {sys.executable} -m jumpstarter serve lamps:Lamp"
    command = ["sh", "-c", f"{script} --address unix:{lamps}/socket"]
    result = subprocess.run(
        command, cwd=lamps, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert (result.returncode, result.stdout) == (2, "")
    assert "Too many open files" in result.stderr
    assert result.stderr.startswith("jumpstarter serve: cannot ")
    assert result.stderr.count("\n") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space as Linux does")
@pytest.mark.parametrize("limit", ["ulimit -v 700000", "true"], ids=["first", "later"])
def test_too_few_threads_to_start_are_one_line_and_exit_code_2(lamps: Path, limit: str) -> None:
    (lamps / "threads.py").write_text(NO_THREADS)
    script = f"ulimit -s 1000000; {limit}; exec {sys.executable} -m jumpstarter serve threads:make"
    command = ["sh", "-c", f"{script} --address unix:{lamps}/socket"]
    result = subprocess.run(
        command, cwd=lamps, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert (result.returncode, result.stdout) == (2, "")
    (line,) = [line for line in result.stderr.splitlines() if " jumpstarter.watchdog: " not in line]
    assert "cannot start: the system starts no more threads" in line


# --- a signal while the drivers start ---

SLOW_START = """
from pathlib import Path
import time
from lamps import Lamp

class Slow(Lamp):
    def reset(self):
        self.logger.warning("resetting")
        while not Path("go").exists():
            time.sleep(0.01)
        self.logger.warning("reset has ended")

    def close(self):
        self.logger.warning("closing")

class Second(Lamp):
    resets = 0

    def reset(self):
        self.logger.warning("resetting the second")

def make():
    return Slow(children={"second": Second()})
"""


FAILING_START = """
from lamps import Lamp

class Failing(Lamp):
    def reset(self):
        {how}

def make():
    return Lamp(children={{"relay": Failing()}})
"""


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("raise OSError(5, 'no answer')", "OSError: [Errno 5] no answer"),
        ("raise SystemExit('no answer')", "SystemExit: no answer"),
        (
            "import jumpstarter.errors as e; raise e.ConfigurationError('no answer')",
            "ConfigurationError: no answer",
        ),
    ],
)
def test_a_reset_that_fails_ends_the_command_and_names_the_driver(
    lamps: Path, how: str, told: str
) -> None:
    (lamps / "failing.py").write_text(FAILING_START.format(how=how))
    command = [sys.executable, "-m", "jumpstarter", "serve", "failing:make"]
    command += ["--address", f"unix:{lamps}/socket"]
    result = subprocess.run(
        command, cwd=lamps, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert (result.returncode, result.stdout) == (2, "")
    assert "in reset" in result.stderr, "the traceback shows where"
    [*_, line] = result.stderr.splitlines()
    which = "reset() of driver 'relay' (failing.Failing) failed, so nothing is served"
    assert line == f"jumpstarter serve: {which}: {told}"
    assert not (lamps / "socket").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_during_a_reset_ends_the_start_after_that_driver(
    lamps: Path, number: signal.Signals
) -> None:
    (lamps / "slow.py").write_text(SLOW_START)
    command = [sys.executable, "-m", "jumpstarter", "serve", "slow:make"]
    command += ["--address", f"unix:{lamps}/socket"]
    pipe = subprocess.PIPE
    with running(command, cwd=lamps, stdout=pipe, stderr=pipe) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        log = process.stderr.readline()
        assert "resetting" in log
        process.send_signal(number)
        log += (line := process.stderr.readline())
        assert f"received {number.name}: shutting down when the reset()" in line  # still running
        (lamps / "go").touch()
        stdout, rest = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0
    assert stdout == ""
    log += rest
    assert "resetting the second" not in log
    assert log.index("closing") > log.rindex("reset has ended")


@pytest.mark.parametrize(
    ("driver", "threshold"),
    [("Collected", [*gc.get_threshold()[:2], 50]), ("Chosen", [701, 11, 1000])],
)
def test_what_is_there_at_the_start_is_never_collected_and_old_objects_rarely(
    tmp_path: Path, driver: str, threshold: list[int]
) -> None:
    (tmp_path / "collected.py").write_text(COLLECTED)
    with (
        exporter(tmp_path, driver=f"collected:{driver}", cwd=tmp_path) as process,
        jumpstarter.connect(process.address) as client,
    ):
        enabled, is_visited, found = client.call("collector")
    assert enabled
    assert not is_visited
    assert found == threshold
