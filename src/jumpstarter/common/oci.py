"""Find the credentials for an OCI registry, as podman and docker do.

They come from arguments, from the environment (`OCI_USERNAME` and `OCI_PASSWORD`), or from the
files that `podman login` and `docker login` write. This module needs the extra `compat`.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Final
from urllib.parse import urlsplit

from .._util.extras import requires_extra

with requires_extra("compat", "jumpstarter.common.oci"):
    from pydantic import BaseModel, ConfigDict, SecretStr, field_validator, model_validator

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = [
    "OciCredentials",
    "parse_oci_registry",
    "read_auth_file_credentials",
    "resolve_oci_credentials",
]

_BOTH: Final = "OCI authentication requires both username and password"
_DOCKER_HUB: Final = "docker.io"
_HUB_NAMES: Final = {
    _DOCKER_HUB,
    "index.docker.io",
    "registry-1.docker.io",
    "registry.hub.docker.com",
}

_logger: Final = logging.getLogger(__name__)


class OciCredentials(BaseModel):
    """A user name and a password, or neither. Immutable; blanks around them are removed.

    Attributes:
        username: The name; None without authentication.
        password: The password, which `repr` hides.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True)

    username: str | None = None
    password: SecretStr | None = None

    @field_validator("username", "password", mode="before")
    @classmethod
    def _strip(cls, value: Any) -> Any:
        if isinstance(value, SecretStr):
            value = value.get_secret_value()
        return (value.strip() or None) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check_both(self) -> OciCredentials:
        if (self.username is None) != (self.password is None):
            raise ValueError(_BOTH)
        return self

    @property
    def plain_password(self) -> str | None:
        """The password as text."""
        return None if self.password is None else self.password.get_secret_value()

    @property
    def is_authenticated(self) -> bool:
        """Whether there is a user name with a password."""
        return self.username is not None and self.password is not None


def resolve_oci_credentials(
    oci_url: str, username: str | None = None, password: str | None = None
) -> OciCredentials:
    """Return the credentials for an image.

    Args:
        oci_url: The image, such as `oci://quay.io/org/image:tag`.
        username: The user name; it takes precedence, together with `password`.
        password: The password.

    Returns:
        Those of the arguments, of the environment or of a file, in this order; both None if nothing
        was found. An environment with only one of the two is ignored, with a warning.

    Raises:
        ValueError: Only one of `username` and `password` was given.
    """
    given = _pair(username, password)
    if given is None:
        raise ValueError(_BOTH)
    if given.is_authenticated:
        return given
    found = _pair(os.environ.get("OCI_USERNAME"), os.environ.get("OCI_PASSWORD"))
    if found is None:
        _logger.warning("only one of OCI_USERNAME and OCI_PASSWORD is set, so both are ignored")
    elif found.is_authenticated:
        _logger.info("using the registry's credentials of OCI_USERNAME and OCI_PASSWORD")
        return found
    return read_auth_file_credentials(oci_url)


def read_auth_file_credentials(oci_url: str) -> OciCredentials:
    """Return the credentials that `podman login` or `docker login` has stored for an image.

    An image without a registry, such as `ubuntu`, is looked up in each registry that podman would
    search for it.

    Args:
        oci_url: The image.

    Returns:
        The first match; both None if there is none. Files that cannot be read are skipped.
    """
    for registry in _registries_for(oci_url):
        for path in _auth_files():
            found = _stored(path, _normalized(registry))
            if found is not None:
                _logger.info("using the credentials for %s in %s", registry, path)
                return found
    return OciCredentials()


def parse_oci_registry(oci_url: str) -> str:
    """Return the registry of an image, with its port.

    Args:
        oci_url: The image, with or without `oci://`.

    Returns:
        The registry. For an image without one, the first that podman would search: `docker.io`,
        unless its `registries.conf` names others.
    """
    return _registries_for(oci_url)[0]


def _pair(username: str | None, password: str | None) -> OciCredentials | None:
    try:
        return OciCredentials(username=username, password=password)  # type: ignore[arg-type]
    except ValueError:
        return None


def _registries_for(oci_url: str) -> list[str]:
    image = re.sub(r"@sha\d+:[0-9a-fA-F]+$", "", oci_url.removeprefix("oci://"))
    first, slash, _ = image.partition("/")
    host, colon, port = first.partition(":")
    has_port = bool(colon) and port.isdigit()
    if slash:
        is_registry = "." in host or host == "localhost" or has_port
    else:  # `ubuntu:22.04` is an image with a tag, and `localhost:5000` a registry
        is_registry = has_port or (not colon and ("." in host or host == "localhost"))
    return [first] if is_registry else _searched_registries()


def _searched_registries() -> list[str]:
    for path in (
        Path.home() / ".config/containers/registries.conf",
        Path("/etc/containers/registries.conf"),
        Path("/usr/share/containers/registries.conf"),
    ):
        try:
            names = tomllib.loads(path.read_text()).get("unqualified-search-registries", [])
        except (OSError, ValueError):
            continue
        found = [name for name in names if isinstance(name, str) and name.strip()]
        if found:
            return found
    return [_DOCKER_HUB]


def _auth_files() -> Iterator[Path]:
    """Yield the files to search, in the order of podman and docker."""
    if given := os.environ.get("REGISTRY_AUTH_FILE"):
        yield Path(given)
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        yield Path(runtime, "containers/auth.json")
    yield Path.home() / ".config/containers/auth.json"
    if docker := os.environ.get("DOCKER_CONFIG"):
        yield Path(docker, "config.json")
    yield Path.home() / ".docker/config.json"


def _stored(path: Path, registry: str) -> OciCredentials | None:
    try:
        entries = json.loads(path.read_text())["auths"]
        matching = [value for key, value in entries.items() if _normalized(key) == registry]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
        _logger.debug("skipping %s: %s", path, exc)
        return None
    for entry in matching:
        for found in _credentials_of(entry, path):
            if found is not None and found.is_authenticated:
                return found
    return None


def _credentials_of(entry: Any, path: Path) -> Iterator[OciCredentials | None]:
    if not isinstance(entry, dict):
        return
    if encoded := entry.get("auth"):  # base64 of `username:password`
        try:
            text = base64.b64decode(encoded, validate=True).decode()
            username, _, password = text.partition(":")
            yield _pair(username, password)
        except (ValueError, TypeError):
            _logger.warning("an entry of %s cannot be decoded, and is ignored", path)
    yield _pair(entry.get("username"), entry.get("password"))


def _normalized(registry: str) -> str:
    if "://" in registry:
        registry = urlsplit(registry).netloc
    registry = registry.partition("/")[0]
    return _DOCKER_HUB if registry.partition(":")[0] in _HUB_NAMES else registry
