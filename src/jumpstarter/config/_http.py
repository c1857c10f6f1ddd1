"""The parts of an exporter's configuration about its metrics and its status page."""

from __future__ import annotations

from pathlib import Path

from .._util.extras import requires_extra
from .common import StrictModel

with requires_extra("cli", "jumpstarter.config"):
    from pydantic import Field, field_validator

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["HttpConfigV1Alpha1"]


class HttpConfigV1Alpha1(StrictModel):
    """Where an exporter serves its metrics, or its status page.

    Attributes:
        address: `PORT` or `HOST:PORT`, with `https://` in front for TLS.
        token_file: A file with the secret that a request must show. In YAML it is `tokenFile`.
    """

    address: str
    token_file: Path | None = Field(default=None, alias="tokenFile")

    @field_validator("address", mode="before")
    @classmethod
    def _take_a_port(cls, value: object) -> object:
        """Accept a port as YAML reads it."""
        return str(value) if type(value) is int else value
