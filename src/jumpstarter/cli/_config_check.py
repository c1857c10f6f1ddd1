"""Find the faults of a configuration that `run` finds when it serves it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from ._http_setup import check_http
from ._options import HttpSetup, SetupError, read_token

if TYPE_CHECKING:  # it needs an extra
    from ..config.exporter import ExporterConfigV1Alpha1

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["serving_faults"]

_TOKEN: Final = "tokenFile"  # noqa: S105 - a key


def serving_faults(config: ExporterConfigV1Alpha1) -> Iterator[tuple[str, str]]:
    """Yield the key and the text of each fault in how a configuration is served."""
    for key in ("metrics", "status"):
        wanted = getattr(config, key)
        if wanted is not None:
            try:
                setup = HttpSetup(wanted.address, read_token(wanted.token_file, _TOKEN))
                check_http(setup, key, _TOKEN)
            except SetupError as exc:
                yield key, str(exc)
