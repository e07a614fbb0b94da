"""The parts of prometheus_client that uProxy uses, imported without the rest of the package.

prometheus_client only renders; the counting is our own, because its counters take a lock for
each increment, and ours are changed by one thread only.
Importing the package itself would load an HTTP server, wsgiref and ssl, which cost 2.3 MiB in
every process and are never used.  So its submodules are imported while an empty module stands
in for the package.  The proxy imports prometheus_client only here.
"""

from __future__ import annotations

# ruff: noqa: E402  the empty module must be there before the submodules are imported
import importlib.util
import sys

_stand_in = "prometheus_client" not in sys.modules
if _stand_in:
    _spec = importlib.util.find_spec("prometheus_client")
    if _spec is None:
        raise ImportError("prometheus-client isn't installed")
    sys.modules["prometheus_client"] = importlib.util.module_from_spec(_spec)

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

if _stand_in:
    # a later import of the package, in a test for instance, gets the real one
    del sys.modules["prometheus_client"]

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
