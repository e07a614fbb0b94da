"""The parts of prometheus_client that uProxy uses, without the parts it doesn't.

It renders; the numbers are our own, because its counters take a lock for every step and all
of ours move on one thread.
The package's own __init__ imports an HTTP server, wsgiref and ssl: 2.3 MiB in every process,
for nobody.  So its submodules are imported while a stand-in that was never run holds the
package's place.  Nothing else imports prometheus_client in the proxy.
"""

from __future__ import annotations

# ruff: noqa: E402  the stand-in comes before the imports that need it
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
    # whoever else wants the package, a test for one, gets the real one
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
    """Everything in `registry` in the OpenMetrics text format."""
    text: bytes = _openmetrics.generate_latest(registry)  # type: ignore[no-untyped-call]  # it has no types
    return text


def number(value: float) -> str:
    """A sample's value as both text formats write it."""
    text: str = floatToGoString(value)  # type: ignore[no-untyped-call]  # as above
    return text
