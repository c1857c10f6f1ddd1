"""Check the arguments that `connect` and `serve` have in common.

`connect` must not import what only an exporter needs.
"""

from __future__ import annotations

import ssl

from .._limits import Limits
from .._util.checks import check_instance, check_secret

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["check_access"]


def check_access(limits: object, token: object, context: object) -> str:
    """Check the arguments that both sides take.

    Returns:
        The secret; empty for none.

    Raises:
        ArgumentError: One of them cannot be used.
    """
    check_instance("limits", limits, Limits, "a jumpstarter.Limits")
    if context is not None:
        accepted = "an ssl.SSLContext, as ssl.create_default_context() makes one, or None"
        check_instance("ssl_context", context, ssl.SSLContext, accepted)
    return check_secret("token", token, "a str (decode bytes, and strip a line), or None")
