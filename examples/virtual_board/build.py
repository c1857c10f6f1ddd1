"""Build the virtual board: its kernel, its initramfs and an empty disk. Needs no root.

    python examples/virtual_board/build.py

The kernel comes from Debian's package `linux-image-cloud-amd64`: the installed one, or one that
`apt-get download` fetches. The initramfs has the static busybox of the package `busybox-static`,
the kernel modules for the board's devices, and the files in `rootfs/`.
"""

from __future__ import annotations

import argparse
import gzip
import lzma
import os
import re
import shutil
import stat
import struct
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

__all__ = [
    "BuildError",
    "Entry",
    "Kernel",
    "archive",
    "build",
    "closure",
    "find_kernel",
    "missing_packages",
    "read_busybox",
    "rootfs",
]

HERE: Final = Path(__file__).resolve().parent
OUTPUT: Final = HERE.parents[1] / "build" / "virtual_board"
BUSYBOX: Final = Path("/bin/busybox")
# What the board's devices need: a disk, a network, and a power button.
MODULES: Final = ("virtio_pci", "virtio_blk", "virtio_net", "button", "evdev")
DISK_SIZE: Final = 1024 * 1024
_KERNEL_HINT: Final = (
    "install the package linux-image-cloud-amd64, or run build.py where apt-get can download it"
)
_INTERPRETER: Final = 3  # the type of an ELF program header that a dynamic executable has


class BuildError(Exception):
    """Something that the board is made of is missing; the text says how to get it."""


class Entry(NamedTuple):
    """A file of the initramfs.

    Attributes:
        path: Its path, without a leading slash.
        mode: Its type and permissions, as in `stat`.
        data: Its content, or a link's target.
    """

    path: str
    mode: int
    data: bytes = b""


# ------------------------------------------------------------------------------------- initramfs


def archive(entries: Iterable[Entry]) -> bytes:
    """Make a cpio archive in the kernel's format ("newc"), in which all files are root's."""
    parts = []
    for number, (path, mode, data) in enumerate([*entries, Entry("TRAILER!!!", 0)], 1):
        name = path.encode() + b"\0"
        links = 2 if stat.S_ISDIR(mode) else 1
        fields = (number, mode, 0, 0, links, 0, len(data), 0, 0, 0, 0, len(name), 0)
        header = b"070701" + b"".join(b"%08X" % field for field in fields)
        parts += [_padded(header + name), _padded(data)]
    return b"".join(parts)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def rootfs(busybox: bytes, modules: dict[str, bytes], files: Path = HERE / "rootfs") -> list[Entry]:
    """List the files of the initramfs.

    Args:
        busybox: The program.
        modules: The kernel modules by name, in the order in which they are loaded.
        files: A directory whose files are copied, with their modes.
    """
    entries = {"bin/busybox": Entry("bin/busybox", stat.S_IFREG | 0o755, busybox)}
    for name, data in modules.items():
        path = f"lib/modules/{name}.ko"
        entries[path] = Entry(path, stat.S_IFREG | 0o644, data)
    order = "".join(f"{name}\n" for name in modules).encode()
    entries["lib/modules/order"] = Entry("lib/modules/order", stat.S_IFREG | 0o644, order)
    for file in sorted(files.rglob("*")):
        if file.is_file():
            path = file.relative_to(files).as_posix()
            executable = 0o755 if os.access(file, os.X_OK) else 0o644
            entries[path] = Entry(path, stat.S_IFREG | executable, file.read_bytes())
    parents = {parent.as_posix() for path in entries for parent in Path(path).parents} - {"."}
    places = parents | {"dev", "proc", "root", "sbin", "sys", "tmp", "usr/bin", "usr/sbin", "www"}
    places |= {"usr", "var/log", "var/run", "var"}
    directories = [Entry(path, stat.S_IFDIR | 0o755) for path in sorted(places)]
    return [*directories, *entries.values()]


# ---------------------------------------------------------------------------------- kernel modules


def closure(names: Iterable[str], directory: Path) -> dict[str, bytes]:
    """Return kernel modules and all modules that they need, in the order of loading.

    Args:
        names: The modules that are wanted. One that is part of the kernel is left out.
        directory: The kernel's directory of modules, such as `/lib/modules/6.1.0-57-cloud-amd64`.

    Raises:
        BuildError: A module, or one that it needs, is missing.
    """
    files = {_module_name(file): file for file in directory.rglob("*.ko*")}
    listed = directory / "modules.builtin"
    built_in = {
        _module_name(Path(line))
        for line in (listed.read_text().splitlines() if listed.exists() else ())
    }
    found: dict[str, bytes] = {}

    def add(name: str) -> None:
        if name in found or name in built_in:
            return
        if name not in files:
            raise BuildError(f"the kernel in {directory} has no module {name}")
        data = _uncompressed(files[name])
        for needed in _needs(data):
            add(needed)
        found[name] = data

    for name in names:
        add(name)
    return found


def _module_name(file: Path) -> str:
    return file.name.partition(".ko")[0].replace("-", "_")


def _uncompressed(file: Path) -> bytes:
    data = file.read_bytes()
    match file.suffix:
        case ".xz":
            return lzma.decompress(data)
        case ".gz":
            return gzip.decompress(data)
        case ".ko":
            return data
    raise BuildError(f"{file} is compressed in a way that this script does not read")


def _needs(module: bytes) -> list[str]:
    """Return what a module depends on, as its section `.modinfo` lists it."""
    match = re.search(rb"\0depends=([^\0]*)\0", module)
    return match[1].decode().replace("-", "_").split(",") if match and match[1] else []


# ------------------------------------------------------------------------------------ the packages


class Kernel(NamedTuple):
    """A kernel, and the directory of its modules."""

    image: Path
    modules: Path


