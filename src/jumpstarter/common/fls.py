"""Find the program `fls`, which flashes images from OCI registries.

The published package downloads it. This library downloads no programs: it finds the one that is
installed, and otherwise says what to install.
"""

from __future__ import annotations

import logging
import platform
import shutil
from typing import Final, NoReturn

from ..errors import ConfigurationError

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["FlsError", "download_fls", "get_fls_binary", "get_fls_github_url"]

_RELEASES: Final = "https://github.com/jumpstarter-dev/fls/releases"
_ASSETS: Final = {"x86_64": "fls-x86_64-linux", "amd64": "fls-x86_64-linux"}
_OTHER_ASSET: Final = "fls-aarch64-linux-musl"

_logger: Final = logging.getLogger(__name__)


class FlsError(ConfigurationError, RuntimeError):
    """The program `fls` is not installed, or a download of it was requested."""


def get_fls_github_url(version: str, arch: str | None = None) -> str:
    """Return the URL of a release of `fls`, which devices download themselves.

    Args:
        version: The version, such as `"0.1.9"`.
        arch: The architecture of the machine that will run it; by default, of this one.

    Returns:
        The URL of the build for x86-64 or else for 64-bit ARM.
    """
    asset = _ASSETS.get((arch or platform.machine()).lower(), _OTHER_ASSET)
    return f"{_RELEASES}/download/{version}/{asset}"


def get_fls_binary(
    fls_version: str | None = None,
    fls_binary_url: str | None = None,
    allow_custom_binaries: bool = False,  # noqa: FBT001, FBT002, RUF100 - published callers
) -> str:
    """Return the path of the installed `fls`.

    Args:
        fls_version: The version that the configuration asks for. Another one may be installed: a
            warning says so.
        fls_binary_url: Where the configuration would have it downloaded from.
        allow_custom_binaries: Whether the configuration permits that.

    Raises:
        FlsError: `fls` is not on PATH; the message says what to install. Or a URL was given
            without the permission. It is a RuntimeError.
    """
    if fls_binary_url and not allow_custom_binaries:
        raise FlsError(
            "Custom FLS binary URLs are disabled for security: install the program, and remove "
            "fls_binary_url from the driver's configuration"
        )
    source = fls_binary_url or (fls_version and get_fls_github_url(fls_version))
    found = shutil.which("fls")
    if found is None:
        _refuse(source or f"{_RELEASES} (the file {_asset()})")
    if source:
        _logger.warning(
            "using the installed %s; its version is not checked, and nothing is downloaded from %s",
            found,
            source,
        )
    return found


def download_fls(url: str, timeout: float = 30.0) -> str:  # noqa: ARG001 - published signature
    """Refuse to download `fls`: this library downloads no programs.

    Args:
        url: Where the program is.
        timeout: Ignored.

    Raises:
        FlsError: Always. The message says what to install. It is a RuntimeError.
    """
    _refuse(url)


def _asset() -> str:
    return _ASSETS.get(platform.machine().lower(), _OTHER_ASSET)


def _refuse(source: str) -> NoReturn:
    raise FlsError(
        "the program fls is needed on the exporter, and this library does not download it: "
        f"download it from {source}, make it executable, and put it on PATH as `fls`"
    )
