"""The parts of prometheus_client that uProxy uses, imported without the rest of the package.

prometheus_client only renders; the counting is our own, because its counters take a lock for
each increment, and ours are changed by one thread only.
Importing the package itself would load an HTTP server, wsgiref and ssl, which are never used.
The proxy imports prometheus_client only here.
"""

from __future__ import annotations

from uproxy.lean import packages

with packages.package_not_run("prometheus_client"):
    from prometheus_client.metrics_core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
        Metric,
    )
    from prometheus_client.openmetrics import exposition as _openmetrics
    from prometheus_client.process_collector import ProcessCollector
    from prometheus_client.registry import Collector, CollectorRegistry
    from prometheus_client.utils import floatToGoString

__all__ = [
    "Collector",
    "CollectorRegistry",
    "CounterMetricFamily",
    "GaugeMetricFamily",
    "HistogramMetricFamily",
    "Metric",
    "ProcessCollector",
    "number",
    "openmetrics",
]

OPENMETRICS_CONTENT_TYPE = _openmetrics.CONTENT_TYPE_LATEST


def openmetrics(registry: CollectorRegistry) -> bytes:
    """Return everything in `registry` in the OpenMetrics text format."""
    text: bytes = _openmetrics.generate_latest(registry)  # type: ignore[no-untyped-call]  # it has no types
    return text


def number(value: float) -> str:
    """Return a sample's value as both text formats write it."""
    text: str = floatToGoString(value)  # type: ignore[no-untyped-call]  # as above
    return text
