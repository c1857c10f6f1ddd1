"""The words of pytest's options for what the library's errors call by Python's arguments."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["OPTIONS"]

# In the words of `_util.wording.worded`: a test compares the phrases with its uses.
OPTIONS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "is it the one in token=": "is it the one in --jumpstarter-token-file",
        "trust its authority in the ssl_context": "name its authority by --jumpstarter-tls-ca",
        "load one that it trusts into the ssl_context, with load_cert_chain()": (
            "give one that it trusts, by --jumpstarter-tls-cert and --jumpstarter-tls-key"
        ),
        "connect with allow=[{}]": "give --jumpstarter-allow {}",
    }
)
