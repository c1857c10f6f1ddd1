"""Tests of the example `virtual_board`. Those that boot it need QEMU, busybox and a kernel."""

from __future__ import annotations

import gzip
import importlib
import lzma
import os
import re
import shutil
import stat
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import trustme

from exporter_process import ExporterProcess
from jumpstarter import serve
from jumpstarter.config.exporter import ExporterConfigV1Alpha1
from jumpstarter.driver import Driver
from jumpstarter.errors import DriverFileNotFoundError, DriverOSError
from pages import PAGES, ROOT
from ports import free_port
from processes import running

BOARD: Final = ROOT / "examples" / "virtual_board"
PATIENCE: Final = 400.0  # seconds for a boot and the tests, which take 15 on a machine at rest

sys.path.insert(0, str(ROOT / "examples"))
build: Any = importlib.import_module("virtual_board.build")
tree: Any = importlib.import_module("virtual_board.tree")


# ------------------------------------------------------------------------------------ the archive


def entries_of(archive: bytes) -> Iterator[tuple[str, int, bytes]]:
    """Read a cpio archive as the kernel does: the name, mode and content of each file."""
    position = 0
    while True:
        assert archive[position : position + 6] == b"070701"
        fields = [
            int(archive[start : start + 8], 16) for start in range(position + 6, position + 110, 8)
        ]
        mode, uid, gid, size, name_size = (fields[index] for index in (1, 2, 3, 6, 11))
        assert (uid, gid) == (0, 0)
        name = archive[position + 110 : position + 110 + name_size - 1].decode()
        begin = position + (110 + name_size + 3) // 4 * 4
        if name == "TRAILER!!!":
            assert begin == len(archive)
            return
        yield name, mode, archive[begin : begin + size]
        position = begin + (size + 3) // 4 * 4


def test_initramfs_has_the_files_with_their_modes() -> None:
    archive = build.archive(build.rootfs(b"the program", {"virtio": b"one", "virtio_blk": b"two"}))
    files = {name: (mode, data) for name, mode, data in entries_of(archive)}
    assert files["bin/busybox"] == (stat.S_IFREG | 0o755, b"the program")
    assert files["lib/modules/virtio_blk.ko"] == (stat.S_IFREG | 0o644, b"two")
    assert files["lib/modules/order"][1] == b"virtio\nvirtio_blk\n"
    assert files["init"] == (stat.S_IFREG | 0o755, (BOARD / "rootfs/init").read_bytes())
    assert files["etc/inittab"][0] == stat.S_IFREG | 0o644
    assert files["dev"] == (stat.S_IFDIR | 0o755, b"")
    names = list(files)
    for name in names:  # the kernel does not make directories by itself
        parent = str(Path(name).parent)
        assert parent == "." or names.index(parent) < names.index(name)


@pytest.mark.skipif(shutil.which("cpio") is None, reason="the package cpio is not installed")
def test_cpio_reads_the_initramfs(tmp_path: Path) -> None:
    archive = build.archive(build.rootfs(b"x" * 1001, {}))
    command = ["cpio", "--extract", "--make-directories", "--quiet"]
    subprocess.run(command, input=archive, cwd=tmp_path, check=True, timeout=60)
    assert (tmp_path / "bin/busybox").read_bytes() == b"x" * 1001
    assert os.access(tmp_path / "init", os.X_OK)


@pytest.mark.parametrize("script", ["init", "etc/acpi/PWRF/00000080"])
def test_scripts_of_the_board_are_valid(script: str) -> None:
    path = BOARD / "rootfs" / script
    assert path.read_text().startswith("#!/bin/")
    assert os.access(path, os.X_OK)
    subprocess.run(["/bin/sh", "-n", path], check=True, timeout=60)


# ---------------------------------------------------------------------- kernel modules and packages


def module(*needed: str) -> bytes:
    return b"\x7fELF...\0license=GPL\0depends=" + ",".join(needed).encode() + b"\0name=it\0"


@pytest.fixture
def modules(tmp_path: Path) -> Path:
    """Yield a kernel's directory of modules, in all forms in which Debian has them."""
    (tmp_path / "drivers").mkdir()
    (tmp_path / "drivers/disk.ko").write_bytes(module("bus", "ring-buffer"))
    (tmp_path / "drivers/bus.ko.xz").write_bytes(lzma.compress(module("ring_buffer")))
    (tmp_path / "ring-buffer.ko.gz").write_bytes(gzip.compress(module()))
    (tmp_path / "broken.ko").write_bytes(module("lost"))
    (tmp_path / "other.ko.zst").write_bytes(b"")
    (tmp_path / "modules.builtin").write_text("kernel/drivers/block/loop.ko\n")
    return tmp_path


