"""The words of the command line for what the library's errors call by Python's arguments."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["OPTIONS", "VARIABLES"]

# In the words of `_util.wording.worded`: a test compares the phrases with its uses.
OPTIONS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "is it the one in token=": "is it the one in --token-file (or JMP_GRPC_PASSPHRASE)",
        "trust its authority in the ssl_context": "name its authority by --tls-ca (or JMP_TLS_CA)",
        "an ssl_context is for tls://": "--tls-ca, --tls-cert and --tls-key are for tls://",
        "load one that it trusts into the ssl_context, with load_cert_chain()": (
            "give one that it trusts, by --tls-cert and --tls-key"
        ),
        "or insecure=True if that network is trusted": ("or --insecure if that network is trusted"),
        ", or with a longer limits=Limits(start_timeout=...)": "",
        "connect with allow=[{}]": "give --allow {}, or name it in JMP_DRIVERS_ALLOW",
        "exclusive=": "--exclusive (or exclusive: of the configuration)",
        "users= needs": "--allow-user needs",
    }
)

# For `j`, which has no options of its own: a shell passes its own on in these variables.
VARIABLES: Final[Mapping[str, str]] = MappingProxyType(
    {
        **OPTIONS,
        "is it the one in token=": "is it the one in JMP_GRPC_PASSPHRASE",
        "trust its authority in the ssl_context": "name its authority in JMP_TLS_CA",
        "load one that it trusts into the ssl_context, with load_cert_chain()": (
            "name one that it trusts in JMP_TLS_CERT, and its key in JMP_TLS_KEY"
        ),
        "connect with allow=[{}]": (
            "start the shell with --allow {}, or add it to JMP_DRIVERS_ALLOW"
        ),
    }
)