def missing_packages(path: str | None = None, busybox: Path = BUSYBOX) -> list[str]:
    """Return the names of Debian's packages that must be installed first, as root.

    Args:
        path: Where programs are found, by default PATH.
        busybox: Where the static busybox is.
    """
    missing = []
    if shutil.which("qemu-system-x86_64", path=path) is None:
        missing.append("qemu-system-x86")
    try:
        read_busybox(busybox)
    except BuildError:
        missing.append("busybox-static")
    return missing


def find_kernel(
    output: Path, *, boot: Path = Path("/boot"), root: Path = Path("/"), download: bool = True
) -> Kernel:
    """Find Debian's cloud kernel: the installed one, or one that was downloaded, or download it.

    Args:
        output: Where a downloaded kernel is.
        boot: Where installed kernels are.
        root: Below which their modules are.
        download: Download one if there is none.

    Raises:
        BuildError: There is none, and it cannot be downloaded.
    """
    unpacked = output / "kernel"
    for images, top in ((boot, root), (unpacked / "boot", unpacked)):
        kernel = _newest(images, top)
        if kernel is not None:
            return kernel
    if download:
        _download(output, unpacked)
    kernel = _newest(unpacked / "boot", unpacked)
    if kernel is None and not download:
        raise BuildError(f"there is no kernel: {_KERNEL_HINT}")
    if kernel is None:
        raise BuildError(f"the package has no kernel: see {unpacked}")
    return kernel


def _newest(images: Path, top: Path) -> Kernel | None:
    def version(image: Path) -> list[int]:
        return [int(number) for number in re.findall(r"\d+", image.name)]

    for image in sorted(images.glob("vmlinuz-*-cloud-amd64"), key=version, reverse=True):
        release = image.name.removeprefix("vmlinuz-")
        for modules in (top / "usr/lib/modules" / release, top / "lib/modules" / release):
            if modules.is_dir() and os.access(image, os.R_OK):
                return Kernel(image, modules)
    return None


def _download(output: Path, unpacked: Path) -> None:
    hint = _KERNEL_HINT
    if shutil.which("apt-get") is None:
        raise BuildError(f"there is no apt-get here; {hint}")
    packages = output / "packages"
    packages.mkdir(parents=True, exist_ok=True)
    print("downloading Debian's kernel (about 30 MB)", file=sys.stderr)
    try:
        depends = _output_of("apt-cache", "depends", "linux-image-cloud-amd64")
        names = re.findall(r"Depends: (linux-image-\S+)", depends)
        if not names:
            raise BuildError(f"apt knows no package linux-image-cloud-amd64; {hint}")
        _output_of("apt-get", "download", names[0], cwd=packages)
        for package in packages.glob(f"{names[0]}_*.deb"):
            _output_of("dpkg-deb", "--extract", str(package), str(unpacked))
    except (OSError, subprocess.CalledProcessError) as exc:
        why = getattr(exc, "stderr", "") or str(exc)
        raise BuildError(f"cannot download the kernel: {why.strip()}; {hint}") from None


def _output_of(*command: str, cwd: Path | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True)
    return done.stdout


def read_busybox(path: Path = BUSYBOX) -> bytes:
    """Read the static busybox.

    Raises:
        BuildError: It is missing, or needs libraries.
    """
    hint = "install the package busybox-static: sudo apt-get install busybox-static"
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise BuildError(f"{path}: {exc.strerror}; {hint}") from None
    if data[:4] != b"\x7fELF" or _INTERPRETER in _program_headers(data):
        raise BuildError(f"{path} is not a static program; {hint}")
    return data


def _program_headers(elf: bytes) -> Iterator[int]:
    """Yield the types of the program headers of a 64-bit ELF file."""
    (offset,) = struct.unpack_from("<Q", elf, 32)
    size, count = struct.unpack_from("<HH", elf, 54)
    for number in range(count):
        yield struct.unpack_from("<I", elf, offset + number * size)[0]


# ----------------------------------------------------------------------------------------- program


def build(output: Path = OUTPUT, *, busybox: Path = BUSYBOX, kernel: Kernel | None = None) -> None:
    """Build the kernel and the initramfs, and an empty disk if there is none.

    Args:
        output: Where to.
        busybox: The static busybox.
        kernel: The kernel; by default the one that `find_kernel` finds.

    Raises:
        BuildError: A package is missing.
    """
    output.mkdir(parents=True, exist_ok=True)
    program = read_busybox(busybox)
    kernel = kernel or find_kernel(output)
    initramfs = archive(rootfs(program, closure(MODULES, kernel.modules)))
    _replace(output / "vmlinuz", kernel.image.read_bytes())
    _replace(output / "initramfs.gz", gzip.compress(initramfs, 6, mtime=0))
    disk = output / "disk.img"
    if not disk.exists():
        _replace(disk, bytes(DISK_SIZE))


def _replace(path: Path, data: bytes) -> None:
    if not path.exists() or path.read_bytes() != data:
        part = path.with_name(f"{path.name}.part")
        part.write_bytes(data)
        part.replace(path)


def main() -> None:
    """Build the board, and print where it is."""
    parser = argparse.ArgumentParser(description="Build the virtual board. Needs no root.")
    parser.add_argument("--output", type=Path, default=OUTPUT, help=f"default: {OUTPUT}")
    arguments = parser.parse_args()
    if missing := " ".join(missing_packages()):
        text = "the virtual board needs packages that are not installed; as root, run\n\n"
        sys.exit(f"{text}    apt-get install --no-install-recommends {missing}\n")
    try:
        build(arguments.output)
    except BuildError as exc:
        sys.exit(f"{exc}")
    print(f"the board is in {arguments.output}")


if __name__ == "__main__":
    main()
