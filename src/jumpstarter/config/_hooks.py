"""The parts of an exporter's configuration that say what happens around a session."""

from __future__ import annotations

from typing import Literal

from .._util.extras import requires_extra
from .common import StrictModel

with requires_extra("cli", "jumpstarter.config"):
    from pydantic import Field

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = [
    "FailureDetectionConfigV1Alpha1",
    "HookConfigV1Alpha1",
    "HookInstanceConfigV1Alpha1",
]


class HookInstanceConfigV1Alpha1(StrictModel):
    """A script that runs when a session begins or ends.

    Attributes:
        exec_: The program that runs the script, by default `/bin/sh`. In YAML it is `exec`.
        script: The text of the script, or the path of a file with it.
        timeout: Seconds that it may take. By default 120, which is enough to boot a board.
        on_failure: What happens if it fails or takes too long: `warn` continues, `endLease` ends
            the session, and `exit` ends the exporter too. In YAML it is `onFailure`.
    """

    exec_: str | None = Field(default=None, alias="exec", min_length=1)
    script: str
    timeout: int = Field(default=120, gt=0, le=7 * 24 * 3600)
    on_failure: Literal["warn", "endLease", "exit"] = Field(default="warn", alias="onFailure")


class HookConfigV1Alpha1(StrictModel):
    """The commands that run around a session.

    Attributes:
        before_lease: Runs when a session begins, before its client can call a driver. In YAML it is
            `beforeLease`.
        after_lease: Runs when a session has ended. In YAML it is `afterLease`.
    """

    before_lease: HookInstanceConfigV1Alpha1 | None = Field(default=None, alias="beforeLease")
    after_lease: HookInstanceConfigV1Alpha1 | None = Field(default=None, alias="afterLease")


class FailureDetectionConfigV1Alpha1(StrictModel):
    """When the published package stops restarting an exporter; not used here.

    Attributes:
        max_rapid_failures: After how many failures. In YAML it is `maxRapidFailures`.
        rapid_failure_window: Within how many seconds. In YAML it is `rapidFailureWindow`.
    """

    max_rapid_failures: int = Field(default=5, alias="maxRapidFailures")
    rapid_failure_window: int = Field(default=60, alias="rapidFailureWindow")
