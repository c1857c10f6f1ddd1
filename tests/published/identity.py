"""The id of a test, which does not depend on where its package is installed."""

from __future__ import annotations

from typing import Final

__all__ = ["PREFIX", "identity"]

PREFIX: Final = "jumpstarter_driver_"


def identity(package: str, node: str) -> str:
    """Return the id of a test of a package: `power::client_test::test_log_stream`.

    Args:
        package: The short name of the package.
        node: pytest's id: the path of the module from anywhere, its class if any, the test. A
            module alone has an id too.
    """
    name, bracket, parameters = node.partition("[")
    path, *names = name.split("::")
    module = path.rpartition(f"{PREFIX}{package}/")[2].removesuffix(".py").replace("/", ".")
    test = [names.pop() + bracket + parameters] if names else []
    return "::".join([package, ".".join([module, *names]), *test])
