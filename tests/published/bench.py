"""A tree of published drivers for `real_use.py`, as an exporter's module builds one."""

from __future__ import annotations

import os

from jumpstarter_driver_composite.driver import Composite
from jumpstarter_driver_network.driver import TcpNetwork
from jumpstarter_driver_opendal.driver import Opendal
from jumpstarter_driver_pyserial.driver import PySerial
from jumpstarter_driver_ssh.driver import SSHWrapper

tree = Composite(
    children={
        "console": PySerial(url=os.environ["CONSOLE"], baudrate=115200),
        "files": Opendal(scheme="fs", kwargs={"root": os.environ["DIRECTORY"]}),
        "web": TcpNetwork(host="127.0.0.1", port=int(os.environ["WEB_PORT"])),
        "ssh": SSHWrapper(
            default_username=os.environ["SSH_USER"],
            ssh_identity_file=os.environ["SSH_KEY"],
            children={"tcp": TcpNetwork(host="127.0.0.1", port=int(os.environ["SSH_PORT"]))},
        ),
    }
)
