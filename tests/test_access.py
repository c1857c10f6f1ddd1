"""Test access by users, tokens and certificates, and the errors of rejected clients."""

from __future__ import annotations

import datetime as dt
import hmac
import logging
import os
import shutil
import socket
import ssl
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from drivers_for_tests import Echo
from helpers import timed
from jumpstarter import connect_async, serve_async
from jumpstarter._exporter.context import ServerContext
from jumpstarter._exporter.executor import DriverExecutor
from jumpstarter._exporter.session import Session
from jumpstarter._exporter.tree import DeviceTree
from jumpstarter._limits import DEFAULT_LIMITS, Limits
from jumpstarter._protocol.codec import decode_goaway, encode_hello
from jumpstarter._protocol.frames import FrameType, Hello
from jumpstarter.errors import Code, ConfigurationError, HandshakeError
from processes import PATIENCE
from wire import frame, frames

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="Linux tells the peer's uid so")
ANY_TCP = "tcp://127.0.0.1:0"
ANY_TLS = "tls://localhost:0"
OTHER = 54321  # an unused uid

# Imports everything, becomes another user, and prints the outcome of a call.
CALL_AS = """
import sys, os, trio
from jumpstarter import connect_async
import jumpstarter.client
async def main():
    async with connect_async(sys.argv[1]) as client:
        print("answered", await client.call_async("echo", 1))
os.setgroups([])
os.setgid(int(sys.argv[2]))
os.setuid(int(sys.argv[2]))
try:
    trio.run(main)
except ConnectionError as exc:
    print(exc)
"""


