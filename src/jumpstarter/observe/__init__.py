"""See what an exporter does: a log in JSON for programs, metrics, and a page with the status.

`Metrics` counts calls, and `serve_metrics` shows the counts to a program such as Prometheus.
`serve_status` shows people what goes on. Both need the extra `metrics`.
"""

from __future__ import annotations

from .._exporter.metrics import Metrics, Reading
from ._json import JsonFormatter
from ._serving import serve_metrics, serve_status

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["JsonFormatter", "Metrics", "Reading", "serve_metrics", "serve_status"]