def test_modules_come_after_those_that_they_need(modules: Path) -> None:
    found = build.closure(["loop", "disk", "bus"], modules)
    assert list(found) == ["ring_buffer", "bus", "disk"]
    assert found["bus"] == module("ring_buffer")


@pytest.mark.parametrize(
    ("name", "text"),
    [("nothing", "has no module nothing"), ("broken", "no module lost"), ("other", "compressed")],
)
def test_module_that_cannot_be_had_is_named(name: str, text: str, modules: Path) -> None:
    with pytest.raises(build.BuildError, match=text):
        build.closure([name], modules)


def test_newest_kernel_with_modules_is_found(tmp_path: Path) -> None:
    boot, root = tmp_path / "boot", tmp_path
    boot.mkdir()
    with pytest.raises(build.BuildError, match="linux-image-cloud-amd64"):
        build.find_kernel(tmp_path, boot=boot, root=root, download=False)
    for release in ("6.1.0-9-cloud-amd64", "6.1.0-57-cloud-amd64", "6.12.1-cloud-amd64"):
        (boot / f"vmlinuz-{release}").touch()
    for release in ("6.1.0-9-cloud-amd64", "6.1.0-57-cloud-amd64"):
        (root / "lib/modules" / release).mkdir(parents=True)
    found = build.find_kernel(tmp_path, boot=boot, root=root, download=False)
    assert found.image.name == "vmlinuz-6.1.0-57-cloud-amd64"
    assert found.modules == root / "lib/modules/6.1.0-57-cloud-amd64"


def elf(kind: int) -> bytes:
    """Make the start of a 64-bit ELF file with one program header."""
    header = b"\x7fELF" + bytes(28) + struct.pack("<Q", 64) + bytes(14) + struct.pack("<HH", 56, 1)
    return header.ljust(64, b"\0") + struct.pack("<I", kind) + bytes(52)


def test_only_a_static_busybox_is_taken(tmp_path: Path) -> None:
    program = tmp_path / "busybox"
    with pytest.raises(build.BuildError, match="apt-get install busybox-static"):
        build.read_busybox(program)
    for data in (b"#!/bin/sh", elf(3)):
        program.write_bytes(data)
        with pytest.raises(build.BuildError, match="not a static program"):
            build.read_busybox(program)
    program.write_bytes(elf(1))
    assert build.read_busybox(program) == elf(1)


def test_build_writes_the_board_and_keeps_its_disk(tmp_path: Path, modules: Path) -> None:
    for name in build.MODULES:
        (modules / f"{name}.ko").write_bytes(module())
    (tmp_path / "busybox").write_bytes(elf(1))
    (tmp_path / "kernel").write_bytes(b"the kernel")
    kernel = build.Kernel(tmp_path / "kernel", modules)
    output = tmp_path / "board"
    build.build(output, busybox=tmp_path / "busybox", kernel=kernel)
    assert (output / "vmlinuz").read_bytes() == b"the kernel"
    files = {
        name for name, *_ in entries_of(gzip.decompress((output / "initramfs.gz").read_bytes()))
    }
    assert {f"lib/modules/{name}.ko" for name in build.MODULES} <= files
    assert (output / "disk.img").stat().st_size == build.DISK_SIZE
    (output / "disk.img").write_bytes(b"flashed")
    build.build(output, busybox=tmp_path / "busybox", kernel=kernel)
    assert (output / "disk.img").read_bytes() == b"flashed"


def test_missing_packages_are_named(tmp_path: Path) -> None:
    nowhere = str(tmp_path)
    missing = build.missing_packages(path=nowhere, busybox=tmp_path / "busybox")
    assert missing == ["qemu-system-x86", "busybox-static"]