@pytest.fixture
def directory() -> Iterator[Path]:
    """Yield a directory that has a short name and that every user can enter."""
    path = Path(tempfile.mkdtemp(prefix="access-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


async def call_as(address: str, uid: int) -> str:
    command = [sys.executable, "-c", CALL_AS, address, str(uid)]
    with trio.fail_after(PATIENCE):
        return (await trio.run_process(command, capture_stdout=True)).stdout.decode()


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# ---------------------------------------------------------------------------------- users


@timed(60)
async def test_a_socket_is_its_owners_alone_by_default(directory: Path) -> None:
    path = directory / "socket"
    async with serve_async(Echo(), f"unix:{path}") as server:
        assert mode_of(path) == 0o600
        async with connect_async(server.address) as client:
            assert await client.call_async("echo", 1) == 1


@AS_ROOT
@ON_LINUX
@timed(60)
async def test_who_is_named_may_connect_and_nobody_else(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = directory / "socket"
    async with serve_async(Echo(), f"unix:{path}", users=[OTHER]) as server:
        assert mode_of(path) == 0o666
        assert await call_as(server.address, OTHER) == "answered 1\n"
        assert await call_as(server.address, 0) == "answered 1\n"
        said = await call_as(server.address, OTHER + 1)
    assert f"{server.address} refused the connection: 'not admitted'" in said
    (message,) = caplog.messages
    assert message.startswith(
        f"client of uid {OTHER + 1} was not admitted: its user is not allowed"
    )
    assert message.endswith("--allow-user or users= allows it")


@AS_ROOT
@ON_LINUX
@timed(60)
async def test_the_system_is_asked_even_if_the_file_lets_everybody_in(directory: Path) -> None:
    """Other users can reach the file after a chmod, or by a descriptor or a bind mount."""
    path = directory / "socket"
    async with serve_async(Echo(), f"unix:{path}") as server:
        assert "Permission denied" in await call_as(server.address, OTHER)
        path.chmod(0o666)
        assert "'not admitted'" in await call_as(server.address, OTHER)
        assert await call_as(server.address, 0) == "answered 1\n"


@timed()
async def test_who_is_not_welcome_learns_that_and_nothing_else() -> None:
    exporter = ServerContext(DeviceTree(Echo()), DriverExecutor(), token="secret")  # noqa: S106 - a test's
    heard = []
    for welcome, token in ((False, "secret"), (False, ""), (True, "wrong")):
        ours, theirs = trio.testing.memory_stream_pair()
        hello = encode_hello(Hello.of(DEFAULT_LIMITS, token=token))
        await ours.send_all(frame(FrameType.HELLO, 0, hello))
        async with trio.open_nursery() as nursery:
            session = Session(exporter, theirs, "the client", welcome=welcome)
            nursery.start_soon(session.run)
            heard.append(b"".join([bytes(data) async for data in ours]))
    assert heard[0] == heard[1] == heard[2]
    (only,) = frames(heard[0])
    goaway = decode_goaway(only.payload)
    assert goaway is not None
    assert (goaway.code, goaway.text) == (Code.UNAUTHENTICATED, "not admitted")


@timed()
async def test_tokens_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return really(one, other)

    really = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", compare)
    async with serve_async(Echo(), ANY_TCP, token="sécret") as server:  # noqa: S106 - a test's
        async with connect_async(server.address, token="sécret"):  # noqa: S106
            pass
        with pytest.raises(HandshakeError, match="not admitted"):
            async with connect_async(server.address, token="s"):  # noqa: S106
                pass
    right = "sécret".encode()
    assert compared == [(right, right), (b"s", right)]


@pytest.mark.parametrize("address", [ANY_TCP, ANY_TLS])
@timed()
async def test_users_are_of_unix_sockets_only(address: str) -> None:
    with pytest.raises(ConfigurationError, match="users= needs a unix: address, and Linux"):
        async with serve_async(Echo(), address, users=[0]):
            pass


@timed()
async def test_users_are_of_a_system_that_tells_them(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(ConfigurationError, match="needs a unix: address, and Linux"):
        async with serve_async(Echo(), f"unix:{directory}/socket", users=[0]):
            pass


# ------------------------------------------------------------------------------- networks


@pytest.mark.parametrize(
    ("address", "token", "warned"),
    [
        ("tcp://0.0.0.0:0", "", True),
        ("tcp://0.0.0.0:0", "secret", False),
        ("tcp://127.0.0.1:0", "", False),
    ],
)
@timed()
async def test_letting_in_everybody_on_the_network_is_warned_of(
    address: str, token: str, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve_async(Echo(), address, token=token, insecure=True) as server:
        pass
    text = f"anyone who reaches {server.address} may use the drivers: ask for a token"
    assert any(text in message for message in caplog.messages) is warned


class Lab:
    """Certificates issued by one authority."""

    def __init__(self) -> None:
        self.authority = trustme.CA()

    def server(self, **options: object) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.authority.issue_cert("localhost", **options).configure_cert(context)  # type: ignore[arg-type]  # its dates
        return context

    def asking_server(self) -> ssl.SSLContext:
        context = self.server()
        context.verify_mode = ssl.CERT_REQUIRED
        self.authority.configure_trust(context)
        return context

    def client(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        return context

    def known_client(self, **options: object) -> ssl.SSLContext:
        context = self.client()
        self.authority.issue_cert("alice@lab.example", **options).configure_cert(context)  # type: ignore[arg-type]  # its dates
        return context


@pytest.fixture(scope="module")
def lab() -> Lab:
    return Lab()


async def why_not(address: str, context: ssl.SSLContext | None) -> str:
    """Fail to connect, and return the text of the error."""
    with pytest.raises(HandshakeError) as caught:
        async with connect_async(address, ssl_context=context):
            pass
    return str(caught.value)


@pytest.mark.parametrize("asks", [False, True])
@timed()
async def test_tls_for_the_whole_network_is_warned_of_unless_it_asks_who_is_there(
    lab: Lab, asks: bool, caplog: pytest.LogCaptureFixture
) -> None:
    context = lab.asking_server() if asks else lab.server()
    async with serve_async(Echo(), "tls://0.0.0.0:0", ssl_context=context):
        pass
    assert ("may use the drivers" in caplog.text) is not asks


EXPIRED = {
    "not_before": dt.datetime(2001, 1, 1, tzinfo=dt.UTC),
    "not_after": dt.datetime(2002, 1, 1, tzinfo=dt.UTC),
}


@timed()
async def test_clients_with_a_certificate_get_in_and_others_are_told_what_they_lack(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "jumpstarter")
    stranger = lab.client()
    trustme.CA().issue_cert("mallory@lab.example").configure_cert(stranger)
    without = {
        "none": lab.client(),
        "another authority's": stranger,
        "expired": lab.known_client(**EXPIRED),
    }
    async with (
        serve_async(Echo(), ANY_TLS, ssl_context=lab.asking_server()) as server,
        connect_async(server.address, ssl_context=lab.known_client()) as client,
    ):
        assert await client.call_async("echo", 1) == 1
        for context in without.values():
            text = await why_not(server.address, context)
            assert "load one that it trusts into the ssl_context, with load_cert_chain()" in text
        assert await client.call_async("echo", 2) == 2
    lines = [line for line in caplog.messages if "no session came about" in line]
    for why in ("peer did not return a certificate", "unable to get local", "expired"):
        assert any(why in line for line in lines), (why, lines)


def revoked(authority: trustme.CA, serial: int) -> str:
    """Return, in PEM, an authority's revocation list with one certificate."""
    name = x509.load_pem_x509_certificate(authority.cert_pem.bytes()).subject
    key = serialization.load_pem_private_key(authority.private_key_pem.bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    now = dt.datetime.now(dt.UTC)
    entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
    crl = x509.CertificateRevocationListBuilder().issuer_name(name).add_revoked_certificate(entry)
    crl = crl.last_update(now - dt.timedelta(days=1)).next_update(now + dt.timedelta(days=1))
    return crl.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


@timed()
async def test_a_context_of_ones_own_shuts_out_who_was_revoked(lab: Lab, tmp_path: Path) -> None:
    known, lost = lab.known_client(), lab.client()
    leaf = lab.authority.issue_cert("bob@lab.example")
    leaf.configure_cert(lost)
    serial = x509.load_pem_x509_certificate(leaf.cert_chain_pems[0].bytes()).serial_number
    (tmp_path / "crl.pem").write_text(revoked(lab.authority, serial))
    context = lab.asking_server()
    context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    context.load_verify_locations(tmp_path / "crl.pem")
    async with serve_async(Echo(), ANY_TLS, ssl_context=context) as server:
        await why_not(server.address, lost)
        async with connect_async(server.address, ssl_context=known) as client:
            assert await client.call_async("echo", 1) == 1


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@timed()
async def test_a_client_without_a_certificate_is_refused_in_each_version_of_tls(
    lab: Lab, version: ssl.TLSVersion
) -> None:
    """TLS 1.2 refuses during the handshake, TLS 1.3 after the client has completed its part."""
    context = lab.client()
    context.maximum_version = version
    async with serve_async(Echo(), ANY_TLS, ssl_context=lab.asking_server()) as server:
        text = await why_not(server.address, context)
    ways = ("cannot connect to {}: ", "{} closed", "the connection to {} broke: ")
    assert text.startswith(tuple(way.format(server.address) for way in ways))


@timed()
async def test_an_expired_certificate_of_the_exporter_is_named(lab: Lab) -> None:
    async with serve_async(Echo(), ANY_TLS, ssl_context=lab.server(**EXPIRED)) as server:
        assert "certificate has expired" in await why_not(server.address, lab.client())


@timed()
async def test_a_certificate_for_another_name_is_named(lab: Lab) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    lab.authority.issue_cert("elsewhere.example").configure_cert(context)
    async with serve_async(Echo(), ANY_TLS, ssl_context=context) as server:
        text = await why_not(server.address, lab.client())
    assert "not valid for 'localhost'" in text
    assert "Connect by a name that the certificate has" in text


@timed()
async def test_tls_to_a_port_without_it_is_named_on_both_sides(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve_async(Echo(), "tcp://localhost:0") as server:
        address = server.address.replace("tcp", "tls")
        assert "Does it listen with tls://?" in await why_not(address, lab.client())
    assert "does not speak jumpstarter's protocol" in caplog.text


@timed()
async def test_cleartext_to_a_tls_port_is_named_on_both_sides(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "jumpstarter")
    limits = Limits(hello_timeout=PATIENCE)
    async with serve_async(Echo(), ANY_TLS, ssl_context=lab.server(), limits=limits) as server:
        text = await why_not(server.address.replace("tls", "tcp"), None)
    assert "closed the connection" in text
    assert "no session came about: " in caplog.text
    assert "wrong version number" in caplog.text.lower().replace("_", " ")


@timed()
async def test_half_a_handshake_ends_with_the_time_for_hello(lab: Lab) -> None:
    limits = Limits(hello_timeout=0.05)
    async with serve_async(Echo(), ANY_TLS, ssl_context=lab.server(), limits=limits) as server:
        host, _, port = server.address.removeprefix("tls://").rpartition(":")
        # One step, so that the bytes arrive before the exporter can accept the connection.
        with socket.create_connection((host, int(port)), PATIENCE) as connection:
            connection.sendall(b"\x16\x03\x01\x02\x00")
            assert await trio.to_thread.run_sync(connection.recv, 1) == b""
