"""The status page, and what browsers are told about it."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path
from typing import Final

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["page", "page_policy"]

_PAGE: Final = Path(__file__).with_name("status.html")


def page() -> bytes:
    """Return the page. It has no data of the exporter."""
    return _PAGE.read_bytes()


def page_policy(body: bytes) -> dict[str, str]:
    """Return the headers that let a browser run the page's own script and style, and no others."""
    policy = [
        "default-src 'none'",
        f"script-src {_hash(body, b'script')}",
        f"style-src {_hash(body, b'style')}",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
    return {
        "Content-Security-Policy": "; ".join(policy),
        "Referrer-Policy": "no-referrer",
    }


def _hash(body: bytes, tag: bytes) -> str:
    """Return the source expression for the only element of a kind."""
    [content] = re.findall(rb"<%b>(.*?)</%b>" % (tag, tag), body, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(content).digest()).decode()}'"