def test_build_says_what_to_install(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(BOARD / "build.py"), "--output", str(tmp_path / "board")],
        env={**os.environ, "PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "    apt-get install --no-install-recommends qemu-system-x86" in done.stderr


# --------------------------------------------------------------------------------------- the tree


def described(driver: Driver) -> Any:
    """Return a driver's class, its fields and its children."""
    fields = {
        name: value
        for name, value in vars(driver).items()
        if name in {"command", "source", "ready_socket", "path", "max_bytes", "host", "port", "ref"}
    }
    children = {name: described(child) for name, child in driver.children.items()}
    return type(driver).__name__, fields, children


def test_yaml_and_python_describe_the_same_board() -> None:
    config = ExporterConfigV1Alpha1.load_path(BOARD / "exporter.yaml")
    assert described(config.instantiate()) == described(tree.tree())


def test_board_that_is_off_says_so(tmp_path: Path) -> None:
    with serve(tree.tree(tmp_path, free_port())) as board, board.timeout(60):
        assert not board.console.status().present
        assert board.power.process.status().state == "stopped"
        assert board.disk.size() == 0
        board.power.off()
        with pytest.raises(DriverOSError, match="QEMU does not run"):
            board.machine.query_status()


def test_board_without_qemu_names_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with (
        serve(tree.tree(tmp_path, free_port())) as board,
        board.timeout(60),
        pytest.raises(DriverFileNotFoundError, match="qemu-system-x86_64"),
    ):
        board.power.on()


# ------------------------------------------------------------------------------------ the real one


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the board, or skip the test if packages are missing."""
    output = tmp_path_factory.mktemp("board")
    if missing := " ".join(build.missing_packages()):
        pytest.skip(f"needs the Debian packages {missing}")
    try:
        build.build(output, kernel=build.find_kernel(build.OUTPUT, download=False))
    except build.BuildError as exc:
        pytest.skip(str(exc))
    return output


EXPORTER: Final = """
import sys
sys.path.insert(0, {examples!r})
from virtual_board.tree import tree as make

tree = make({directory!r}, {port})
"""


@pytest.mark.timeout(2 * PATIENCE)
@pytest.mark.parametrize("transport", ["unix", "tls"])
def test_suite_of_the_board_passes(transport: str, built: Path, tmp_path: Path) -> None:
    source = EXPORTER.format(
        examples=str(ROOT / "examples"), directory=str(built), port=free_port()
    )
    (tmp_path / "board_exporter.py").write_text(source)
    serving, testing = ["--address", f"unix:{tmp_path}/socket"], []
    if transport == "tls":
        authority, token = trustme.CA(), tmp_path / "token"
        certificate = authority.issue_cert("localhost")
        authority.cert_pem.write_to_path(tmp_path / "ca.pem")
        certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
        certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
        token.touch(mode=0o600)
        token.write_text("a secret of some length, for the test")
        serving = ["--address", "tls://localhost:0", "--token-file", str(token)]
        serving += [
            "--tls-cert",
            str(tmp_path / "cert.pem"),
            "--tls-key",
            str(tmp_path / "key.pem"),
        ]
        testing = ["--jumpstarter-tls-ca", str(tmp_path / "ca.pem")]
        testing += ["--jumpstarter-token-file", str(token)]
    command = [sys.executable, "-m", "jumpstarter", "serve", "board_exporter:tree", *serving]
    pipe = subprocess.PIPE
    with running(command, seconds=PATIENCE, cwd=tmp_path, stdout=pipe, stderr=pipe) as process:
        address = ExporterProcess(process).address
        command = [sys.executable, "-m", "pytest", "-q", str(BOARD)]
        done = subprocess.run(
            [*command, "--jumpstarter", address, *testing],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "5 passed" in done.stdout


def commands_of(section: str) -> str:
    """Return the shell commands of a section of the tutorial."""
    page = PAGES["docs/tutorial/virtual-board.md"]
    text = page.partition(f"## {section}\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) > 4
    return "".join(blocks)


@pytest.mark.timeout(2 * PATIENCE)
@pytest.mark.skipif(shutil.which("curl") is None, reason="needs the Debian package curl")
def test_commands_of_the_page_work(built: Path, tmp_path: Path) -> None:
    port = str(free_port())
    config = (BOARD / "exporter.yaml").read_text()
    config = config.replace("build/virtual_board", str(built)).replace("8080", port)
    (tmp_path / "exporter.yaml").write_text(config)
    commands = commands_of("Use it by hand").replace("/tmp/", f"{tmp_path}/")  # noqa: S108
    commands = commands.replace("--retry 60", "--retry 300")  # for a machine under load
    begin = "jumpstarter shell --exporter-config examples/virtual_board/exporter.yaml\n"
    assert begin in commands
    for line in (begin, "jumpstarter console console\n", "exit\n"):  # they need a terminal
        assert line in commands
        commands = commands.replace(line, "")
    programs = str(Path(sys.executable).parent)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "jumpstarter", "shell"),
            *("--exporter-config", str(tmp_path / "exporter.yaml")),
            *("--", "/bin/sh", "-ec", commands.replace("127.0.0.1:8080", f"127.0.0.1:{port}")),
        ],
        env={**os.environ, "PATH": os.pathsep.join([programs, os.environ["PATH"]])},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "running\n" in done.stdout
    assert "<h1>Hello</h1>" in done.stdout
    assert '"state": "stopped"' in done.stdout
