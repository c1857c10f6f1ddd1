"""See what an exporter does: a log in JSON for programs, and metrics.

`Metrics` counts calls, and `serve_metrics` shows the counts to a program such as Prometheus, which
needs the extra `metrics`.
"""

from __future__ import annotations

from .._exporter.metrics import Metrics, Reading
from ._json import JsonFormatter
from ._serving import serve_metrics

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["JsonFormatter", "Metrics", "Reading", "serve_metrics"]
