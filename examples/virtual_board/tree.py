"""The virtual board as a tree of drivers; `exporter.yaml` has the same in YAML.

jumpstarter serve examples.virtual_board.tree:tree --address unix:/tmp/board.sock
"""

from __future__ import annotations

from pathlib import Path

from jumpstarter.driver import Driver
from jumpstarter.drivers.composite import Composite
from jumpstarter.drivers.console import RecordedConsole
from jumpstarter.drivers.network import TcpNetwork
from jumpstarter.drivers.process import Process, ProcessPower
from jumpstarter.drivers.qmp import Qmp
from jumpstarter.drivers.storage import FileStorage

__all__ = ["qemu", "tree"]


def qemu(directory: str, port: int) -> list[str]:
    """Return the command that runs the board.

    Args:
        directory: Where `build.py` has put the board.
        port: A TCP port of this machine, which leads to the board's port 80.
    """
    return [
        "qemu-system-x86_64",
        "-nodefaults",
        *("-machine", "pc"),
        *("-m", "256"),
        *("-display", "none"),
        *("-device", "VGA"),
        *("-kernel", f"{directory}/vmlinuz"),
        *("-initrd", f"{directory}/initramfs.gz"),
        *("-append", "console=tty0 console=ttyS0,115200 quiet no_timer_check panic=-1"),
        *("-drive", f"file={directory}/disk.img,format=raw,if=virtio"),
        *("-nic", f"user,model=virtio-net-pci,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:80"),
        # The board starts when the console's recorder has connected, so nothing is lost.
        *("-chardev", f"socket,id=console,path={directory}/console.sock,server=on,wait=on"),
        *("-serial", "chardev:console"),
        *("-qmp", f"unix:{directory}/qmp.sock,server=on,wait=off"),
    ]


def tree(directory: str | Path = "build/virtual_board", port: int = 8080) -> Driver:
    """Return the board.

    Args:
        directory: Where `build.py` has put the board.
        port: A free TCP port of this machine.
    """
    emulator = Process(command=qemu(str(directory), port), ready_socket=f"{directory}/qmp.sock")
    return Composite(
        description="A Linux board that is a process",
        children={
            "power": ProcessPower(children={"process": emulator}),
            "console": RecordedConsole(source=f"unix:{directory}/console.sock"),
            "disk": FileStorage(path=f"{directory}/disk.img", max_bytes=64 * 1024 * 1024),
            "web": TcpNetwork(host="127.0.0.1", port=port),
            "machine": Qmp(path=f"{directory}/qmp.sock"),
        },
    )
