"""The names of the environment variables that a published shell sets for its programs."""

from __future__ import annotations

from typing import Final

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = [
    "JMP_CLAIM",
    "JMP_CLIENT_CONFIG_HOME",
    "JMP_DRIVERS_ALLOW",
    "JMP_EXPORTER",
    "JMP_EXPORTER_LABELS",
    "JMP_GRPC_INSECURE",
    "JMP_GRPC_PASSPHRASE",
    "JMP_LEASE",
    "JMP_NO_CLAIM",
    "JMP_NO_WAIT",
    "JMP_SESSION",
    "JMP_TLS_CA",
    "JMP_TLS_CERT",
    "JMP_TLS_KEY",
    "JUMPSTARTER_GRPC_INSECURE",
    "JUMPSTARTER_HOST",
]

JMP_CLAIM: Final = "JMP_CLAIM"  # this and three more, for exclusive use, are of this library only
JMP_CLIENT_CONFIG_HOME: Final = "JMP_CLIENT_CONFIG_HOME"
JMP_DRIVERS_ALLOW: Final = "JMP_DRIVERS_ALLOW"
JMP_EXPORTER: Final = "JMP_EXPORTER"
JMP_EXPORTER_LABELS: Final = "JMP_EXPORTER_LABELS"
JMP_GRPC_INSECURE: Final = "JMP_GRPC_INSECURE"
JMP_GRPC_PASSPHRASE: Final = "JMP_GRPC_PASSPHRASE"  # noqa: S105 - a name, not a secret
JMP_LEASE: Final = "JMP_LEASE"
JMP_NO_CLAIM: Final = "JMP_NO_CLAIM"  # these three too
JMP_NO_WAIT: Final = "JMP_NO_WAIT"
JMP_SESSION: Final = "JMP_SESSION"
JMP_TLS_CA: Final = "JMP_TLS_CA"  # these three too
JMP_TLS_CERT: Final = "JMP_TLS_CERT"
JMP_TLS_KEY: Final = "JMP_TLS_KEY"
JUMPSTARTER_GRPC_INSECURE: Final = "JUMPSTARTER_GRPC_INSECURE"
JUMPSTARTER_HOST: Final = "JUMPSTARTER_HOST"
