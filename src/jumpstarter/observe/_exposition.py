"""Put what was counted into the format of OpenMetrics, by prometheus_client."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from .._exporter.metrics import Distribution, MethodSeries, Metrics, Reading, Snapshot
from .._util.extras import requires_extra

with requires_extra("metrics", "an exporter's metrics"):
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
        Metric,
    )
    from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST, generate_latest
    from prometheus_client.registry import Collector
    from prometheus_client.utils import floatToGoString

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["CONTENT_TYPE", "exposition"]

CONTENT_TYPE: str = CONTENT_TYPE_LATEST
_PREFIX = "jumpstarter_"
_METHOD = ("driver", "method")

_Methods = Mapping[tuple[str, str], MethodSeries]


class _MetricsCollector(Collector):
    """Give what a `Metrics` has counted to a registry of prometheus_client.

    Args:
        metrics: What has counted it.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        """Yield each metric with its values now."""
        now = self._metrics.snapshot()
        yield from _calls(now.methods)
        yield from _streams(now.methods)
        yield from _exporter(now)
        yield from _readings(now.readings)


def exposition(metrics: Metrics) -> bytes:
    """Return what was counted, as a text in the format OpenMetrics 1.0. In any thread."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_MetricsCollector(metrics))
    text: bytes = generate_latest(registry)
    return text


def _calls(methods: _Methods) -> Iterator[Metric]:
    text = "Calls that have ended, by outcome"
    calls = CounterMetricFamily(f"{_PREFIX}calls", text, labels=[*_METHOD, "outcome"])
    text = "Time from a call's arrival to its end"
    seconds = HistogramMetricFamily(f"{_PREFIX}call_seconds", text, labels=_METHOD)
    running = GaugeMetricFamily(f"{_PREFIX}running_calls", "Calls that run now", labels=_METHOD)
    for key, series in methods.items():
        names = _names(key)
        for outcome, count in series.outcomes.items():
            calls.add_metric([*names, outcome], count)
        seconds.add_metric(names, _buckets(series.seconds), series.seconds.total)
        running.add_metric(names, series.running)
    yield from (calls, seconds, running)


def _streams(methods: _Methods) -> Iterator[Metric]:
    text = "Bytes of raw streams"
    sizes = CounterMetricFamily(f"{_PREFIX}stream_bytes", text, labels=[*_METHOD, "direction"])
    streams = GaugeMetricFamily(
        f"{_PREFIX}open_streams", "Raw streams that are open", labels=_METHOD
    )
    for key, series in methods.items():
        names = _names(key)
        if series.is_stream:
            sizes.add_metric([*names, "to_device"], series.to_device)
            sizes.add_metric([*names, "from_device"], series.from_device)
            streams.add_metric(names, series.open_streams)
    yield from (sizes, streams)


def _exporter(now: Snapshot) -> Iterator[Metric]:
    text = "Calls of drivers or methods that do not exist"
    yield CounterMetricFamily(f"{_PREFIX}unknown_calls", text, value=now.unknown)
    yield CounterMetricFamily(f"{_PREFIX}sessions", "Clients that have connected", now.sessions)
    text = "Clients that are connected"
    yield GaugeMetricFamily(f"{_PREFIX}open_sessions", text, value=now.open_sessions)
    delay = HistogramMetricFamily(
        f"{_PREFIX}loop_delay_seconds",
        "How late the event loop has run a task, measured four times a second",
    )
    delay.add_metric([], _buckets(now.delay), now.delay.total)
    yield delay


def _readings(readings: Iterable[Reading]) -> Iterator[Metric]:
    """Yield a metric for each name: several sources may have values for one."""
    found: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
    for each in readings:
        if each.name not in found:
            family = CounterMetricFamily if each.kind == "counter" else GaugeMetricFamily
            found[each.name] = family(_PREFIX + each.name, each.text, labels=each.labels)
        for key, value in each.values.items():
            found[each.name].add_metric(_names(key), value)
    yield from found.values()


def _buckets(distribution: Distribution) -> list[tuple[str, float]]:
    return [(floatToGoString(bound), count) for bound, count in distribution.buckets()]


def _names(key: Iterable[str]) -> list[str]:
    """Return values for labels, with lone surrogates escaped: they would spoil the whole answer."""
    return [name.encode(errors="backslashreplace").decode() for name in key]
